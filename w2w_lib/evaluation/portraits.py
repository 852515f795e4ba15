"""Pictures to measure: the same prompts and seeds from many models; photographs cut to the base's frame."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from w2w_lib.evaluation.faces import FACE_PIXELS, FALLBACK_BOX, detect_faces, embed_faces
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.sampling import Sampling, generate

PromptSeed = tuple[str, int]  # a prompt and a seed


def prompts_with_seeds(prompts: Sequence[str], first_seed: int, count: int) -> list[PromptSeed]:
    """``count`` pictures to take: the prompts in turn, each time with the next seed."""
    return [(prompts[i % len(prompts)], first_seed + i) for i in range(count)]


def portraits(
    pipeline: StableDiffusionPipeline,
    layout: AdapterLayout,
    weights: Float[Tensor, "models d"],
    prompt_seeds: Sequence[PromptSeed],
    sampling: Sampling | None = None,
    progress: bool = True,
) -> UInt8[np.ndarray, "models shots height width 3"]:
    """The same shots of every model."""
    prompts, seeds = zip(*(list(prompt_seeds) * len(weights)), strict=True)
    rows = torch.arange(len(weights)).repeat_interleave(len(prompt_seeds))
    images = generate(pipeline, prompts, seeds, layout, weights[rows], sampling=sampling, progress=progress)
    return images.reshape(len(weights), len(prompt_seeds), *images.shape[1:])


def embed_portraits(
    images: UInt8[np.ndarray, "models shots height width 3"],
) -> tuple[Float[np.ndarray, "models shots dim"], Bool[np.ndarray, "models shots"]]:
    """Identity embeddings of portraits and whether a face was detected."""
    embeddings, found = embed_faces(images.reshape(-1, *images.shape[2:]))
    return embeddings.reshape(*images.shape[:2], -1), found.reshape(images.shape[:2])


def crop_photo(photo: UInt8[np.ndarray, "side side 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A square photograph cut so that the surest face lies where the pocket world's portraits have theirs.

    Raises ValueError where no face is found.
    """
    boxes, found = detect_faces(photo[None])
    if not found[0]:
        raise ValueError("the photograph shows no face that MTCNN finds: take another, or crop it nearer to the face")
    scale = len(photo) / FACE_PIXELS
    x0, y0, x1, y1 = boxes[0] * scale
    home = FALLBACK_BOX / FACE_PIXELS
    side = (y1 - y0) / (home[3] - home[1])
    left = (x0 + x1) / 2 - side * (home[0] + home[2]) / 2
    top = y0 - side * home[1]
    frame = tuple(round(v) for v in (left, top, left + side, top + side))
    return np.asarray(Image.fromarray(photo).crop(frame).resize((size, size), Image.Resampling.LANCZOS))


def head_mask(cells: int, grow: float = 0.3) -> Float[Tensor, "1 cells cells"]:
    """1 in the latent cells of the head (a portrait's face box, ``grow`` of it wider all round), else 0."""
    x0, y0, x1, y1 = FALLBACK_BOX / FACE_PIXELS
    wide, high = grow * (x1 - x0), grow * (y1 - y0)
    centre = (torch.arange(cells) + 0.5) / cells
    inside_x = (centre > x0 - wide) & (centre < x1 + wide)
    inside_y = (centre > y0 - high) & (centre < y1 + high)
    return (inside_y[:, None] & inside_x[None]).float()[None]
