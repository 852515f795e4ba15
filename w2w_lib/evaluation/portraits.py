"""Pictures to measure: the same prompts and seeds from many models."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from w2w_lib.evaluation.faces import FACE_PIXELS, FALLBACK_BOX, embed_faces
from w2w_lib.evaluation.pictures import as_pictures
from w2w_lib.inputs import finite_number, whole_number
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.people.pictures import SIZES

PromptSeed = tuple[str, int]


def prompts_with_seeds(prompts: Sequence[str], first_seed: int, count: int) -> list[PromptSeed]:
    """``count`` prompts with seeds: the prompts in turn, each time with the next seed."""
    count, first_seed = whole_number("count", count), whole_number("first_seed", first_seed, 0)
    prompts = list(prompts) if isinstance(prompts, Sequence | np.ndarray) and not isinstance(prompts, str) else []
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise ValueError(f"prompts {prompts!r}: expected a list of at least one prompt")
    return [(prompts[i % len(prompts)], first_seed + i) for i in range(count)]


def portraits(
    pipeline: StableDiffusionPipeline,
    layout: AdapterLayout,
    weights: Float[Tensor, "models d"],
    prompt_seeds: Sequence[PromptSeed],
    sampling: Sampling | None = None,
    progress: bool = True,
) -> UInt8[np.ndarray, "models seeds height width 3"]:
    """Pictures by every model with the same prompts and seeds; ValueError where there are no models or no prompts."""
    if not len(weights) or not len(prompt_seeds):
        raise ValueError(f"{len(weights)} models, {len(prompt_seeds)} prompts: expected at least one of each")
    prompts, seeds = zip(*(list(prompt_seeds) * len(weights)), strict=True)
    rows = torch.arange(len(weights)).repeat_interleave(len(prompt_seeds))
    images = generate(pipeline, prompts, seeds, layout, weights[rows], sampling=sampling, progress=progress)
    return images.reshape(len(weights), len(prompt_seeds), *images.shape[1:])


def embed_portraits(
    images: UInt8[np.ndarray, "models seeds height width 3"],
) -> tuple[Float[np.ndarray, "models seeds dim"], Bool[np.ndarray, "models seeds"]]:
    """Identity embeddings of portraits and whether a face was detected."""
    images = as_pictures(images, "models seeds height width 3")
    embeddings, found = embed_faces(images.reshape(-1, *images.shape[2:]))
    return embeddings.reshape(*images.shape[:2], embeddings.shape[1]), found.reshape(images.shape[:2])


def head_mask(cells: int, grow: float = 0.3) -> Float[Tensor, "1 cells cells"]:
    """1 in the latent cells of the head (a portrait's face box, ``grow`` of it wider all round), else 0.

    ValueError for no cells, and where ``grow`` leaves none of them in the mask.
    """
    cells = whole_number("cells", cells, most=SIZES[1])
    finite_number("grow", grow)
    x0, y0, x1, y1 = FALLBACK_BOX / FACE_PIXELS
    wide, high = grow * (x1 - x0), grow * (y1 - y0)
    centre = (torch.arange(cells) + 0.5) / cells
    inside_x = (centre > x0 - wide) & (centre < x1 + wide)
    inside_y = (centre > y0 - high) & (centre < y1 + high)
    mask = (inside_y[:, None] & inside_x[None]).float()[None]
    if not mask.any():
        raise ValueError(f"grow {grow}: the mask is empty; expected a larger number, such as 0.3")
    return mask
