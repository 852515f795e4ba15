"""The denoising objective of latent diffusion, one random stream for each model."""

import hashlib
from typing import Literal

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from diffusers.training_utils import compute_snr
from jaxtyping import Float, Int
from torch import Tensor, nn

from w2w_lib.inputs import known_seed, whole_number
from w2w_lib.models.schedule import check_timesteps, prediction_type, timestep_range


def stream(seed: int, identity: str) -> torch.Generator:
    """The random stream of one identity: whoever shares the batch, its draws are the same.

    ValueError for a seed that is none.
    """
    digest = hashlib.sha256(f"{known_seed(seed)}:{identity}".encode(errors="surrogateescape")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def draw_rows(
    rng: torch.Generator,
    latents: Float[Tensor, "images channels height width"],
    count: int,
    between: tuple[int, int],
    density: Literal["uniform", "logit_normal"] = "uniform",
    logit_mean: float = 0.0,
) -> tuple[Int[Tensor, " count"], Float[Tensor, "count channels height width"], Int[Tensor, " count"]]:
    """Rows of ``count`` random images of one identity, with noise and timesteps in [first, last).

    Timesteps are stratified: one in each of ``count`` parts of equal probability. ``logit_normal`` draws them as Esser
    et al. (2024, eq. 19) do, around the middle of the range for a ``logit_mean`` of 0, at lower noise for a negative
    one. ValueError if there is no image or timestep.
    """
    (first, last), count = timestep_range(between), whole_number("count", count)
    if not len(latents):
        raise ValueError("no images to draw from: expected at least one")
    rows = torch.randint(len(latents), (count,), generator=rng)
    noise = torch.randn((count, *latents.shape[1:]), generator=rng)
    strata = (torch.arange(count) + torch.rand(count, generator=rng)) / count
    if density == "logit_normal":
        strata = torch.sigmoid(torch.special.ndtri(strata) + logit_mean)
    timesteps = (first + strata * (last - first)).long()
    return rows, noise, timesteps.clamp(max=last - 1)  # the last stratum may round up to 1


def draw(
    rng: torch.Generator,
    latents: Float[Tensor, "images channels height width"],
    count: int,
    between: tuple[int, int],
) -> tuple[Float[Tensor, "count channels height width"], Tensor, Int[Tensor, " count"]]:
    """``count`` random images of one identity with noise and uniform timesteps, as ``draw_rows``."""
    rows, noise, timesteps = draw_rows(rng, latents, count, between)
    return latents[rows], noise, timesteps


def min_snr_weights(
    scheduler: DDIMScheduler, timesteps: Int[Tensor, " batch"], gamma: float
) -> Float[Tensor, " batch"]:
    """Weights of the loss that limit the signal-to-noise ratio to ``gamma`` (Hang et al. 2023, eq. 5 and App. A)."""
    ratio = compute_snr(scheduler, timesteps)
    divisor = ratio + 1 if prediction_type(scheduler) == "v_prediction" else ratio
    return ratio.clamp(max=gamma) / divisor


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

    With a mask, the mean over the latent cells is weighted by it. ValueError for another prediction type, timesteps
    that the scheduler does not have, and a mask of another shape, of negative, NaN or infinite numbers, or of zeros.
    """
    kind = prediction_type(scheduler)
    check_timesteps(scheduler, timesteps)
    if mask is not None:
        _check_mask(mask, latents)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps) if kind == "v_prediction" else noise
    dtype = next(unet.parameters()).dtype
    prediction = unet(noisy.to(dtype), timesteps, text.to(dtype)).sample
    error = F.mse_loss(prediction.float(), target.float(), reduction="none").mean(1, keepdim=True)
    if mask is not None:
        error = error * mask / mask.mean((1, 2, 3), keepdim=True)
    return error.mean((1, 2, 3))


def _check_mask(mask: Tensor, latents: Tensor) -> None:
    expected = (len(latents), 1, *latents.shape[2:])
    if mask.shape != expected:
        raise ValueError(f"mask of shape {tuple(mask.shape)}: expected {expected}, one number for each latent cell")
    low, high = mask.detach().amin((1, 2, 3)), mask.detach().amax((1, 2, 3))
    if not bool(((low >= 0) & (high > 0) & (high < torch.inf)).all()):
        raise ValueError(
            f"mask with numbers from {low.min().item():.6g} to {high.max().item():.6g}: expected finite numbers of at "
            "least 0, some of each picture's above 0"
        )
