"""Teach the base's text encoder to read, before there are pictures, as CLIP was taught before Stable Diffusion.

The state at a caption's end is trained to hold, in fixed directions, the numbers behind the words: how wide the jaw,
how old, from where the light. The UNet then finds everything that a caption says in one vector, and a person is a shift
of that vector, which is what an adapter on keys and values can learn.
"""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from w2w_lib.files.atomic import save_tensors
from w2w_lib.models.prompts import encode_prompts
from w2w_lib.people.rendered.captions import VOCABULARY
from w2w_lib.pocket.architecture import build_text_encoder, build_tokenizer
from w2w_lib.pocket.recipe import BaseRecipe
from w2w_lib.pocket.training_data import BaseData

SAID = 0.7  # a feature's "said at all" counts this much where its standardised value counts 1
IDENTIFIED = 2.0  # and this much, that the identifier is said: "sks" means nothing, but is heard whatever else is said


def what_is_said(data: BaseData, rows: Int[Tensor, " batch"], columns: Int[Tensor, " batch"]) -> Tensor:
    """Of each caption the standardised numbers behind it, 0 where unsaid; which features it names; if it says "sks"."""
    mean, std = data.numbers.mean(0), data.numbers.std(0).clamp_min(1e-6)
    said = data.said[rows, columns].float()
    values = (data.numbers[rows] - mean) / std * said.repeat_interleave(data.sizes, 1)
    identified = data.identified[rows, columns].float()[:, None]
    return torch.cat([values, SAID * (2 * said - 1), IDENTIFIED * identified], 1)


def read(states: Float[Tensor, "batch tokens width"], numbers: int) -> Float[Tensor, "batch tokens numbers"]:
    """What the states hold in the fixed directions of ``numbers`` numbers."""
    directions = torch.empty(numbers, states.shape[-1])
    torch.nn.init.orthogonal_(directions, generator=torch.Generator().manual_seed(0))
    return states @ directions.T.to(states)


def ends(tokens: Int[Tensor, "batch tokens"], tokenizer: CLIPTokenizer) -> Int[Tensor, " batch"]:
    """Where each caption ends; all later positions are padding."""
    return (tokens == tokenizer.eos_token_id).int().argmax(1).long()


def summaries(pipeline: StableDiffusionPipeline, prompts: list[str]) -> Float[Tensor, "batch 1 width"]:
    """The states at the ends of prompts."""
    ids = pipeline.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return encode_prompts(pipeline, prompts)[torch.arange(len(ids)), ends(ids, pipeline.tokenizer)][:, None]


def train_text_encoder(recipe: BaseRecipe, data: BaseData, work: Path) -> tuple[CLIPTextModel, float]:
    """The text encoder and the share of variance it reads from captions of people not trained on; kept in ``work``."""
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer(VOCABULARY)
    encoder = build_text_encoder(tokenizer, recipe.text_width, recipe.text_layers)
    kept = work / "text_encoder.safetensors"
    if not kept.exists():
        _fit(encoder, recipe, data, tokenizer)
        save_tensors(encoder.state_dict(), kept)
    encoder.load_state_dict(load_file(kept))
    encoder.requires_grad_(False).eval()
    rows = torch.arange(len(data.tokens) - data.held_out, len(data.tokens))
    with torch.no_grad():
        errors, variance = _errors(encoder, data, rows, torch.zeros_like(rows), tokenizer)
    return encoder, float(1 - errors / variance)


def _fit(encoder: CLIPTextModel, recipe: BaseRecipe, data: BaseData, tokenizer: CLIPTokenizer) -> None:
    optimizer = torch.optim.AdamW(encoder.parameters(), recipe.text_learning_rate, weight_decay=recipe.weight_decay)
    schedule = OneCycleLR(optimizer, recipe.text_learning_rate, total_steps=recipe.text_steps, pct_start=0.05)
    rng = torch.Generator().manual_seed(recipe.seed)
    bar = tqdm(range(recipe.text_steps), desc="train text encoder", unit="step", mininterval=10)
    for step in bar:
        rows = torch.randint(len(data.tokens) - data.held_out, (recipe.text_batch_size,), generator=rng)
        columns = torch.randint(data.tokens.shape[1], (recipe.text_batch_size,), generator=rng)
        optimizer.zero_grad()
        errors, variance = _errors(encoder, data, rows, columns, tokenizer)
        errors.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            bar.set_postfix(unread=f"{(errors / variance).item():.3f}", refresh=False)


def _errors(encoder, data: BaseData, rows, columns, tokenizer) -> tuple[Tensor, Tensor]:
    """Mean squared error of what is read at the captions' ends and in the padding, and the variance of the truth."""
    tokens, truth = data.tokens[rows, columns], what_is_said(data, rows, columns)
    with torch.autocast("cpu", torch.bfloat16):
        states = encoder(tokens.long()).last_hidden_state
    there = torch.arange(tokens.shape[1]) >= ends(tokens, tokenizer)[:, None]
    errors = (read(states.float(), truth.shape[1]) - truth[:, None]).square().mean(-1)
    return ((errors * there).sum(1) / there.sum(1)).mean(), truth.var(0).mean()
