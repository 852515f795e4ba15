"""Inversion: the point of w2w space whose model paints the person of a single picture."""

from dataclasses import dataclass, replace

import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from w2w_lib.lora.batched import apply_adapters
from w2w_lib.models.denoising import denoising_loss, draw, stream
from w2w_lib.models.prompts import INSTANCE_PROMPT, encode_prompts
from w2w_lib.space.weight_space import WeightSpace


@dataclass(frozen=True)
class InversionRecipe:
    """Settings of the optimisation; coefficients are in standard deviations of the training models."""

    steps: int = 200
    learning_rate: float = 0.1
    batch: int = 8  # noised copies of each picture in a step ...
    at_once: int = 64  # ... of so many pictures at a time, which is a matter of memory alone
    prior: float = 1e-3  # weight of the squared coefficients: a pull towards the mean person
    timesteps: tuple[int, int] = (0, 1000)
    seed: int = 0


def invert(
    pipeline: StableDiffusionPipeline,
    space: WeightSpace,
    latents: Float[Tensor, "pictures channels height width"],
    recipe: InversionRecipe | None = None,
    mask: Float[Tensor, "pictures 1 height width"] | None = None,
    progress: bool = True,
) -> tuple[Float[Tensor, "pictures pcs"], Float[Tensor, "steps pictures"]]:
    """Coefficients of one model for each picture and the losses on the way (Dravid et al. 2024, §3.4, eq. 3).

    Only the coefficients move, from the mean model, on "sks person" and without prior preservation: the space
    itself is the prior. All pictures are inverted at once, each with its own random stream.
    """
    recipe = recipe or InversionRecipe()
    count, device = len(latents), pipeline.device
    units = torch.zeros(count, len(space.components), device=device, requires_grad=True)
    there = {name: own.to(device) for name, own in vars(space).items() if isinstance(own, Tensor)}
    space = replace(space, **there)
    std = space.std
    optimizer = torch.optim.Adam([units], recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    streams = [stream(recipe.seed, f"picture {i}") for i in range(count)]
    text = encode_prompts(pipeline, [INSTANCE_PROMPT])
    groups = torch.arange(count).split(recipe.at_once)
    history = torch.zeros(recipe.steps, count)
    for step in tqdm(range(recipe.steps), desc="invert", unit="step", disable=not progress):
        optimizer.zero_grad()
        for group in groups:
            parts = [draw(streams[i], latents[i, None].cpu(), recipe.batch, recipe.timesteps) for i in group]
            batch = [torch.cat(column).to(device) for column in zip(*parts, strict=True)]
            cells = None if mask is None else mask[group].repeat_interleave(recipe.batch, 0).to(device)
            weights, own = space.unproject(units[group] * std), text.expand(len(batch[0]), -1, -1)
            with apply_adapters(pipeline.unet, space.layout, weights, recipe.batch):
                losses = denoising_loss(pipeline.unet, pipeline.scheduler, *batch, own, cells)
            per_picture = losses.view(len(group), recipe.batch).mean(1)
            pull = recipe.prior * units[group].square().sum() / units.shape[1]
            (per_picture.sum() + pull).backward()
            history[step, group] = per_picture.detach().cpu()
        optimizer.step()
        schedule.step()
    return (units * std).detach().cpu(), history
