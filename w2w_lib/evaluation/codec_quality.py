"""How well an autoencoder gives pictures back: their error, their look, their sharpness, and how fast."""

import time

import numpy as np
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from scipy.ndimage import laplace
from skimage.color import rgb2gray
from torch import Tensor

from w2w_lib.evaluation.lpips import LPIPS
from w2w_lib.evaluation.pictures import as_pictures
from w2w_lib.models.images import decode

REPEATS = 3  # of which the fastest counts: other programs only slow it

Images = UInt8[np.ndarray, "batch height width 3"]


def sharpness(images: Images) -> Float[np.ndarray, " batch"]:
    """The variance of each grey picture's Laplacian (Pech-Pacheco et al. 2000); grey from 0 to 1."""
    return np.array([laplace(rgb2gray(image)).var() for image in as_pictures(images)])


def decoded_quality(images: Images, decoded: Images) -> dict[str, float]:
    """L1 (pictures in [-1, 1]), LPIPS, and the decoded pictures' sharpness in parts of the originals' (means)."""
    return {
        "codec_l1": float(np.abs(images.astype(float) - decoded).mean() / 127.5),
        "codec_lpips": float(LPIPS.load().of_pictures(images, decoded).mean()),
        "codec_sharpness": float(sharpness(decoded).mean() / sharpness(images).mean()),
    }


def decode_rate(pipeline: StableDiffusionPipeline, latents: Float[Tensor, "batch channels height width"]) -> float:
    """Pictures per second that the pipeline's autoencoder decodes, the fastest of three times."""
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        decode(pipeline, latents)
        seconds.append(time.perf_counter() - began)
    return len(latents) / min(seconds)
