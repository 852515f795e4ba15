"""Costs at equal effect, against straight lines whose values are known."""

import numpy as np
import pandas as pd
import pytest

from w2w_lib.evaluation.edit_sweep import at_equal_effect, from_zero, gap_at_equal_effect
from w2w_lib.evaluation.edit_tables import averages, by_person, difference, verdict
from w2w_lib.evaluation.intervals import Interval
from w2w_lib.evaluation.trade_off import area_between, area_under, cost_at, reached, swept

SHARES = np.array([0.0, 0.5, 1.0, 2.0])


def people(slope: float, noise: float = 0.0, count: int = 40) -> np.ndarray:
    rng = np.random.default_rng(0)
    return slope * SHARES + noise * rng.normal(size=(count, 1)) * SHARES


def test_the_mean_cost_up_to_an_effect():
    effect, cost = people(2.0), people(0.3)  # cost = 0.15 * effect
    assert area_under(effect, cost, 3.0) == pytest.approx(0.45 / 2)
    assert np.isnan(area_under(effect, cost, 4.1)) and np.isnan(area_under(effect, cost, 0.0))


def test_the_cost_where_an_effect_is_first_reached():
    effects, costs = np.array([0.0, 1.0, 2.0, 4.0, 3.0]), np.array([0.0, 0.1, 0.4, 1.0, 9.0])
    assert [cost_at(effects, costs, level) for level in (0.5, 1.0, 3.0)] == pytest.approx([0.05, 0.1, 0.7])
    assert np.isnan(cost_at(effects, costs, 5.0)) and np.isnan(cost_at(effects, costs, 0.0))


def test_what_is_stronger_without_more_effect_does_not_count():
    effect, cost = np.array([[0.0, 1.0, 0.8, 2.0]]), np.array([[0.0, 0.1, 5.0, 0.3]])
    assert area_under(effect, cost, 2.0) == pytest.approx((0.05 + 0.2) / 2)
    assert reached([effect, effect / 2]) == 1.0


def test_the_area_between_two_methods_ends_where_the_weaker_one_does():
    dear, cheap = (people(1.0), people(0.4)), (people(2.0), people(0.4))  # 0.4 and 0.2 for an effect of 1
    assert area_between(*cheap, *dear) == pytest.approx(0.2 - 0.4)  # up to 2, half of it on average
    assert np.isnan(area_between(*cheap, -dear[0], dear[1]))  # never in the wanted way
    nobody = np.full_like(dear[1], np.nan)  # no face anywhere
    assert np.isnan(area_between(cheap[0], nobody, *dear))


def table() -> pd.DataFrame:
    """Two methods, two attributes, three people, three strengths; costs are known multiples of effects."""
    rows = [
        {"method": m, "attribute": a, "person": f"p{i}", "strength": s, "effect": (k + i) * s, "identity": 1 - c * s}
        for m, k, c in (("weak", 1, 0.1), ("strong", 2, 0.1))
        for a in ("Bald", "Young")
        for i in range(3)
        for s in (0.5, 1.0)
    ]
    return pd.DataFrame(rows)


def test_a_sweep_begins_with_no_edit():
    scores = from_zero(table())
    assert len(scores) == 12 + 24
    np.testing.assert_allclose(swept(scores, "weak", "Bald", "identity"), [[1, 0.95, 0.9]] * 3)
    np.testing.assert_allclose(swept(scores, "strong", "Bald", "effect"), [[0, 1, 2], [0, 1.5, 3], [0, 2, 4]])
    level = at_equal_effect(scores, "identity")
    assert list(level["level"]) == [2.0, 2.0]  # the mean effect of the weak one, at its strongest
    assert level.loc["Bald", "weak"] == pytest.approx(0.95)
    assert level.loc["Bald", "strong"] == pytest.approx(1 - 0.1 / 3)  # two thirds of the strength
    with pytest.raises(ValueError, match="no scores of method 'week', did you mean 'weak'"):
        swept(scores, "week", "Bald", "effect")


def test_methods_are_compared_at_equal_effect_in_pairs_of_the_same_people():
    scores = from_zero(table())
    gap = gap_at_equal_effect(scores, "identity", "strong", "weak", ["Bald", "Young"])
    # Up to an effect of 2, the mean of the weak one at its strongest, identity falls by 1/20 and by 1/30 of the effect.
    assert gap.value == pytest.approx((1 - 2 / 30 / 2) - (1 - 2 / 20 / 2))
    assert 0 < gap.low <= gap.value <= gap.high
    assert gap_at_equal_effect(scores, "identity", "weak", "weak", ["Bald"]) == Interval(0.0, 0.0, 0.0)
    none = scores.assign(effect=-scores["effect"])
    assert np.isnan(gap_at_equal_effect(none, "identity", "strong", "weak", ["Bald"]).value)
    assert np.isnan(gap_at_equal_effect(scores, "identity", "strong", "weak", []).value)


def test_tables_are_means_over_people_and_differences_are_in_pairs():
    scores = table()
    scores = scores[scores["strength"] == 1.0]
    found = averages(scores, "effect")
    assert list(found.columns) == ["weak", "strong"] and found.loc["Young", "weak"].value == 2.0
    gap = difference(scores, "effect", "strong", "weak")
    assert gap == Interval(1.0, 1.0, 1.0)  # of everybody, though people differ by more
    np.testing.assert_allclose(by_person(scores, "effect", "weak"), [1, 2, 3])
    scores.loc[(scores["person"] == "p0") & (scores["method"] == "weak"), "effect"] = np.nan
    assert difference(scores, "effect", "strong", "weak").value == 1.0  # p0 counts for neither
    with pytest.raises(ValueError, match="no method 'week'"):
        difference(scores, "effect", "strong", "week")


def test_a_claim_is_told_only_by_an_interval_without_0():
    above, about, below = Interval(1, 0.5, 2), Interval(0, -1, 1), Interval(-1, -2, -0.1)
    assert [verdict(one, 1) for one in (above, about, below)] == ["holds", "cannot be told", "does not hold"]
    assert verdict(below, -1) == "holds" and verdict(Interval(1, float("nan"), float("nan")), 1) == "cannot be told"
