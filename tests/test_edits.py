"""Edits and their controls: sums of steps, opposite extremes, random directions, side effects by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from planted import PCS

from w2w_lib.evaluation.edits import flipped, side_effects, spill
from w2w_lib.space.controls import random_direction, random_step
from w2w_lib.space.directions import fit_directions
from w2w_lib.space.edits import combined_step, opposite_strengths
from w2w_lib.space.weight_space import WeightSpace


def test_combined_steps_add_up(space, labels):
    directions = fit_directions(space, labels, PCS)
    both = combined_step(space, directions, {"first": 1.0, "second": -2.0})
    expected = directions["first"].step(space) - 2 * directions["second"].step(space)
    torch.testing.assert_close(both, expected)
    assert combined_step(space, directions, {"first": 0.0}).norm() == 0


def test_edits_refuse(layout, weights, ids, space, labels, unchecked):
    directions = fit_directions(space, labels, PCS)
    other = WeightSpace.fit(layout, 2 * weights, ids, PCS)
    first = directions["first"]
    for call, error in [
        (lambda: combined_step(space, directions, {"Glasses": 1.0}), "'Glasses'; expected one of first, second, both"),
        (lambda: combined_step(space, directions, {"fist": 1.0}), "no direction 'fist', did you mean 'first'?"),
        (lambda: combined_step(space, directions, {"both": float("nan")}), "strength of both: expected a finite"),
        (lambda: combined_step(space, directions, {1: 1.0}), "no direction 1; expected one of first, second, both"),
        (lambda: combined_step(space, directions, ["both"]), "strengths: expected Mapping or Series, found list"),
        (lambda: combined_step(other, directions, {"both": 0.0}), f"is of space {space.source}"),
        (lambda: combined_step(other, directions, {"both": 1.0}), f"is of space {space.source}, .* {other.source}"),
        (lambda: random_step(other, first, 0), f"is of space {space.source}, .* {other.source}"),
        (lambda: random_direction(space, 0, 0), "components: expected a whole number of at least 1"),
        (lambda: random_direction(space, PCS + 1, 0), "components: .* at most 8, found 9"),
        (lambda: opposite_strengths(first, np.array([0.0, 1.0])), "shown: expected True or False"),
        (lambda: opposite_strengths(first, np.array([True]), float("inf")), "share: expected a finite number"),
    ]:
        with pytest.raises(ValueError, match=error):
            call()


def test_opposite_strengths_go_to_the_other_extreme(space, labels):
    direction = fit_directions(space, labels, PCS)["first"]
    strengths = opposite_strengths(direction, np.array([True, False]), share=0.5)
    assert strengths.tolist() == pytest.approx([direction.lowest / 2, direction.highest / 2])


def test_random_step_is_as_long_and_points_elsewhere(space, labels):
    direction = fit_directions(space, labels, PCS)["first"]
    step, control = direction.step(space), random_step(space, direction, seed=3)
    assert control.norm() == pytest.approx(step.norm().item(), rel=1e-4)
    assert abs(torch.cosine_similarity(step, control, dim=0)) < 0.9
    vectors = [random_direction(space, PCS, seed).vector for seed in (0, 0, 1)]
    assert vectors[0].norm() == pytest.approx(1, abs=1e-5)
    assert torch.equal(*vectors[:2]) and abs(vectors[0] @ vectors[2]) < 0.9


def test_side_effects_by_hand():
    before = pd.DataFrame({"a": [1.0, -1.0, 3.0, -3.0], "b": [0.5, -0.5, 0.5, -0.5]})
    turned = before.assign(a=-before["a"])  # |change of a| is 2 |a|, b untouched
    assert flipped(before, turned, "a").all() and not flipped(before, turned, "b").any()
    effects = side_effects(before, {"a": turned, "b": before.assign(b=-before["b"])})
    assert effects.loc["a", "a"] == pytest.approx(4 / before["a"].std())
    assert effects.loc["b", "b"] == pytest.approx(1 / before["b"].std())
    assert effects.loc["a", "b"] == 0 and spill(effects) == 0
