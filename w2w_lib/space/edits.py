"""Edits of many people at once, and what they changed."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from w2w_lib.space.directions import Direction
from w2w_lib.space.weight_space import WeightSpace


def combined_step(
    space: WeightSpace, directions: Mapping[str, Direction], strengths: Mapping[str, float]
) -> Float[Tensor, " d"]:
    """The change of weights of several edits together: the sum of theirs (Dravid et al. 2024, §4.3).

    ValueError for an attribute without a direction.
    """
    unknown = [a for a in strengths if a not in directions]
    if unknown:
        raise ValueError(f"no direction for {', '.join(unknown)}: there are {', '.join(directions)}")
    steps = [directions[a].step(space, strength) for a, strength in strengths.items() if strength]
    return torch.stack(steps).sum(0) if steps else torch.zeros(space.components.shape[1])


def opposite_strengths(
    direction: Direction, shown: Bool[np.ndarray, " models"], share: float = 1.0
) -> Float[Tensor, " models"]:
    """Strengths that take the attribute away where it is shown and give it elsewhere.

    ``share`` is the part of the way to the training models' extreme projection (the paper goes all of it).
    """
    return share * torch.where(torch.tensor(np.asarray(shown)), direction.lowest, direction.highest)
