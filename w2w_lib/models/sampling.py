"""Pictures from personalised models: every row of a batch with its own adapter, prompt and seed."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from w2w_lib.files.tensors import finite, floating
from w2w_lib.inputs import described, known_seed, some, with_parts
from w2w_lib.lora.batched import BatchedAdapters, apply_adapters
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.images import decode
from w2w_lib.models.memory import BatchSize
from w2w_lib.models.prompts import check_prompts, encode_prompts
from w2w_lib.models.recipe import Sampling


def seed_noise(pipeline: StableDiffusionPipeline, seeds: Sequence[int]) -> Float[Tensor, "batch channels height width"]:
    """Initial noise, one random stream for each seed: a picture does not depend on its batch.

    ValueError for seeds that are no whole numbers from 0 to 2**32 - 1.
    """
    with_parts(pipeline, "unet")
    if not len(seeds := _whole(seeds)):
        raise ValueError("seeds []: expected at least one")
    size, channels = pipeline.unet.config.sample_size, pipeline.unet.config.in_channels
    draws = [torch.randn(channels, size, size, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.stack(draws)


def generate(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: Sequence[int],
    layout: AdapterLayout | None = None,
    weights: Float[Tensor, "batch d"] | None = None,
    strength: float | Float[Tensor, " batch"] = 1.0,
    sampling: Sampling | None = None,
    progress: bool = False,
    early: Float[Tensor, "batch d"] | None = None,
) -> UInt8[np.ndarray, "batch height width 3"]:
    """One picture for each (prompt, seed), row i by the base with adapter ``weights[i]`` at ``strength``.

    Without ``weights`` the base paints alone. Above ``sampling.inject_below`` it has the adapter ``early[i]``, if
    given. ValueError where the lengths differ, adapters are of another base or layout, or anything is not what it
    should be: texts, whole seeds from 0, finite numbers.
    """
    sampling = Sampling() if sampling is None else sampling
    if not isinstance(sampling, Sampling):
        raise ValueError(f"sampling {sampling!r}: expected a Sampling")
    if not isinstance(pipeline, StableDiffusionPipeline):
        raise ValueError(f"pipeline of type {type(pipeline).__name__}: expected a base that `open_base` opened")
    check_prompts(prompts)
    prompts = list(prompts)
    seeds = _whole(seeds)
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts, {len(seeds)} seeds: expected one of each for every picture")
    if sampling.steps > (most := pipeline.scheduler.config.num_train_timesteps):
        raise ValueError(f"{sampling.steps} steps: expected at most {most}, the timesteps of the base")
    if weights is not None or early is not None:
        _check_adapters(pipeline, layout, {"weights": weights, "early": early}, len(seeds))
    strengths = _strengths(strength, len(seeds))

    def work(part: slice) -> np.ndarray:
        late, first = (None if t is None else t[part].to(pipeline.device) for t in (weights, early))
        return _generate_batch(pipeline, prompts[part], seeds[part], layout, late, first, strengths[part], sampling)

    most, images = min(sampling.batch_size, len(seeds)), []
    batches = BatchSize(most, pipeline.device, partial(_guided_pass, pipeline, prompts[0], seeds[0]), "picture")
    with tqdm(total=len(seeds), desc="generate", unit="image", disable=not progress) as bar:
        for done in batches.run(len(seeds), work):
            images.append(done)
            bar.update(len(done))
    return np.concatenate(images)


@torch.no_grad()
def _guided_pass(pipeline, prompt: str, seed: int) -> None:
    """One pass of one picture through the UNet, with and without the prompt."""
    latents = seed_noise(pipeline, [seed]).repeat(2, 1, 1, 1).to(pipeline.device, pipeline.unet.dtype)
    pipeline.unet(latents, 1, encode_prompts(pipeline, [prompt, ""]).to(pipeline.unet.dtype))


@torch.no_grad()
def _generate_batch(pipeline, prompts, seeds, layout, weights, early, strengths, sampling) -> np.ndarray:
    with _with_adapters(pipeline, layout, weights) as late_bank, _with_adapters(pipeline, layout, early) as early_bank:
        if late_bank is not None:
            late_bank.strength = strengths.to(weights.device)
        switch = _Switch(early_bank, late_bank, sampling.inject_below)
        pipeline.scheduler.set_timesteps(sampling.steps)
        switch.at(int(pipeline.scheduler.timesteps[0]))
        latents = pipeline(
            prompt_embeds=encode_prompts(pipeline, prompts),
            negative_prompt_embeds=encode_prompts(pipeline, [sampling.negative_prompt] * len(prompts)),
            latents=seed_noise(pipeline, seeds).to(pipeline.device),
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            output_type="latent",
            callback_on_step_end=switch,
        ).images
    return decode(pipeline, latents)


def _whole(seeds: Sequence[int]) -> list[int]:
    seeds = seeds.tolist() if isinstance(seeds, np.ndarray | Tensor) else seeds
    if isinstance(seeds, str | bytes) or not isinstance(seeds, Sequence):
        raise ValueError(f"seeds {described(seeds)}: expected a list of whole numbers")
    return [known_seed(seed) for seed in seeds]


def _check_adapters(pipeline, layout: AdapterLayout | None, adapters: dict[str, Tensor | None], count: int) -> None:
    if not isinstance(layout, AdapterLayout):
        raise ValueError(f"layout {layout!r}: expected the AdapterLayout of the weights")
    if layout.base != (own := fingerprint(pipeline)):
        raise ValueError(
            f"adapters of base {layout.base}, and this base is {own}: expected adapters of this base; open the base "
            "that they were trained on"
        )
    for name, weights in adapters.items():
        if weights is None:
            continue
        expected = f"({count}, {layout.dimension}) numbers, an adapter of the layout for each picture"
        if floating(name, weights).shape != (count, layout.dimension):
            raise ValueError(f"{name} of shape {tuple(weights.shape)}: expected {expected}")
        if not finite(weights):
            bad = (~weights.isfinite().all(1)).nonzero().flatten().tolist()
            raise ValueError(f"{name} of picture {some(bad)}: NaN or infinite numbers; expected finite ones")


def _strengths(strength: float | Tensor, count: int) -> Float[Tensor, " batch"]:
    try:
        strengths = torch.as_tensor(strength)
        if strengths.is_complex() or strengths.is_meta:
            raise TypeError
        strengths = strengths.to(torch.float32).expand(count)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(
            f"strength {described(strength)}: expected a number, or one for each of {count} pictures"
        ) from None
    if not finite(strengths):
        raise ValueError(f"strength {described(strength)}: expected finite numbers")
    return strengths


def _with_adapters(pipeline: StableDiffusionPipeline, layout: AdapterLayout | None, weights: Tensor | None):
    return nullcontext() if weights is None else apply_adapters(pipeline.unet, layout, weights)


@dataclass(frozen=True)
class _Switch:
    """Changes from the early to the late adapters once the next timestep is low enough."""

    early: BatchedAdapters | None
    late: BatchedAdapters | None
    below: int

    def at(self, timestep: int) -> None:
        for bank, enabled in ((self.early, timestep > self.below), (self.late, timestep <= self.below)):
            if bank is not None:
                bank.enabled = enabled

    def __call__(self, pipeline, step: int, timestep: Tensor, tensors: dict) -> dict:
        following = pipeline.scheduler.timesteps[step + 1 :]
        if len(following):
            self.at(int(following[0]))
        return tensors
