"""Train the base's text encoder before the UNet starts; it is frozen from then on, as Stable Diffusion's was.

Or not: "joint" leaves it to the UNet's training (Rombach et al. 2022, section 3.3), whose loss it then lowers too.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from tqdm import tqdm
from transformers import CLIPTextModel

from w2w_lib.files.atomic import save_tensors
from w2w_lib.pocket.architecture import build_text_encoder
from w2w_lib.pocket.contrastive_text import SmallClip, contrastive_loss, retrieved
from w2w_lib.pocket.planted_text import planted_loss
from w2w_lib.pocket.recipe import BaseRecipe
from w2w_lib.pocket.training_data import BaseData, tokenizer_of


def train_text_encoder(recipe: BaseRecipe, data: BaseData, work: Path) -> tuple[CLIPTextModel, float]:
    """The text encoder, and how well it reads captions of people not trained on; kept in ``work``.

    It is trained, and given, on the device where ``data`` is.

    The number is the share of their pictures found by their captions ("contrastive"), or of variance explained
    ("planted"); "joint" is not trained here, and has none.
    """
    torch.manual_seed(recipe.seed)
    tokenizer = tokenizer_of(recipe.known)
    encoder, device = build_text_encoder(tokenizer, recipe.text_width, recipe.text_layers), data.tokens.device
    if recipe.text_objective == "joint":
        return encoder.to(device), float("nan")
    if recipe.text_objective == "planted":
        model, loss = encoder, planted_loss(encoder, data, tokenizer)
    else:
        model = SmallClip(encoder, data.latents.shape[1], data.latents.shape[-1])
        loss = contrastive_loss(model, data)
    model.to(device)
    kept = work / "text_encoder.safetensors"
    if not kept.exists():
        _fit(model, loss, recipe, data)
        save_tensors(model.state_dict(), kept)
    model.load_state_dict(load_file(kept))
    model.requires_grad_(False).eval()
    rows = torch.arange(len(data.tokens) - data.held_out, len(data.tokens), device=device)
    if recipe.text_objective == "planted":
        return encoder, 1 - loss(rows, torch.zeros_like(rows)).item()
    richest = data.mentioned[rows].sum(-1).argmax(1)
    return encoder, retrieved(model, data.contrasted[rows, richest, 0], data.latents[rows])


def _fit(model: nn.Module, loss_of: Callable[..., Tensor], recipe: BaseRecipe, data: BaseData) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), recipe.text_learning_rate, weight_decay=recipe.weight_decay)
    schedule = OneCycleLR(optimizer, recipe.text_learning_rate, total_steps=recipe.text_steps, pct_start=0.05)
    device = data.tokens.device
    rng, drawn = torch.Generator(device).manual_seed(recipe.seed), (recipe.text_batch_size,)
    bar = tqdm(range(recipe.text_steps), desc="train text encoder", unit="step", mininterval=10)
    for _ in bar:
        rows = torch.randint(len(data.tokens) - data.held_out, drawn, generator=rng, device=device)
        columns = torch.randint(data.tokens.shape[1], drawn, generator=rng, device=device)
        optimizer.zero_grad()
        loss = loss_of(rows, columns)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    bar.write(f"train text encoder: loss {loss.item():.3f}")
