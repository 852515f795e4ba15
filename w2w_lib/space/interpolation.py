"""Models between two models, and whether what they paint lies between what these paint."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from w2w_lib.inputs import finite_number

PARALLEL = 1e-6  # sine of the angle between two models below which they lie in one direction


def linear_path(
    first: Float[Tensor, "pairs d"], second: Float[Tensor, "pairs d"], shares: Sequence[float]
) -> Float[Tensor, "pairs shares d"]:
    """Weights on the straight line from the first to the second, at these shares of the way."""
    at = _shares(shares)[None, :, None]
    return (1 - at) * first[:, None] + at * second[:, None]


def spherical_path(
    first: Float[Tensor, "pairs d"],
    second: Float[Tensor, "pairs d"],
    shares: Sequence[float],
    centre: Float[Tensor, " d"],
) -> Float[Tensor, "pairs shares d"]:
    """Weights on the arc around ``centre`` (Shoemake 1985): the distance from it goes evenly from one to the other.

    A straight line passes nearer to the centre, so its middle is more average than both ends. ValueError where a model
    is the centre, or two are opposite to each other.
    """
    at = _shares(shares)[None, :, None]
    ends = [(end - centre)[:, None] for end in (first, second)]
    lengths = [end.norm(dim=2, keepdim=True) for end in ends]
    if any((length == 0).any() for length in lengths):
        raise ValueError("a model at the centre has no direction: expected models apart from it")
    unit = [end / length for end, length in zip(ends, lengths, strict=True)]
    cosine = (unit[0] * unit[1]).sum(2, keepdim=True).clamp(-1, 1)
    angle, sine = torch.acos(cosine), torch.sqrt(1 - cosine.square())
    if ((sine < PARALLEL) & (cosine < 0)).any():
        raise ValueError("two models opposite to each other: every arc between them is as short; expected others")
    parallel = sine < PARALLEL
    safe = sine.where(~parallel, 1)
    weights = [torch.sin(part * angle) / safe for part in (1 - at, at)]
    weights = [torch.where(parallel, part, w) for part, w in zip((1 - at, at), weights, strict=True)]
    direction = weights[0] * unit[0] + weights[1] * unit[1]
    return centre + ((1 - at) * lengths[0] + at * lengths[1]) * direction


def pixel_path(
    first: UInt8[np.ndarray, "pairs seeds height width 3"],
    second: UInt8[np.ndarray, "pairs seeds height width 3"],
    shares: Sequence[float],
) -> UInt8[np.ndarray, "pairs shares seeds height width 3"]:
    """Pictures laid over each other at these shares: the control, in which no model takes part."""
    at = _shares(shares).double().numpy()[None, :, None, None, None, None]
    return np.rint((1 - at) * first[:, None] + at * second[:, None]).astype(np.uint8)


def along_path(faces: Float[np.ndarray, "pairs shares dim"]) -> Float[np.ndarray, "pairs shares 2"]:
    """Where embeddings lie between those at the two ends: the share of the way, and the distance beside the line.

    Both in lengths of the line from the first to the last.
    """
    start, line = faces[:, :1], faces[:, -1:] - faces[:, :1]
    length = np.linalg.norm(line, axis=2, keepdims=True)
    share = ((faces - start) * line).sum(2, keepdims=True) / length**2
    beside = np.linalg.norm(faces - start - share * line, axis=2, keepdims=True) / length
    return np.concatenate([share, beside], axis=2)


def monotone(scores: Float[np.ndarray, "pairs shares"], slack: float = 0.0) -> Bool[np.ndarray, " pairs"]:
    """Whether the scores of a pair never go back, by more than ``slack`` of the way from the first to the last."""
    change = scores[:, -1] - scores[:, 0]
    steps = np.diff(scores, axis=1) * np.sign(change)[:, None]
    return (steps >= -finite_number("slack", slack) * np.abs(change)[:, None]).all(1)


def _shares(shares: Sequence[float]) -> Tensor:
    return torch.tensor([finite_number("share", share) for share in shares])
