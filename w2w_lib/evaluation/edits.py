"""What an edit changed in the pictures, by an attribute classifier."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool

from w2w_lib.inputs import nearest


def flipped(before: pd.DataFrame, after: pd.DataFrame, attribute: str) -> Bool[np.ndarray, " models"]:
    """Whether the classifier's decision on the attribute changed, for each model; ValueError for an unknown one."""
    for logits in (before, after):
        _check_attributes([attribute], logits)
    return ((before[attribute] > 0) != (after[attribute] > 0)).to_numpy()


def side_effects(before: pd.DataFrame, after: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean change of every logit (column) by every edit (row), in standard deviations over the unedited people.

    Signs are turned so that a wanted change is positive on the diagonal. ValueError for an edit of an unknown
    attribute.
    """
    _check_attributes(list(after), before)
    rows = {}
    for attribute, logits in after.items():
        wanted = np.where(before[attribute] > 0, -1, 1)
        rows[attribute] = ((logits - before) / before.std()).mul(wanted, axis=0).mean()
    return pd.DataFrame(rows).T


def spill(effects: pd.DataFrame) -> float:
    """Mean size of the unwanted changes over that of the wanted ones (0: perfectly disentangled).

    NaN for a single edit, which has no unwanted changes; ValueError where the edits are not among the columns.
    """
    _check_attributes(list(effects.index), effects)
    if len(effects) < 2:
        return float("nan")
    square = effects[list(effects.index)].to_numpy()
    wanted = np.eye(len(square), dtype=bool)
    return float(np.abs(square[~wanted]).mean() / np.abs(square[wanted]).mean())


def _check_attributes(attributes: list[str], logits: pd.DataFrame) -> None:
    if unknown := [name for name in attributes if name not in logits]:
        raise ValueError(f"no attribute {unknown[0]!r}{nearest(str(unknown[0]), map(str, logits))}")
