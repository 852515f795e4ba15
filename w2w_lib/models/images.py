"""From pixels to latents and back."""

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from torch import Tensor

from w2w_lib.files.tensors import finite, floating
from w2w_lib.inputs import with_parts
from w2w_lib.models.base_parts import MOST_CELLS

SLACK = 0.01  # by which a pixel may leave [-1, 1]: rounding, but no picture of 0 to 255


def encode_images(
    pipeline: StableDiffusionPipeline,
    images: UInt8[np.ndarray, "batch height width 3"] | Float[Tensor, "batch 3 height width"],
) -> Float[Tensor, "batch channels cells_high cells_wide"]:
    """Scaled latents of pictures, or of images in [-1, 1]; ValueError for sides that are no multiples of a cell's."""
    with_parts(pipeline, "vae", "vae_scale_factor")
    images = images if isinstance(images, Tensor) else to_pixels(images)
    _check_images(pipeline, images)
    with torch.no_grad():
        posterior = pipeline.vae.encode(images.to(pipeline.vae.device, pipeline.vae.dtype)).latent_dist
    return posterior.mode() * pipeline.vae.config.scaling_factor


@torch.no_grad()
def decode(
    pipeline: StableDiffusionPipeline, latents: Float[Tensor, "batch channels cells_high cells_wide"]
) -> UInt8[np.ndarray, "batch height width 3"]:
    """Pictures of latents; ValueError where they are NaN or infinite, or have other channels than the base's."""
    channels = pipeline.vae.config.latent_channels
    if latents.ndim != 4 or latents.shape[1] != channels or not len(latents):
        raise ValueError(f"latents of shape {tuple(latents.shape)}: expected (batch, {channels}, height, width)")
    if not finite(latents):
        raise ValueError(
            "latents hold NaN or infinite numbers: expected finite ones; an adapter, a strength or a guidance that is "
            "too large may have made them"
        )
    pixels = pipeline.vae.decode(latents.to(pipeline.vae.dtype) / pipeline.vae.config.scaling_factor).sample
    if not finite(pixels):
        raise ValueError("pictures of NaN or infinite numbers: expected finite ones; the latents may be too large")
    return as_images(pipeline, pixels)


def as_images(
    pipeline: StableDiffusionPipeline, pixels: Float[Tensor, "batch 3 height width"]
) -> UInt8[np.ndarray, "batch height width 3"]:
    """Pictures from a tensor in [-1, 1]."""
    return (pipeline.image_processor.postprocess(pixels, output_type="np") * 255).round().astype(np.uint8)


def to_pixels(images: UInt8[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch 3 height width"]:
    """Pictures as a tensor in [-1, 1]; ValueError for anything but three colours of 0 to 255."""
    try:
        images = np.asarray(images)
    except ValueError:
        raise ValueError("pictures of different shapes: expected (batch, height, width, 3) of uint8") from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(
            f"pictures of shape {images.shape} and type {images.dtype}: expected (batch, height, width, 3) of uint8"
        )
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _check_images(pipeline: StableDiffusionPipeline, images: Tensor) -> None:
    expected = "(batch, 3, height, width), at least one; to_pixels makes them of pictures"
    if floating("images", images).ndim != 4 or images.shape[1] != 3 or not len(images):
        raise ValueError(f"images of shape {tuple(images.shape)}: expected {expected}")
    cell, (height, width) = pipeline.vae_scale_factor, images.shape[2:]
    if height % cell or width % cell or not 0 < height * width <= (cell * MOST_CELLS) ** 2:
        raise ValueError(
            f"images of {height} x {width} pixels: expected multiples of {cell}, up to {cell * MOST_CELLS} squared; "
            "resize them"
        )
    low, high = (bound.item() for bound in images.detach().aminmax())
    if not (-1 - SLACK <= low and high <= 1 + SLACK):
        raise ValueError(f"images with numbers from {low:.6g} to {high:.6g}: expected -1 to 1; to_pixels makes such")
