"""What an edit changed in the pictures, by an attribute classifier."""

from collections.abc import Mapping, Sequence

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


def changes(before: pd.DataFrame, after: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """Of each person (row), how far an edit moved the logit of its attribute the wanted way, and all others anyhow.

    In standard deviations over the unedited people. ``wanted`` is positive where the logit went away from its first
    sign; ``others`` is the mean size of the changes of all other attributes, whose signs cannot cancel. ValueError for
    an unknown attribute.
    """
    for logits in (before, after):
        _check_attributes([attribute], logits)
    moved = (after - before) / before.std()
    wanted = moved[attribute] * np.where(before[attribute] > 0, -1, 1)
    return pd.DataFrame({"wanted": wanted, "others": moved.drop(columns=attribute).abs().mean(axis=1)})


def at_equal_effect(wanted: float, effects: Sequence[float], values: Sequence[float]) -> float:
    """What ``values``, measured at several strengths, would be where the wanted change is this one.

    Interpolated linearly between neighbouring strengths; ``effects`` are the wanted changes at these strengths. NaN
    outside of what was measured.
    """
    order = np.argsort(effects)
    ordered = np.asarray(effects, float)[order], np.asarray(values, float)[order]
    return float(np.interp(wanted, *ordered, left=np.nan, right=np.nan))


def _check_attributes(attributes: list[str], logits: pd.DataFrame) -> None:
    if unknown := [name for name in attributes if name not in logits]:
        raise ValueError(f"no attribute {unknown[0]!r}{nearest(str(unknown[0]), map(str, logits))}")
