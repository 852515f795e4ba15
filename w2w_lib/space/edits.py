"""Edits of many people at once, and what they changed."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from w2w_lib.inputs import finite_number, instance, nearest
from w2w_lib.space.directions import Direction
from w2w_lib.space.weight_space import WeightSpace


def combined_step(
    space: WeightSpace, directions: Mapping[str, Direction], strengths: Mapping[str, float]
) -> Float[Tensor, " d"]:
    """The change of weights of several edits together: the sum of theirs (Dravid et al. 2024, §4.3).

    ``strengths`` are in standard deviations of the training models' projections. ValueError for an attribute without
    a direction, a direction of another space and a strength that is no finite number.
    """
    instance("directions", directions, Mapping)
    instance("strengths", strengths, (Mapping, pd.Series))
    strengths = dict(strengths)
    for attribute in strengths:
        if attribute not in directions:
            raise ValueError(f"no direction {attribute!r}{nearest(attribute, directions)}")
    steps = [directions[attribute].step(space, strength) for attribute, strength in strengths.items()]
    return torch.stack(steps).sum(0) if steps else torch.zeros_like(space.mean_model)


def opposite_strengths(
    direction: Direction, shown: Bool[np.ndarray, " models"], share: float = 1.0
) -> Float[Tensor, " models"]:
    """Strengths that take the attribute away where it is shown and give it elsewhere.

    ``share`` is the part of the way to the training models' extreme projection (the paper goes all of it).
    """
    instance("direction", direction, Direction)
    shown = np.asarray(shown)
    if shown.dtype != bool:
        raise ValueError(f"shown: expected True or False for each model, found numbers of type {shown.dtype}")
    return finite_number("share", share) * torch.where(torch.tensor(shown), direction.lowest, direction.highest)
