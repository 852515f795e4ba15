"""Pictures from personalised models: every row of a batch with its own adapter, prompt and seed."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from w2w_lib.lora.batched import BatchedAdapters, apply_adapters
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.images import decode
from w2w_lib.models.prompts import encode_prompts


@dataclass(frozen=True)
class Sampling:
    """How pictures are sampled: DDIM steps, classifier-free guidance, and when the adapter comes in."""

    steps: int = 20
    guidance: float = 2.5
    inject_below: int = 1000  # the adapter acts on timesteps up to this one (Dravid et al. 2024, App. G: 700 to 1000)
    batch_size: int = 64


def seed_noise(pipeline: StableDiffusionPipeline, seeds: Sequence[int]) -> Float[Tensor, "batch channels height width"]:
    """Initial noise, one random stream for each seed: a picture does not depend on its company."""
    size, channels = pipeline.unet.config.sample_size, pipeline.unet.config.in_channels
    draws = [torch.randn(channels, size, size, generator=torch.Generator().manual_seed(int(s))) for s in seeds]
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

    Without ``weights`` the base paints alone. Above ``sampling.inject_below`` it wears ``early[i]``, if given.
    Raises ValueError where the lengths differ.
    """
    sampling = sampling or Sampling()
    if len(prompts) != len(seeds) or (weights is not None and len(weights) != len(seeds)):
        counts = f"{len(prompts)} prompts, {len(seeds)} seeds" + (
            "" if weights is None else f", {len(weights)} adapters"
        )
        raise ValueError(f"{counts}: expected one of each for every picture")
    strengths = torch.as_tensor(strength, dtype=torch.float32).expand(len(seeds))
    images = []
    with tqdm(total=len(seeds), desc="generate", unit="image", disable=not progress) as bar:
        for start in range(0, len(seeds), sampling.batch_size):
            part = slice(start, start + sampling.batch_size)
            late, first = (None if t is None else t[part].to(pipeline.device) for t in (weights, early))
            images.append(
                _generate_batch(pipeline, prompts[part], seeds[part], layout, late, first, strengths[part], sampling)
            )
            bar.update(len(images[-1]))
    return np.concatenate(images)


@torch.no_grad()
def _generate_batch(pipeline, prompts, seeds, layout, weights, early, strengths, sampling) -> np.ndarray:
    with _dressed(pipeline, layout, weights) as late_bank, _dressed(pipeline, layout, early) as early_bank:
        if late_bank is not None:
            late_bank.strength = strengths.to(weights.device)
        switch = _Switch(early_bank, late_bank, sampling.inject_below)
        pipeline.scheduler.set_timesteps(sampling.steps)
        switch.at(int(pipeline.scheduler.timesteps[0]))
        latents = pipeline(
            prompt_embeds=encode_prompts(pipeline, list(prompts)),
            negative_prompt_embeds=encode_prompts(pipeline, [""] * len(prompts)),
            latents=seed_noise(pipeline, seeds).to(pipeline.device),
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            output_type="latent",
            callback_on_step_end=switch,
        ).images
    return decode(pipeline, latents)


def _dressed(pipeline: StableDiffusionPipeline, layout: AdapterLayout | None, weights: Tensor | None):
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
