"""What a score does with the number of people: slope for each tenfold, what it predicts, and whether a claim holds."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from w2w_lib.evaluation.intervals import Interval, over_people

Answer = Literal["holds", "does not hold", "cannot be told"]


class Optimum(NamedTuple):
    """The level with the best mean, and by how much it is better than the first and the last of all levels."""

    level: float
    over_first: Interval
    over_last: Interval


def slope_per_decade(sizes: Sequence[float], scores: Float[np.ndarray, "people sizes"]) -> Interval:
    """Change of the mean score with ten times as many models: least squares on log10, with 95% over rows.

    A row is a person (or another repeat of the whole experiment) at every size.
    """
    decades, scores = _decades(sizes, scores)
    return over_people(scores, statistic=lambda drawn: float(_line(decades, drawn.mean(0))[0]))


def predicted(sizes: Sequence[float], scores: Float[np.ndarray, "people sizes"], size: float) -> Interval:
    """The mean score that the line of ``slope_per_decade`` has at another size; its interval is of the line alone.

    That the line goes on straight is assumed, and no interval covers it.
    """
    decades, scores = _decades(sizes, scores)
    at = float(np.log10(size))
    return over_people(scores, statistic=lambda drawn: float(np.polyval(_line(decades, drawn.mean(0)), at)))


def missed(sizes: Sequence[float], scores: Float[np.ndarray, "people sizes"]) -> Interval:
    """Measured at the last size, minus what the line through all others predicts for it: a test of the trend."""
    decades, scores = _decades(sizes, scores, least=3)

    def gap(drawn: np.ndarray) -> float:
        mean = drawn.mean(0)
        return float(mean[-1] - np.polyval(_line(decades[:-1], mean[:-1]), decades[-1]))

    return over_people(scores, statistic=gap)


def optimum(levels: Sequence[float], scores: Float[np.ndarray, "people levels"], highest: bool = True) -> Optimum:
    """The best level between the ends, compared with both ends; positive is better, ``highest`` or lowest.

    The best is chosen anew in each draw of people, so that the choice itself is in the interval. ValueError for fewer
    than three levels.
    """
    scores = np.asarray(scores, float) * (1 if highest else -1)
    if scores.ndim != 2 or scores.shape[1] != len(levels) or len(levels) < 3:
        raise ValueError(f"scores of shape {scores.shape} for {len(levels)} levels: expected at least 3, a column each")

    def above(end: int) -> Interval:
        return over_people(scores, statistic=lambda drawn: float(drawn.mean(0)[1:-1].max() - drawn.mean(0)[end]))

    inner = int(scores.mean(0)[1:-1].argmax()) + 1
    return Optimum(levels[inner], above(0), above(-1))


def answer(*intervals: Interval) -> Answer:
    """Whether all of some numbers are above 0: all intervals above, one wholly below (or at) 0, or neither."""
    if all(interval.low > 0 for interval in intervals):
        return "holds"
    return "does not hold" if any(interval.high <= 0 for interval in intervals) else "cannot be told"


def within(limit: float, *intervals: Interval) -> Answer:
    """Whether some numbers are between -limit and limit: all intervals inside, one wholly outside, or neither."""
    if all(-limit < interval.low and interval.high < limit for interval in intervals):
        return "holds"
    outside = any(interval.low > limit or interval.high < -limit for interval in intervals)
    return "does not hold" if outside else "cannot be told"


def negated(interval: Interval) -> Interval:
    """The interval of the number with the other sign, for a claim that something falls."""
    return Interval(-interval.value, -interval.high, -interval.low)


def _line(decades: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return np.polyfit(decades, mean, 1)


def _decades(sizes: Sequence[float], scores: np.ndarray, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    scores, sizes = np.asarray(scores, float), np.asarray(sizes, float)
    if scores.ndim != 2 or scores.shape[1] != len(sizes) or len(sizes) < least or (np.diff(sizes) <= 0).any():
        raise ValueError(
            f"scores of shape {scores.shape} for sizes {sizes.tolist()}: expected at least {least} rising sizes, and a "
            "column for each"
        )
    if not np.isfinite(scores).all():
        raise ValueError("scores: hold NaN or infinity; leave these rows out")
    return np.log10(sizes), scores
