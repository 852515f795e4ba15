"""95% intervals over people: of means, of differences, of shares."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import DegenerateDataWarning, binomtest, bootstrap

from w2w_lib.inputs import known_seed, whole_number

LEVEL = 0.95
RESAMPLES = 999  # of the people


class Interval(NamedTuple):
    """A number and the ends of its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return self.text(3)

    def text(self, digits: int = 3, sign: bool = False) -> str:
        """Such as "0.957 [0.930, 0.981]"."""
        form = f"{{:{'+' if sign else ''}.{digits}f}}"
        return f"{form.format(self.value)} [{form.format(self.low)}, {form.format(self.high)}]"

    def named(self, name: str) -> dict[str, float]:
        """For a table of metrics: the number under this name, the ends with ``_low`` and ``_high``."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def mean(scores: np.ndarray) -> float:
    """The mean of those that are numbers; NaN where none is."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if len(known) else float("nan")


def over_people(
    *groups: np.ndarray, statistic: Callable[..., float] = mean, paired: bool = True, seed: int = 0
) -> Interval:
    """The statistic of scores with one row for each person, and its percentile bootstrap over people.

    Several ``paired`` groups are of the same people, who are drawn together (so is the difference of two methods);
    others are drawn each on its own. Draws whose statistic is NaN (everybody the same person) do not count. NaN where
    there are fewer than two people. ValueError for paired groups of different length.
    """
    groups = tuple(np.asarray(group) for group in groups)
    if not groups or any(not group.ndim for group in groups) or (paired and len({len(g) for g in groups}) > 1):
        found = ", ".join(str(group.shape) for group in groups) or "none"
        raise ValueError(f"scores of shapes {found}: expected a row for each person, the same people in each group")
    value = float(statistic(*groups))
    if min(map(len, groups)) < 2:  # which SciPy refuses to draw from
        return Interval(value, float("nan"), float("nan"))
    rows = [np.arange(len(group)) for group in (groups[:1] if paired else groups)]

    def of_drawn(*drawn: np.ndarray) -> float:
        each = drawn * len(groups) if paired else drawn
        return float(statistic(*(group[chosen] for group, chosen in zip(groups, each, strict=True))))

    settings = {"n_resamples": RESAMPLES, "vectorized": False, "method": "percentile", "confidence_level": LEVEL}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)  # all draws alike: an interval without width
        found = bootstrap(rows, of_drawn, paired=False, rng=np.random.default_rng(known_seed(seed)), **settings)
    return _ends(value, found.bootstrap_distribution)


def _ends(value: float, drawn: np.ndarray) -> Interval:
    if np.isnan(drawn).all():
        return Interval(value, float("nan"), float("nan"))
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def pseudo_values(
    people: int, statistic: Callable[[Int[np.ndarray, " rows"]], np.ndarray], groups: int
) -> Float[np.ndarray, "groups ..."]:
    """What each of some groups of people contributes to a statistic too slow to resample (Tukey 1958).

    g times the statistic of all rows, minus (g - 1) times that of the rows without a group. Their mean is the
    jackknife's estimate; ``over_people`` takes them for people. ValueError for fewer people than groups.
    """
    groups = whole_number("groups", groups, 2)
    if whole_number("people", people) < groups:
        raise ValueError(f"{people} people in {groups} groups: expected at least one in each")
    rows = np.arange(people)
    without = np.stack([statistic(rows[rows % groups != k]) for k in range(groups)])
    return groups * statistic(rows) - (groups - 1) * without


def share_of(yes: np.ndarray) -> Interval:
    """The share of people of whom something is true, with Wilson's interval; NaN for nobody."""
    yes = np.asarray(yes)
    if yes.dtype != bool or yes.ndim != 1:
        raise ValueError(f"people of type {yes.dtype} and shape {yes.shape}: expected True or False for each")
    if not len(yes):
        return Interval(float("nan"), float("nan"), float("nan"))
    found = binomtest(int(yes.sum()), len(yes)).proportion_ci(LEVEL, method="wilson")
    return Interval(float(yes.mean()), float(found.low), float(found.high))
