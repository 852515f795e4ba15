"""Edits and their controls: sums of steps, opposite extremes, random directions, side effects by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from planted import PCS

from w2w_lib.evaluation.edits import at_equal_effect, changes, flipped, side_effects, unwanted
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
    assert effects.loc["a", "b"] == 0


def test_opposite_changes_cancel_in_the_mean_and_not_in_what_was_unwanted():
    before = pd.DataFrame({"a": [1.0, -1.0], "b": [2.0, -2.0], "c": [1.0, -1.0]})
    after = before + pd.DataFrame({"a": [-3.0, 3.0], "b": [1.0, -1.0], "c": [0.0, 0.5]})
    moved, deviations = changes(before, after, "a"), np.array([1.0, 2.0, 1.0]) * np.sqrt(2)
    np.testing.assert_allclose(moved, np.array([[3.0, 1.0, 0.0], [3.0, -1.0, 0.5]]) / deviations)
    assert side_effects(before, {"a": after}).loc["a", "b"] == 0
    np.testing.assert_allclose(unwanted(moved, "a"), np.array([0.5, 0.5 + 0.5]) / 2 / np.sqrt(2))


def test_methods_are_compared_where_they_change_the_attribute_equally_far():
    wanted = np.zeros((2, 3, 2))
    wanted[:, 0] = [[1.0, 2.0], [3.0, 4.0]]  # 2, 3 in the mean
    wanted[:, 1] = [[1.0, 1.0], [1.0, 3.0]]  # 1, 2: the least of the three reaches 2
    wanted[:, 2] = [[4.0, 0.0], [4.0, 0.0]]  # 4, 0: passes 2 on the way up
    spill = np.broadcast_to([[0.5, 0.9], [0.2, 0.6], [0.8, 9.0]], (2, 3, 2))
    np.testing.assert_allclose(at_equal_effect(wanted, spill), [0.5, 0.6, 0.4])
    np.testing.assert_allclose(at_equal_effect(wanted[:, [0, 2]], spill[:, [0, 2]]), [0.9, 0.6])
    assert np.isnan(at_equal_effect(-wanted, spill)).all()


def test_changes_refuse(unchecked):
    before = pd.DataFrame({"a": [1.0, -1.0], "b": [0.0, 1.0]})
    for call, error in [
        (lambda: changes(before, before, "c"), "no attribute 'c'; expected one of a, b"),
        (lambda: changes(before, before[:1], "a"), "logits of shapes .* expected the same people"),
        (lambda: changes(before, before[["b", "a"]], "a"), "expected the same people and attributes"),
        (lambda: changes(before.assign(b=1.0), before, "a"), "logits of 'b' do not differ among 2 people"),
        (lambda: changes(before[:1], before[:1], "a"), "logits of 'a' do not differ among 1 people"),
        (lambda: unwanted(before, "c"), "no attribute 'c'"),
        (lambda: unwanted(before[["a"]], "a"), "changes of 'a' alone"),
        (lambda: at_equal_effect(np.ones((2, 3)), np.ones((2, 3))), "expected twice .people, methods, strengths."),
        (lambda: at_equal_effect(np.ones((2, 3, 1)), np.ones((2, 3, 2))), "expected twice"),
    ]:
        with pytest.raises(ValueError, match=error):
            call()
