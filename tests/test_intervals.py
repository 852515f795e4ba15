"""Intervals over people in closed form."""

import numpy as np
import pytest
from scipy.stats import norm

from w2w_lib.evaluation.intervals import Interval, over_people, pseudo_values, share_of


def test_the_interval_of_a_mean_is_the_normal_one():
    values = np.random.default_rng(0).normal(3, 2, 400)
    found, half = over_people(values), norm.ppf(0.975) * values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)
    assert over_people(values) == found and found.named("x") == dict(zip(["x", "x_low", "x_high"], found, strict=True))
    assert str(Interval(0.5, -0.25, 1)) == "0.500 [-0.250, 1.000]"


def test_people_of_a_pair_are_drawn_together():
    before = np.random.default_rng(1).normal(0, 5, 50)
    after = before + 1  # everybody gains the same
    gain = over_people(after, before, statistic=lambda a, b: a.mean() - b.mean())
    assert gain == pytest.approx((1, 1, 1))
    apart = over_people(after, before, statistic=lambda a, b: a.mean() - b.mean(), paired=False)
    assert apart.low < 0 < 1 < apart.high
    with pytest.raises(ValueError, match="the same people in each group"):
        over_people(before, before[1:])
    assert np.isnan(over_people(before[:1]).low)


def test_pseudo_values_of_a_mean_are_the_groups_means_and_remove_the_bias_of_a_variance():
    values = np.random.default_rng(3).normal(size=24)
    of_mean = pseudo_values(24, lambda rows: values[rows].mean(keepdims=True), groups=6)
    np.testing.assert_allclose(of_mean[:, 0], [values[k::6].mean() for k in range(6)])
    of_variance = pseudo_values(24, lambda rows: values[rows].var(), groups=24)
    assert of_variance.mean() == pytest.approx(values.var(ddof=1))
    with pytest.raises(ValueError, match="2 people in 3 groups"):
        pseudo_values(2, lambda rows: rows, groups=3)


def test_wilsons_interval_of_a_share():
    n, z = 40, norm.ppf(0.975)
    assert share_of(np.zeros(n, bool)) == pytest.approx((0, 0, z**2 / (n + z**2)))
    with pytest.raises(ValueError, match="True or False"):
        share_of(np.zeros(3))
