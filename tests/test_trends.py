"""Slopes, predictions, optima and answers, on scores whose truth is planted; spill at an equal effect."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_base import tiny_pipeline

from w2w_lib.evaluation.attributes import AttributeClassifier
from w2w_lib.evaluation.intervals import Interval
from w2w_lib.evaluation.matched_effect import changes, edited_logits, mean_spill_at, opposite_lengths, spill_above_best
from w2w_lib.evaluation.trends import answer, missed, negated, optimum, predicted, slope_per_decade, within
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.sampling import Sampling

SIZES = [50, 100, 500, 1000]


def planted(slope, people=60, noise=0.05):
    """People who differ much from each other, and little in what ten times as many models do to them."""
    rng = np.random.default_rng(0)
    level = rng.normal(0, 1, (people, 1))
    return level + slope * np.log10(SIZES) + rng.normal(0, noise, (people, len(SIZES)))


def test_a_slope_is_paired_over_people():
    found = slope_per_decade(SIZES, planted(0.1))
    assert found.low < 0.1 < found.high and found.high - found.low < 0.05 and answer(found) == "holds"
    assert answer(slope_per_decade(SIZES, planted(-0.1))) == "does not hold"
    assert answer(slope_per_decade(SIZES, planted(0.0))) == "cannot be told"


def test_intervals_of_slopes_cover_the_truth_as_often_as_they_say():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(60):
        scores = rng.normal(0, 1, (40, 1)) + 0.2 * np.log10(SIZES) + rng.normal(0, 0.3, (40, len(SIZES)))
        found = slope_per_decade(SIZES, scores)
        hits += found.low < 0.2 < found.high
    assert hits >= 52


def test_a_line_predicts_what_it_goes_to_and_a_plateau_is_noticed():
    scores = planted(0.1)
    found = predicted(SIZES, scores, 10_000)
    assert found.value == pytest.approx(scores.mean() + 0.1 * (4 - np.log10(SIZES).mean()), abs=0.03)
    assert missed(SIZES, planted(0.1, noise=0)).value == pytest.approx(0, abs=1e-9)
    steep = planted(0.3)
    assert missed(SIZES, np.minimum(steep, steep[:, :1] + 0.3)).high < 0


def test_an_optimum_inside_is_better_than_both_ends():
    rng = np.random.default_rng(0)
    curve = np.array([0.0, 0.5, 1.0, 0.3]) + rng.normal(0, 0.2, (50, 4))
    best = optimum([10, 30, 100, 300], curve)
    assert best.level == 100 and answer(best.over_first, best.over_last) == "holds"
    rising = np.array([0.0, 0.5, 1.0, 1.5]) + rng.normal(0, 0.2, (50, 4))
    best = optimum([10, 30, 100, 300], rising)
    assert best.level == 100 and answer(best.over_first, best.over_last) == "does not hold"
    assert optimum([10, 30, 100, 300], -curve, highest=False).level == 100
    with pytest.raises(ValueError, match="at least 3"):
        optimum([1, 2], curve[:, :2])


def test_answers():
    above, below, around = Interval(2, 1, 3), Interval(-2, -3, -1), Interval(0, -1, 1)
    assert answer(above, above) == "holds" and answer(above, around) == "cannot be told"
    assert answer(around, below) == "does not hold" and answer(negated(below)) == "holds"
    assert within(2, around) == "holds" and within(0.5, around) == "cannot be told"
    assert within(0.5, around, above) == "does not hold"


def test_the_wrong_scores_are_refused():
    with pytest.raises(ValueError, match="rising sizes"):
        slope_per_decade([100, 50], np.zeros((5, 2)))
    with pytest.raises(ValueError, match="NaN"):
        slope_per_decade([50, 100], np.full((5, 2), np.nan))


def test_spill_where_the_effect_is_equal():
    wanted = np.tile([1.0, 2.0, 4.0], (5, 1))
    unwanted = np.tile([0.1, 0.4, 1.0], (5, 1))
    both = np.stack([wanted, 0.1 * wanted], 1), np.stack([unwanted, unwanted], 1)
    assert mean_spill_at(*both, 3.0) == pytest.approx(0.7)  # the second never has it
    assert np.isnan(mean_spill_at(*both, 5.0))


def test_the_spill_of_an_end_is_compared_with_the_least_between():
    spaces = [(1.0, 0.4), (1.0, 0.3), (1.0, 0.2), (0.1, 0.0), (0.1, 0.0)]  # effect and spill; the last two are too weak
    wanted, unwanted = (np.tile(np.array(part)[:, None, None], (5, 1, 1, 1)) for part in zip(*spaces, strict=True))
    assert spill_above_best(wanted, unwanted, 1.0, 0) == pytest.approx(0.2)
    assert np.isnan(spill_above_best(wanted, unwanted, 1.0, -1))
    assert np.isnan(spill_above_best(wanted[:, [0, 3, 4]], unwanted[:, [0, 3, 4]], 1.0, 0))


def test_changes_are_towards_the_opposite_in_deviations_of_the_unedited():
    before = pd.DataFrame({"Cap": [2.0, -2.0], "Hat": [1.0, 3.0], "Bow": [0.0, 1.0]})
    after = before.to_numpy()[:, None] + np.array([[[-2.0, 1.0, 9.0]], [[2.0, -1.0, 9.0]]])
    wanted, unwanted = changes(before, after, "Cap", ["Cap", "Hat"])
    np.testing.assert_allclose(wanted, np.array([[2.0], [2.0]]) / before["Cap"].std())
    np.testing.assert_allclose(unwanted, np.array([[1.0], [1.0]]) / before["Hat"].std())
    assert opposite_lengths(np.array([True, False]), [1.0, 2.0]).tolist() == [[-1, -2], [1, 2]]


def test_logits_are_of_each_model_moved():
    pipeline = tiny_pipeline()
    layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline), "paper")
    own = torch.randn(2, layout.dimension, generator=torch.Generator().manual_seed(0))
    step, sampling = torch.ones(layout.dimension), Sampling(steps=2)
    torch.manual_seed(0)
    classifier = AttributeClassifier(("Cap", "Hat")).eval()
    classifier.head.weight.data *= 1000  # untrained, it hardly tells pictures apart
    arguments = pipeline, layout, classifier
    strengths = torch.tensor([[0.0, 3.0], [0.0, -3.0]])
    found = edited_logits(*arguments, own, step, strengths, ("person", 0), sampling)
    moved = edited_logits(*arguments, own + strengths[:, 1:] * step, step, torch.zeros(2, 1), ("person", 0), sampling)
    np.testing.assert_allclose(found[:, 1], moved[:, 0], atol=1e-3)
    assert np.abs(found[:, 0] - found[:, 1]).max() > 1e-2
