"""From pixels to latents and back."""

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from torch import Tensor


def encode_images(pipeline: StableDiffusionPipeline, images: torch.Tensor) -> torch.Tensor:
    """Scaled latents (batch, channels, h, w) of images (batch, 3, H, W) in [-1, 1]."""
    with torch.no_grad():
        posterior = pipeline.vae.encode(images.to(pipeline.vae.device, pipeline.vae.dtype)).latent_dist
    return posterior.mode() * pipeline.vae.config.scaling_factor


@torch.no_grad()
def decode(
    pipeline: StableDiffusionPipeline, latents: Float[Tensor, "batch channels cells_high cells_wide"]
) -> UInt8[np.ndarray, "batch height width 3"]:
    """Pictures of latents."""
    return as_images(
        pipeline, pipeline.vae.decode(latents.to(pipeline.vae.dtype) / pipeline.vae.config.scaling_factor).sample
    )


def as_images(
    pipeline: StableDiffusionPipeline, pixels: Float[Tensor, "batch 3 height width"]
) -> UInt8[np.ndarray, "batch height width 3"]:
    """Pictures from a tensor in [-1, 1]."""
    return (pipeline.image_processor.postprocess(pixels, output_type="np") * 255).round().astype(np.uint8)


def to_pixels(images: UInt8[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch 3 height width"]:
    """Pictures as a tensor in [-1, 1]."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
