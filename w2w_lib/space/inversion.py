"""Inversion: the point of w2w space whose model paints the person of a single picture."""

from dataclasses import replace
from typing import Annotated

import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from tqdm import tqdm

from w2w_lib.files.tensors import floating
from w2w_lib.inputs import checked, instance, some
from w2w_lib.lora.batched import apply_adapters
from w2w_lib.models.denoising import denoising_loss, draw, stream
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.prompts import INSTANCE_PROMPT, encode_prompts
from w2w_lib.space.arguments import LAST_SEED, finite_rows
from w2w_lib.space.weight_space import WeightSpace


@checked
class InversionRecipe:
    """Settings of the optimisation; coefficients are in standard deviations of the training models."""

    steps: PositiveInt = 200
    learning_rate: PositiveFloat = 0.1
    batch: PositiveInt = 8  # noised copies of each picture in a step ...
    at_once: PositiveInt = 64  # ... of so many pictures at a time, which is a matter of memory alone
    prior: NonNegativeFloat = 1e-3  # weight of the squared coefficients: a pull towards the mean person
    timesteps: tuple[int, int] = (0, 1000)
    seed: Annotated[int, Field(ge=0, le=LAST_SEED)] = 0

    def __post_init__(self):
        if not 0 <= self.timesteps[0] < self.timesteps[1]:
            raise ValueError(f"timesteps: expected a first one and a later end, found {self.timesteps}")


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
    itself is the prior. Each picture has its own random stream, so that a result does not depend on the others. The
    loss is averaged over the latent cells, weighted by ``mask``.

    Memory on the pipeline's device: the components (pcs x d numbers), and for each of ``recipe.at_once`` pictures its
    d weights and ``recipe.batch`` passes through the UNet with their gradients.

    ValueError for a pipeline of another base than the space's, latents of other channels than the UNet's or not
    finite, a mask of another shape, negative or 0 everywhere, timesteps that the scheduler has not, and an
    optimisation that diverges.
    """
    recipe = recipe or InversionRecipe()
    latents, mask = _checked(pipeline, space, latents, recipe, mask)
    count, device = len(latents), pipeline.device
    units = torch.zeros(count, len(space.components), device=device, requires_grad=True)
    std, there = space.std.to(device), ("mean", "components", "scale")
    tensors = {name: getattr(space, name) for name in there if getattr(space, name) is not None}
    space = replace(space, **{name: tensor.to(device) for name, tensor in tensors.items()})
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
        if not history[step].isfinite().all():
            lost = some([str(i) for i in (~history[step].isfinite()).nonzero().flatten().tolist()])
            raise ValueError(f"inversion of pictures {lost} diverged at step {step}: lower the learning rate")
        optimizer.step()
        schedule.step()
    return (units * std).detach().cpu(), history


def _checked(
    pipeline: StableDiffusionPipeline,
    space: WeightSpace,
    latents: Tensor,
    recipe: InversionRecipe,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    instance("pipeline", pipeline, StableDiffusionPipeline)
    instance("space", space, WeightSpace)
    instance("recipe", recipe, InversionRecipe)
    last, size = pipeline.scheduler.config.num_train_timesteps, pipeline.unet.config.sample_size
    shape = (pipeline.unet.config.in_channels, *(size if isinstance(size, list | tuple) else (size, size)))
    if floating("latents", latents).ndim != 4 or not len(latents) or latents.shape[1:] != shape:
        raise ValueError(
            f"latents: expected pictures of {shape[0]} channels, height and width {shape[1:]}, as this base paints, "
            f"found {tuple(latents.shape)}"
        )
    finite_rows("latents", latents.flatten(1), latents[0].numel())
    if recipe.timesteps[1] > last:
        raise ValueError(f"timesteps: expected an end of at most {last}, the scheduler's, found {recipe.timesteps[1]}")
    if mask is not None:
        expected = (len(latents), 1, *latents.shape[2:])
        if tuple(floating("mask", mask).shape) != expected:
            raise ValueError(f"mask: expected shape {expected}, found {tuple(mask.shape)}")
        finite_rows("mask", mask.flatten(1), mask[0].numel())
        if (mask < 0).any() or not mask.flatten(1).any(1).all():
            raise ValueError("mask: expected numbers of at least 0, and above it somewhere in every picture")
    if (found := fingerprint(pipeline)) != space.layout.base:
        raise ValueError(
            f"the space was made on base {space.layout.base}, this pipeline is base {found}: open the space's own base"
        )
    return latents.float(), None if mask is None else mask.float()
