"""What an edit changed in the pictures, by an attribute classifier."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool


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
