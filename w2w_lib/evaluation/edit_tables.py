"""Tables of edits' scores: means with intervals over people, and methods in pairs."""

from collections.abc import Sequence

import pandas as pd

from w2w_lib.evaluation.intervals import Interval, over_people
from w2w_lib.inputs import nearest


def by_person(scores: pd.DataFrame, column: str, method: str, attributes: Sequence[str] | None = None) -> pd.Series:
    """One column of scores by person, the mean over attributes; NaN where a person has no number.

    ``scores`` has a row for each method, attribute and person. ValueError for an unknown method or column.
    """
    for kind, name, known in (("method", method, scores["method"]), ("column", column, scores.columns)):
        if name not in set(known):
            raise ValueError(f"no {kind} {name!r}{nearest(str(name), sorted(set(known)))}")
    rows = scores[scores["method"] == method]
    rows = rows if attributes is None else rows[rows["attribute"].isin(attributes)]
    return rows.groupby("person", sort=False)[column].mean()


def averages(scores: pd.DataFrame, column: str) -> pd.DataFrame:
    """Means over people with intervals: a row for each attribute, a column for each method."""
    groups = scores.groupby(["attribute", "method"], sort=False)[column]
    return groups.apply(lambda own: over_people(own.to_numpy(float))).unstack("method", sort=False)


def difference(
    scores: pd.DataFrame, column: str, method: str, reference: str, attributes: Sequence[str] | None = None
) -> Interval:
    """How far a method is above another in a column, in pairs of the same people and attributes, with its interval.

    Of people whom one of them has no number for, nothing counts.
    """
    rows = scores if attributes is None else scores[scores["attribute"].isin(attributes)]
    pair = rows[rows["method"].isin([method, reference])].pivot(
        index=["person", "attribute"], columns="method", values=column
    )
    if missing := [name for name in (method, reference) if name not in pair]:
        raise ValueError(f"no method {missing[0]!r}{nearest(missing[0], sorted(set(scores['method'])))}")
    gaps = (pair[method] - pair[reference]).astype(float)
    return over_people(gaps.groupby("person", sort=False).mean().to_numpy())


def as_text(table: pd.DataFrame, digits: int = 2) -> pd.DataFrame:
    """A table of intervals as texts."""
    return table.map(lambda one: one.text(digits) if isinstance(one, Interval) else "")


def verdict(difference: Interval, better: int) -> str:
    """In words, whether a difference is as claimed: above 0 (``better`` 1) or below (-1), its interval without 0."""
    low, high = sorted((better * difference.low, better * difference.high))
    return "holds" if low > 0 else "does not hold" if high < 0 else "cannot be told"
