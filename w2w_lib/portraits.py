"""Pictures to measure: the same prompts and seeds from many models; photographs cut to the base's frame."""

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from w2w_lib.generate import Sampling, generate
from w2w_lib.judges import FALLBACK_BOX, JUDGE_SIZE, detect_faces, embed_faces, verification_auc
from w2w_lib.layout import AdapterLayout

Shot = tuple[str, int]  # a prompt and a seed


def shots(prompts: Sequence[str], first_seed: int, count: int) -> list[Shot]:
    """``count`` pictures to take: the prompts in turn, each time with the next seed."""
    return [(prompts[i % len(prompts)], first_seed + i) for i in range(count)]


def portraits(
    pipeline: StableDiffusionPipeline,
    layout: AdapterLayout,
    theta: Float[Tensor, "models d"],
    taken: Sequence[Shot],
    sampling: Sampling | None = None,
    progress: bool = True,
) -> UInt8[np.ndarray, "models shots height width 3"]:
    """The same shots of every model."""
    prompts, seeds = zip(*(list(taken) * len(theta)), strict=True)
    rows = torch.arange(len(theta)).repeat_interleave(len(taken))
    images = generate(pipeline, prompts, seeds, layout, theta[rows], sampling=sampling, progress=progress)
    return images.reshape(len(theta), len(taken), *images.shape[1:])


def embed_portraits(
    images: UInt8[np.ndarray, "models shots height width 3"],
) -> tuple[Float[np.ndarray, "models shots dim"], Bool[np.ndarray, "models shots"]]:
    """Identity embeddings of portraits and whether a face was detected."""
    embeddings, found = embed_faces(images.reshape(-1, *images.shape[2:]))
    return embeddings.reshape(*images.shape[:2], -1), found.reshape(images.shape[:2])


def consistency(embeddings: Float[np.ndarray, "models shots dim"]) -> float:
    """AUC of 'same model?' over all pairs of pictures: 0.5 if the models cannot be told apart."""
    models, count, width = embeddings.shape
    return verification_auc(embeddings.reshape(-1, width), np.repeat(np.arange(models), count))


def diversity(embeddings: Float[np.ndarray, "models shots dim"]) -> float:
    """Mean distance between two pictures by the same model."""
    first, second = np.triu_indices(embeddings.shape[1], 1)
    return float(np.linalg.norm(embeddings[:, first] - embeddings[:, second], axis=-1).mean())


def crop_portrait(photo: UInt8[np.ndarray, "side side 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A square photograph cut so that the surest face lies where the pocket world's portraits have theirs.

    Raises ValueError where no face is found.
    """
    boxes, found = detect_faces(photo[None])
    if not found[0]:
        raise ValueError("the photograph shows no face that MTCNN finds: take another, or crop it nearer to the face")
    scale = len(photo) / JUDGE_SIZE
    x0, y0, x1, y1 = boxes[0] * scale
    home = FALLBACK_BOX / JUDGE_SIZE
    side = (y1 - y0) / (home[3] - home[1])
    left = (x0 + x1) / 2 - side * (home[0] + home[2]) / 2
    top = y0 - side * home[1]
    frame = tuple(round(v) for v in (left, top, left + side, top + side))
    return np.asarray(Image.fromarray(photo).crop(frame).resize((size, size), Image.Resampling.LANCZOS))


def head_mask(cells: int, grow: float = 0.3) -> Float[Tensor, "1 cells cells"]:
    """1 in the latent cells of the head (a portrait's face box, ``grow`` of it wider all round), else 0."""
    x0, y0, x1, y1 = FALLBACK_BOX / JUDGE_SIZE
    wide, high = grow * (x1 - x0), grow * (y1 - y0)
    centre = (torch.arange(cells) + 0.5) / cells
    inside_x = (centre > x0 - wide) & (centre < x1 + wide)
    inside_y = (centre > y0 - high) & (centre < y1 + high)
    return (inside_y[:, None] & inside_x[None]).float()[None]
