"""Inversion: the point of w2w space whose model paints the person of a single picture, or of several."""

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial

import torch
from diffusers import StableDiffusionPipeline
from diffusers.optimization import get_scheduler
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from w2w_lib.files.tensors import floating
from w2w_lib.inputs import described, instance, some
from w2w_lib.lora.batched import apply_adapters
from w2w_lib.models.denoising import denoising_loss, draw_rows, stream
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.memory import BatchSize
from w2w_lib.models.precision import loss_scale
from w2w_lib.models.prompts import INSTANCE_PROMPT, encode_prompts
from w2w_lib.space.arguments import finite_rows
from w2w_lib.space.inversion_recipes import InversionRecipe, recipe_named
from w2w_lib.space.weight_space import WeightSpace


def invert(
    pipeline: StableDiffusionPipeline,
    space: WeightSpace,
    latents: Float[Tensor, "pictures channels height width"],
    recipe: InversionRecipe | str | None = None,
    mask: Float[Tensor, "pictures 1 height width"] | None = None,
    progress: bool = True,
    people: Sequence[Hashable] | None = None,
    start: Float[Tensor, "people pcs"] | None = None,
    prompts: Sequence[str] | None = None,
) -> tuple[Float[Tensor, "people pcs"], Float[Tensor, "steps people"]]:
    """Coefficients of one model for each person and the losses on the way (Dravid et al. 2024, §3.4, eq. 3).

    Without ``people`` every picture is another person's; else they name whose each picture is, and the models are in
    the order in which the names come first. Only the coefficients move, from ``start`` (the mean model, if there is
    none), without prior preservation: the space itself is the prior. ``recipe`` may be a name of ``RECIPES``.
    ``prompts`` say what each picture shows, "a photo of sks person, on a blue background": what they name, the person
    need not explain. By default they are all "sks person", as in the paper. Each person has a random stream of the own
    place in that order, so that a result does not depend on the others. The loss is averaged over the latent cells,
    weighted by ``mask``.

    Memory on the pipeline's device: the components (pcs x d numbers), and for each of ``recipe.at_once`` people (on a
    GPU, of as many as fit) the d weights and ``recipe.batch`` passes through the UNet with their gradients.

    ValueError for a pipeline of another base than the space's, latents of other channels than the UNet's or not
    finite, a mask of another shape, negative or 0 everywhere, timesteps that the scheduler has not, another number of
    names or prompts than of pictures, a start of another shape, and an optimisation that diverges.
    """
    recipe = recipe_named(recipe) if isinstance(recipe, str) else recipe or InversionRecipe()
    latents, mask = _checked(pipeline, space, latents, recipe, mask)
    rows = _rows_of_people(_of_pictures("people", people, range(len(latents))))
    count, device = len(rows), pipeline.device
    start = _checked_start(space, start, count)
    scale = (space.std if recipe.units == "deviations" else torch.ones_like(space.std)).to(device)
    moved = (start.to(device) / scale).requires_grad_()
    deviations = scale / space.std.to(device)
    there = ("mean", "components", "scale")
    tensors = {name: tensor for name in there if (tensor := getattr(space, name)) is not None}
    space = replace(space, **{name: tensor.to(device).float() for name, tensor in tensors.items()})
    optimizer = torch.optim.Adam([moved], recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = get_scheduler(recipe.schedule, optimizer, num_warmup_steps=0, num_training_steps=recipe.steps)
    streams = [stream(recipe.seed, f"picture {i}") for i in range(count)]
    texts = encode_prompts(pipeline, [*_of_pictures("prompts", prompts, [INSTANCE_PROMPT] * len(latents))]).cpu()
    history, magnified = torch.zeros(recipe.steps, count), loss_scale(pipeline.unet)

    def drawn(i: int, rng: torch.Generator) -> tuple[Tensor, ...]:
        own = rows[i]
        return _drawn(rng, latents[own], texts[own], mask[own], recipe)

    def backward(parts: list[tuple[Tensor, ...]], group: slice) -> Tensor:
        """The losses of a group of people, whose gradients are added to those of the coefficients."""
        *batch, text, cells = (torch.cat(column).to(device) for column in zip(*parts[group], strict=True))
        weights = space.unproject(moved[group] * scale)
        with apply_adapters(pipeline.unet, space.layout, weights, recipe.batch):
            losses = denoising_loss(pipeline.unet, pipeline.scheduler, *batch, text, cells)
        per_person = losses.view(-1, recipe.batch).mean(1)
        pull = recipe.prior * (moved[group] * deviations).square().sum() / moved.shape[1]
        (magnified * (per_person.sum() + pull)).backward()
        return per_person.detach().cpu()

    first = partial(backward, [drawn(0, stream(recipe.seed, "memory"))], slice(1))
    sizes = BatchSize(min(recipe.at_once, count), device, first, "person")
    for step in tqdm(range(recipe.steps), desc="invert", unit="step", disable=not progress):
        optimizer.zero_grad()
        parts = [drawn(i, rng) for i, rng in enumerate(streams)]
        history[step] = torch.cat([*sizes.run(count, partial(backward, parts))])
        moved.grad.div_(magnified)
        if not history[step].isfinite().all():
            lost = some([str(i) for i in (~history[step].isfinite()).nonzero().flatten().tolist()])
            raise ValueError(f"inversion of pictures {lost} diverged at step {step}: lower the learning rate")
        optimizer.step()
        schedule.step()
    return (moved * scale).detach().cpu(), history


def _drawn(
    rng: torch.Generator, latents: Tensor, texts: Tensor, mask: Tensor, recipe: InversionRecipe
) -> tuple[Tensor, ...]:
    """Latents, noise and timesteps of one person, with the text states and masks of the same pictures."""
    rows, noise, timesteps = draw_rows(rng, latents, recipe.batch, recipe.timesteps)
    return latents[rows], noise, timesteps, texts[rows], mask[rows]


def _of_pictures(name: str, given: Sequence[Hashable] | None, default: Sequence[Hashable]) -> Sequence[Hashable]:
    """One for each picture: those given, or by default others."""
    if given is None:
        return default
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) != len(default):
        raise ValueError(f"{name}: expected a list of {len(default)}, one for each picture, found {described(given)}")
    return given


def _rows_of_people(people: Sequence[Hashable]) -> list[list[int]]:
    """The pictures of each person, in the order in which the people come first."""
    rows: dict[Hashable, list[int]] = {}
    for row, person in enumerate(people):
        rows.setdefault(person, []).append(row)
    return list(rows.values())


def _checked_start(space: WeightSpace, start: Tensor | None, people: int) -> Tensor:
    if start is None:
        return torch.zeros(people, len(space.components))
    start = finite_rows("start", start, len(space.components), axes=2).detach().cpu()
    if len(start) != people:
        raise ValueError(f"start: expected a row for each of {people} people, found {len(start)}")
    return start


def _checked(
    pipeline: StableDiffusionPipeline,
    space: WeightSpace,
    latents: Tensor,
    recipe: InversionRecipe,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
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
    return latents.float(), torch.ones_like(latents[:, :1]).float() if mask is None else mask.float()
