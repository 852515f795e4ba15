"""Edits of many people at once, and what they changed."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from w2w_lib.directions import Direction, random_direction
from w2w_lib.space import WeightSpace


def combined_step(
    space: WeightSpace, directions: Mapping[str, Direction], strengths: Mapping[str, float]
) -> Float[Tensor, " d"]:
    """The change of theta of several edits together: the sum of theirs (Dravid et al. 2024, §4.3).

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


def random_step(space: WeightSpace, direction: Direction, seed: int) -> Float[Tensor, " d"]:
    """A step as long as the direction's own, within the same components, towards nothing in particular."""
    control = random_direction(space, len(direction.vector), seed).step(space)
    return control * direction.step(space).norm() / control.norm()


def flipped(before: pd.DataFrame, after: pd.DataFrame, attribute: str) -> Bool[np.ndarray, " models"]:
    """Whether the judge's verdict on the attribute turned over."""
    return ((before[attribute] > 0) != (after[attribute] > 0)).to_numpy()


def side_effects(before: pd.DataFrame, after: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """What every edit (row) did to every verdict (column), in standard deviations over the unedited people.

    Signs are turned so that a wanted change is positive on the diagonal.
    """
    rows = {}
    for attribute, logits in after.items():
        wanted = np.where(before[attribute] > 0, -1, 1)
        rows[attribute] = ((logits - before) / before.std()).mul(wanted, axis=0).mean()
    return pd.DataFrame(rows).T


def spill(effects: pd.DataFrame) -> float:
    """Mean size of the unwanted changes over that of the wanted ones (0: perfectly disentangled)."""
    square = effects[list(effects.index)].to_numpy()
    wanted = np.eye(len(square), dtype=bool)
    return float(np.abs(square[~wanted]).mean() / np.abs(square[wanted]).mean())
