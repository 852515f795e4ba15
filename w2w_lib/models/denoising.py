"""The denoising objective of latent diffusion, one random stream for each model."""

import hashlib

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from jaxtyping import Float, Int
from torch import Tensor, nn


def stream(seed: int, identity: str) -> torch.Generator:
    """The random stream of one identity: whoever shares the batch, its draws are the same."""
    digest = hashlib.sha256(f"{seed}:{identity}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def draw(
    rng: torch.Generator,
    latents: Float[Tensor, "images channels height width"],
    count: int,
    between: tuple[int, int],
) -> tuple[Float[Tensor, "count channels height width"], Tensor, Int[Tensor, " count"]]:
    """``count`` random images of one identity with noise and timesteps in [first, last)."""
    rows = torch.randint(len(latents), (count,), generator=rng)
    noise = torch.randn((count, *latents.shape[1:]), generator=rng)
    first, last = between
    strata = (torch.arange(count) + torch.rand(count, generator=rng)) / count
    timesteps = (first + strata * (last - first)).long()
    return latents[rows], noise, timesteps.clamp(max=last - 1)  # the last stratum may round up to 1


def denoising_loss(
    unet: nn.Module,
    scheduler: DDIMScheduler,
    latents: Float[Tensor, "batch channels height width"],
    noise: Float[Tensor, "batch channels height width"],
    timesteps: Int[Tensor, " batch"],
    text: Float[Tensor, "batch tokens text_width"],
    mask: Float[Tensor, "batch 1 height width"] | None = None,
) -> Float[Tensor, " batch"]:
    """|target - prediction|^2 for each row (Dravid et al. 2024, eq. 1), for noise- and v-prediction models.

    With a mask, the mean over the latent cells is weighted by it.
    """
    noisy = scheduler.add_noise(latents, noise, timesteps)
    kind = scheduler.config.prediction_type
    target = scheduler.get_velocity(latents, noise, timesteps) if kind == "v_prediction" else noise
    dtype = next(unet.parameters()).dtype
    prediction = unet(noisy.to(dtype), timesteps, text.to(dtype)).sample
    error = F.mse_loss(prediction.float(), target.float(), reduction="none").mean(1, keepdim=True)
    if mask is not None:
        error = error * mask / mask.mean((1, 2, 3), keepdim=True)
    return error.mean((1, 2, 3))
