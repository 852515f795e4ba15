"""Directions and edits against linear regression and planted labels."""

import numpy as np
import pandas as pd
import pytest
import torch
from planted import PCS
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from w2w_lib.evaluation.edits import flipped, side_effects, spill
from w2w_lib.space.controls import random_direction, random_step
from w2w_lib.space.directions import fit_directions, load_directions, save_directions, separation
from w2w_lib.space.edits import combined_step, opposite_strengths
from w2w_lib.space.weight_space import WeightSpace


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def test_plain_directions_are_linear_regression(space, labels):
    directions = fit_directions(space, labels, PCS, disentangle=False)
    unit = (space.coefficients / space.std).numpy()
    for attribute, direction in directions.items():
        normal = LinearRegression().fit(unit, labels[attribute]).coef_
        np.testing.assert_allclose(direction.vector, normal / np.linalg.norm(normal), atol=1e-4)


def test_the_held_out_auc_is_of_people_that_the_regression_has_not_seen(space, labels):
    noisy = labels[["first"]] ^ (np.random.default_rng(1).random((len(labels), 1)) < 0.3)
    found = fit_directions(space, noisy, PCS, held_out=0.25, disentangle=False, seed=4)["first"].held_out_auc
    unit, order = (space.coefficients / space.std).numpy(), np.random.default_rng(4).permutation(len(labels))
    test, train = order[:15], order[15:]
    regression = LinearRegression().fit(unit[train], noisy["first"].to_numpy()[train])
    assert found == pytest.approx(roc_auc_score(noisy["first"].to_numpy()[test], regression.predict(unit[test])))
    assert found < 0.95  # what all people together would give is more


def test_few_people_have_few_components(layout, weights, ids, labels):
    small = WeightSpace.fit(layout, weights[:16], ids[:16], PCS)
    assert len(fit_directions(small, labels[["first"]].loc[ids[:16]], PCS)["first"].vector) == 4


def test_planted_directions_are_found(space, labels):
    directions = fit_directions(space, labels[["first", "second"]], PCS)
    for k, direction in enumerate(directions.values()):
        planted = torch.eye(PCS)[k]
        assert cosine(direction.vector, planted) > 0.9
        assert direction.held_out_auc > 0.8
        assert direction.lowest < -1 and direction.highest > 1
        assert direction.vector.norm() == pytest.approx(1, abs=1e-5)


def test_disentangled_directions_move_one_score_each(space, labels):
    pair = labels[["first", "both"]]
    normals = torch.stack([d.vector for d in fit_directions(space, pair, PCS, disentangle=False).values()])
    vectors = torch.stack([d.vector for d in fit_directions(space, pair, PCS).values()])
    assert cosine(*normals) > 0.3  # the labels are entangled
    effect = normals @ vectors.T
    assert effect.diagonal().min() > 0.3
    assert (effect - effect.diagonal().diag()).abs().max() < 1e-5


def test_step_moves_the_projection_by_its_strength(layout, weights, ids, labels):
    for standardise in (False, True):
        space = WeightSpace.fit(layout, weights, ids, PCS, standardise=standardise)
        direction = fit_directions(space, labels[["first", "second"]], PCS)["first"]
        moved = space.project(weights[:3] + direction.step(space, 1.7))
        change = direction.projection(space, moved) - direction.projection(space, space.project(weights[:3]))
        torch.testing.assert_close(change, torch.full((3,), 1.7), rtol=1e-3, atol=1e-3)


def test_projections_of_training_models_have_unit_deviation(space, labels):
    direction = fit_directions(space, labels, PCS)["both"]
    projections = direction.projection(space, space.coefficients)
    assert projections.std() == pytest.approx(1, abs=1e-3)
    assert (projections.min().item(), projections.max().item()) == pytest.approx(
        (direction.lowest, direction.highest), abs=1e-5
    )


def test_separation_finds_labels_and_not_noise(space, labels):
    directions = fit_directions(space, labels, PCS, disentangle=False)
    assert min(separation(directions, space, space.coefficients, labels).values()) > 0.95
    coin = labels.sample(frac=1, random_state=0).set_axis(labels.index)
    assert max(abs(a - 0.5) for a in separation(directions, space, space.coefficients, coin).values()) < 0.25
    constant = labels.assign(first=True)
    assert np.isnan(separation(directions, space, space.coefficients, constant)["first"])


def test_directions_round_trip(space, labels, tmp_path):
    directions = fit_directions(space, labels, PCS)
    save_directions(directions, tmp_path / "d.safetensors")
    found = load_directions(tmp_path / "d.safetensors")
    assert list(found) == list(directions)
    for attribute, direction in directions.items():
        kept = found[attribute]
        assert torch.equal(kept.vector, direction.vector)
        assert (kept.lowest, kept.highest, kept.held_out_auc) == (
            direction.lowest,
            direction.highest,
            direction.held_out_auc,
        )


def test_directions_refuse(space, labels, tmp_path):
    with pytest.raises(ValueError, match="no row for identities train-00059"):
        fit_directions(space, labels.iloc[:-1])
    with pytest.raises(ValueError, match="labels first are the same for every identity"):
        fit_directions(space, labels.assign(first=True))
    with pytest.raises(FileNotFoundError, match="run notebook 04 first"):
        load_directions(tmp_path / "none.safetensors")


# ---------------------------------------------------------------- edits
def test_combined_steps_add_up(space, labels):
    directions = fit_directions(space, labels, PCS)
    both = combined_step(space, directions, {"first": 1.0, "second": -2.0})
    expected = directions["first"].step(space) - 2 * directions["second"].step(space)
    torch.testing.assert_close(both, expected)
    assert combined_step(space, directions, {"first": 0.0}).norm() == 0
    with pytest.raises(ValueError, match="no direction for Glasses: there are first, second, both"):
        combined_step(space, directions, {"Glasses": 1.0})


def test_opposite_strengths_go_to_the_other_extreme(space, labels):
    direction = fit_directions(space, labels, PCS)["first"]
    strengths = opposite_strengths(direction, np.array([True, False]), share=0.5)
    assert strengths.tolist() == pytest.approx([direction.lowest / 2, direction.highest / 2])


def test_random_step_is_as_long_and_points_elsewhere(space, labels):
    direction = fit_directions(space, labels, PCS)["first"]
    step, control = direction.step(space), random_step(space, direction, seed=3)
    assert control.norm() == pytest.approx(step.norm().item(), rel=1e-4)
    assert abs(cosine(step, control)) < 0.9
    vectors = [random_direction(space, PCS, seed).vector for seed in (0, 0, 1)]
    assert vectors[0].norm() == pytest.approx(1, abs=1e-5)
    assert torch.equal(*vectors[:2]) and abs(cosine(vectors[0], vectors[2])) < 0.9


def test_side_effects_by_hand():
    before = pd.DataFrame({"a": [1.0, -1.0, 3.0, -3.0], "b": [0.5, -0.5, 0.5, -0.5]})
    turned = before.assign(a=-before["a"])  # |change of a| is 2 |a|, b untouched
    assert flipped(before, turned, "a").all() and not flipped(before, turned, "b").any()
    effects = side_effects(before, {"a": turned, "b": before.assign(b=-before["b"])})
    assert effects.loc["a", "a"] == pytest.approx(4 / before["a"].std())
    assert effects.loc["b", "b"] == pytest.approx(1 / before["b"].std())
    assert effects.loc["a", "b"] == 0 and spill(effects) == 0
