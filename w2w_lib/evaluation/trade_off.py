"""What an edit costs at a given effect: methods compared where they change the wanted attribute equally much.

At one strength any method can look good: a weak edit keeps the person, a strong one succeeds. So the strength is
swept, and what an edit costs is read off at equal effect.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float

from w2w_lib.evaluation.intervals import Interval, over_people
from w2w_lib.inputs import finite_number, nearest

Scores = Float[np.ndarray, "people strengths"]  # the first strength is 0


def cost_at(effect: Scores, cost: Scores, level: float) -> float:
    """The mean cost at the strength where the mean effect reaches ``level``, between two strengths by a straight line.

    A strength whose effect is below that of a weaker one counts for the part before it only. NaN where the effect
    never reaches the level, and for scores that are not numbers.
    """
    means, costs = _rising(effect, cost)
    return float(np.interp(level, means, costs)) if level <= means[-1] else float("nan")


def area_under(effect: Scores, cost: Scores, level: float) -> float:
    """The mean cost over all effects from 0 to ``level``: the area under the curve of cost against effect, over level.

    NaN where the effect never reaches the level.
    """
    means, costs = _rising(effect, cost)
    if not 0 < level <= means[-1]:
        return float("nan")
    inside = means < level
    ends = np.interp([level], means, costs)
    return float(np.trapezoid(np.append(costs[inside], ends), np.append(means[inside], level)) / level)


def reached(effects: Mapping[str, Scores]) -> float:
    """The largest mean effect that every method reaches."""
    return float(min(np.nanmean(effect, axis=0).max() for effect in effects.values()))


def compared(
    first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray], level: float, statistic=cost_at
) -> Interval:
    """How much more the first method costs than the second at equal effect, of the same people, with its interval.

    Both are pairs of effects and costs (people, strengths), each method with strengths of its own. ValueError where
    they are not of the same people.
    """
    finite_number("level", level)
    scores = [np.asarray(one, float) for one in (*first, *second)]
    if len({len(one) for one in scores}) > 1 or any(one.ndim != 2 for one in scores):
        raise ValueError(f"scores of shapes {[one.shape for one in scores]}: expected the same people by strengths")
    return over_people(
        *scores, statistic=lambda e, c, other_e, other_c: statistic(e, c, level) - statistic(other_e, other_c, level)
    )


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
    means, costs = np.nanmean(effect, axis=0), np.nanmean(cost, axis=0)
    rising = np.append(True, means[1:] > np.maximum.accumulate(means)[:-1])
    return means[rising], costs[rising]
