"""What an edit costs at a given effect: methods compared where they change the wanted attribute equally much.

At one strength any method can look good: a weak edit keeps the person, a strong one succeeds. So the strength is
swept, and what an edit costs is read off at equal effect: at one (``cost_at``) or as the mean up to one
(``area_under``).
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from jaxtyping import Float

from w2w_lib.inputs import nearest

Scores = Float[np.ndarray, "people strengths"]  # the first strength is 0


def cost_at(effects: Float[np.ndarray, " strengths"], costs: Float[np.ndarray, " strengths"], level: float) -> float:
    """The cost where the effect, 0 at the first strength, first reaches a level; NaN where it never does.

    Both are means over people, joined by straight lines between the strengths.
    """
    reaching = np.flatnonzero(effects >= level)
    if not level > 0 or not len(reaching):
        return float("nan")
    k = reaching[0]
    part = (level - effects[k - 1]) / (effects[k] - effects[k - 1])
    return float(costs[k - 1] + part * (costs[k] - costs[k - 1]))


def area_under(effect: Scores, cost: Scores, level: float) -> float:
    """The mean cost over all effects from 0 to ``level``: the area under the curve of cost against effect, over level.

    Straight lines join the strengths. A strength whose mean effect is below that of a weaker one does not count. NaN
    where the effect never reaches the level.
    """
    means, costs = _rising(effect, cost)
    if not 0 < level <= means[-1]:
        return float("nan")
    inside = means < level
    ends = np.interp([level], means, costs)
    return float(np.trapezoid(np.append(costs[inside], ends), np.append(means[inside], level)) / level)


def reached(effects: Iterable[Scores]) -> float:
    """The largest mean effect that every method reaches; 0 where one has none in the wanted way."""
    return float(min(_means(effect).max() for effect in effects))


def area_between(effect: Scores, cost: Scores, reference_effect: Scores, reference_cost: Scores) -> float:
    """How much more a method costs than the reference, the mean over all effects up to the largest that both reach.

    NaN where one of them has no effect in the wanted way.
    """
    level = reached((effect, reference_effect))
    return area_under(effect, cost, level) - area_under(reference_effect, reference_cost, level)


def swept(scores: pd.DataFrame, method: str, attribute: str, column: str) -> Scores:
    """One column of a table of scores as people by strengths, the strengths rising from 0.

    ``scores`` has a row for each ``method``, ``attribute``, ``strength`` and ``person``.
    """
    for name, value in {"method": method, "attribute": attribute}.items():
        if value not in set(scores[name]):
            raise ValueError(f"no scores of {name} {value!r}{nearest(str(value), sorted(set(scores[name])))}")
    rows = scores[(scores["method"] == method) & (scores["attribute"] == attribute)]
    return rows.pivot(index="person", columns="strength", values=column).sort_index(axis=1).to_numpy(float)


def _rising(effect: Scores, cost: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Mean effects and costs by strength, those alone whose effect is above all before."""
    means, costs = _means(effect), _means(cost)
    rising = np.append(True, means[1:] > np.maximum.accumulate(means)[:-1])
    return means[rising], costs[rising]


def _means(scores: Scores) -> Float[np.ndarray, " strengths"]:
    """Means over people of those who have a number; NaN where nobody has."""
    known = ~np.isnan(scores)
    with np.errstate(invalid="ignore"):
        return np.where(known, scores, 0).sum(axis=0) / known.sum(axis=0)
