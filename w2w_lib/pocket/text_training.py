"""Train the base's text encoder on captions alone, before the UNet starts; it is frozen from then on.

The state at a caption's end, its summary, is regressed along fixed directions onto the numbers behind the words: width
of the jaw, age, direction of the light. So the UNet finds everything that a caption states in one vector, and a person
is a shift of that vector, which an adapter on keys and values can learn.
"""

from pathlib import Path

import numpy as np
import pandas as pd
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
from w2w_lib.people.rendered.captions import VOCABULARY, caption_full
from w2w_lib.people.rendered.meaning import meaning
from w2w_lib.people.rendered.person import sample_person
from w2w_lib.people.rendered.view import sample_view
from w2w_lib.pocket.architecture import build_text_encoder, build_tokenizer
from w2w_lib.pocket.recipe import BaseRecipe
from w2w_lib.pocket.training_data import BaseData

MENTION_WEIGHT = 0.7  # of whether a feature is mentioned at all, where its standardised value weighs 1
IDENTIFIER_WEIGHT = 2.0  # of whether the caption contains the identifier


def caption_targets(data: BaseData, rows: Int[Tensor, " batch"], columns: Int[Tensor, " batch"]) -> Tensor:
    """Regression targets: standardised numbers (0 if not mentioned), features mentioned, identifier contained."""
    mean, std = data.numbers.mean(0), data.numbers.std(0).clamp_min(1e-6)
    mentioned = data.mentioned[rows, columns].float()
    values = (data.numbers[rows] - mean) / std * mentioned.repeat_interleave(data.sizes, 1)
    identified = data.identified[rows, columns].float()[:, None]
    return torch.cat([values, MENTION_WEIGHT * (2 * mentioned - 1), IDENTIFIER_WEIGHT * identified], 1)


def linear_readout(states: Float[Tensor, "batch tokens width"], numbers: int) -> Float[Tensor, "batch tokens numbers"]:
    """Projections of text states onto the fixed directions of ``numbers`` numbers."""
    directions = torch.empty(numbers, states.shape[-1])
    torch.nn.init.orthogonal_(directions, generator=torch.Generator().manual_seed(0))
    return states @ directions.T.to(states)


def end_positions(tokens: Int[Tensor, "batch tokens"], tokenizer: CLIPTokenizer) -> Int[Tensor, " batch"]:
    """Position of each caption's end-of-text token; all later positions are padding."""
    return (tokens == tokenizer.eos_token_id).int().argmax(1).long()


def caption_summaries(pipeline: StableDiffusionPipeline, prompts: list[str]) -> Float[Tensor, "batch 1 width"]:
    """The text state at the end of each prompt."""
    ids = pipeline.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return encode_prompts(pipeline, prompts)[torch.arange(len(ids)), end_positions(ids, pipeline.tokenizer)][:, None]


def caption_readout(pipeline: StableDiffusionPipeline, split: str, people: int) -> pd.DataFrame:
    """True values of every scalar feature of a full caption, and values read from its summary along fixed directions.

    One row for each of the split's first ``people`` people; columns ``("true", feature)`` and ``("read", feature)``,
    the latter standardised.
    """
    described = [(sample_person(split, i), sample_view(split, i, 0)) for i in range(people)]
    numbers = [meaning(*one) for one in described]
    sizes = [len(values) for values in numbers[0].values()]
    states = caption_summaries(pipeline, [caption_full(*one) for one in described])
    read = linear_readout(states, sum(sizes) + len(sizes))[:, 0]  # the numbers, then whether each was mentioned
    places = dict(zip(numbers[0], np.cumsum([0, *sizes]), strict=False))
    scalars = [name for name, values in numbers[0].items() if len(values) == 1]
    true = pd.DataFrame([{name: one[name][0] for name in scalars} for one in numbers])
    return pd.concat({"true": true, "read": pd.DataFrame({name: read[:, places[name]] for name in scalars})}, axis=1)


def train_text_encoder(recipe: BaseRecipe, data: BaseData, work: Path) -> tuple[CLIPTextModel, float]:
    """The text encoder and the share of variance it explains on captions of people not trained on; kept in ``work``."""
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
            bar.set_postfix(unexplained=f"{(errors / variance).item():.3f}", refresh=False)


def _errors(encoder, data: BaseData, rows, columns, tokenizer) -> tuple[Tensor, Tensor]:
    """Mean squared error at the captions' ends and in the padding, and the variance of the targets."""
    tokens, truth = data.tokens[rows, columns], caption_targets(data, rows, columns)
    with torch.autocast("cpu", torch.bfloat16):
        states = encoder(tokens.long()).last_hidden_state
    there = torch.arange(tokens.shape[1]) >= end_positions(tokens, tokenizer)[:, None]
    errors = (linear_readout(states.float(), truth.shape[1]) - truth[:, None]).square().mean(-1)
    return ((errors * there).sum(1) / there.sum(1)).mean(), truth.var(0).mean()
