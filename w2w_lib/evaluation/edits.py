"""What an edit changed in the pictures, by an attribute classifier."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from w2w_lib.evaluation.trade_off import cost_at
from w2w_lib.inputs import nearest


def flipped(before: pd.DataFrame, after: pd.DataFrame, attribute: str) -> Bool[np.ndarray, " models"]:
    """Whether the classifier's decision on the attribute changed, for each model; ValueError for an unknown one."""
    for logits in (before, after):
        _check_attributes([attribute], logits)
    return ((before[attribute] > 0) != (after[attribute] > 0)).to_numpy()


def changes(before: pd.DataFrame, after: pd.DataFrame, attribute: str) -> pd.DataFrame:
    """Change of each person's (row) every logit (column) by one edit, in standard deviations over the unedited people.

    That of the edited ``attribute`` is positive where the logit went the wanted way, away from its first sign.
    ValueError for an unknown attribute, for logits of other people or attributes, and for a logit that is the same for
    all unedited people.
    """
    for logits in (before, after):
        _check_attributes([attribute], logits)
    if list(before) != list(after) or not before.index.equals(after.index):
        raise ValueError(f"logits of shapes {before.shape} and {after.shape}: expected the same people and attributes")
    deviations = before.std()
    if constant := [name for name in before if not deviations[name] > 0]:
        raise ValueError(f"logits of {constant[0]!r} do not differ among {len(before)} people: expected several people")
    moved = (after - before) / deviations
    return moved.assign(**{attribute: moved[attribute] * np.where(before[attribute] > 0, -1, 1)})


def unwanted(changed: pd.DataFrame, attribute: str) -> Float[np.ndarray, " people"]:
    """Mean size of the ``changes`` of all attributes but the edited one, for each person: opposite ones do not cancel.

    ValueError for an unknown attribute, and where there is no other.
    """
    _check_attributes([attribute], changed)
    others = changed.drop(columns=attribute)
    if others.empty:
        raise ValueError(f"changes of {attribute!r} alone: expected those of other attributes beside it")
    return others.abs().mean(axis=1).to_numpy(float)


def side_effects(before: pd.DataFrame, after: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean change of every logit (column) by every edit (row), in standard deviations over the unedited people.

    Signs are turned so that a wanted change is positive on the diagonal. Changes that go one way for some people and
    the other way for others cancel here: ``unwanted`` measures them. ValueError as in ``changes``.
    """
    return pd.DataFrame({a: changes(before, logits, a).mean() for a, logits in after.items()}).T


def at_equal_effect(
    wanted: Float[np.ndarray, "people methods strengths"], unwanted: Float[np.ndarray, "people methods strengths"]
) -> Float[np.ndarray, " methods"]:
    """Mean unwanted change of each method where all move the edited attribute equally far, in the mean over people.

    ``strengths`` ascend, and no edit (0, 0) precedes them. The effect is the largest that every method reaches. NaN
    where a method has no effect, or none the wanted way. ValueError for arrays of other or different shapes.
    """
    wanted, unwanted = np.asarray(wanted, float), np.asarray(unwanted, float)
    if wanted.ndim != 3 or wanted.shape != unwanted.shape or not wanted.size:
        raise ValueError(
            f"changes of shapes {wanted.shape} and {unwanted.shape}: expected twice (people, methods, strengths)"
        )
    effects, spills = (np.pad(part.mean(0), ((0, 0), (1, 0))) for part in (wanted, unwanted))
    common = effects.max(1).min()
    return np.array([cost_at(effect, spill, common) for effect, spill in zip(effects, spills, strict=True)])


def _check_attributes(attributes: list[str], logits: pd.DataFrame) -> None:
    if unknown := [name for name in attributes if name not in logits]:
        raise ValueError(f"no attribute {unknown[0]!r}{nearest(str(unknown[0]), map(str, logits))}")
