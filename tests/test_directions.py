"""Directions against scikit-learn, closed forms and planted labels."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from planted import PCS
from scipy.optimize import minimize
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from w2w_lib.files.atomic import save_tensors
from w2w_lib.space.direction_methods import LOGIT_VARIANCE, METHODS
from w2w_lib.space.directions import Direction, fit_directions, load_directions, save_directions, separation
from w2w_lib.space.method_names import NAMES
from w2w_lib.space.weight_space import WeightSpace


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def means_apart(rows, label):
    """Difference of the two classes' means."""
    label = torch.tensor(label.to_numpy())
    return rows[label].mean(0) - rows[~label].mean(0)


# ---------------------------------------------------------------- methods
def test_the_papers_step_is_along_the_normal_of_the_raw_coefficients(space, labels):
    proj = space.coefficients.double().numpy()
    for attribute, direction in fit_directions(space, labels, PCS, method="paper").items():
        normal = np.linalg.pinv(proj) @ np.where(labels[attribute], 1, -1)  # as in the authors' code
        normal /= np.linalg.norm(normal)
        along = proj @ normal
        expected = torch.from_numpy(along.std(ddof=1) * normal).float() @ space.components
        torch.testing.assert_close(direction.step(space), expected, rtol=1e-3, atol=1e-4)
        reach = [along.min() / along.std(ddof=1), along.max() / along.std(ddof=1)]
        assert [direction.lowest, direction.highest] == pytest.approx(reach, rel=1e-3)


def test_the_step_of_class_means_is_their_difference_in_the_weights(space, labels, weights):
    """cov(c, y) = n1 n0 / (n (n - 1)) times the difference of means, and least squares on white u gives cov(u, y)."""
    for attribute, direction in fit_directions(space, labels, PCS, method="class means").items():
        within = means_apart(weights, labels[attribute]) @ space.components.T @ space.components
        step = direction.step(space)
        torch.testing.assert_close(step / step.norm(), within / within.norm(), rtol=1e-2, atol=1e-4)
        assert cosine(step, within) == pytest.approx(1, abs=1e-5)


def test_class_means_are_linear_regression_in_standard_deviations(space, labels):
    unit = (space.coefficients / space.std).numpy()
    for attribute, direction in fit_directions(space, labels, PCS, method="class means").items():
        normal = LinearRegression().fit(unit, labels[attribute]).coef_
        for vector in (direction.vector, direction.axis, direction.score):
            np.testing.assert_allclose(vector, normal / np.linalg.norm(normal), atol=1e-4)


def test_all_directions_of_least_squares_read_alike_and_step_apart(space, labels):
    fits = {m: fit_directions(space, labels, PCS, method=m) for m in ("class means", "paper", "joint", "paper, joint")}
    for attribute in labels:
        one, *others = (fit[attribute] for fit in fits.values())
        for other in others:
            torch.testing.assert_close(one.score, other.score, rtol=1e-3, atol=1e-4)
            assert one.held_out_auc == other.held_out_auc
            assert cosine(one.step(space), other.step(space)) < 0.99
    plain, paper = fits["class means"]["first"], fits["paper"]["first"]
    torch.testing.assert_close(
        plain.axis, paper.axis, rtol=1e-3, atol=1e-3
    )  # both project onto the same plane's normal


def test_linear_discriminants_by_another_solver(space, labels):
    unit = (space.coefficients / space.std).double().numpy()
    for attribute, direction in fit_directions(space, labels, PCS, method="lda").items():
        other = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto").fit(unit, labels[attribute]).coef_[0]
        np.testing.assert_allclose(direction.score, other / np.linalg.norm(other), atol=1e-4)


def test_logistic_directions_minimise_the_penalised_loss(space, labels):
    unit = (space.coefficients / space.std).double().numpy()
    for attribute, direction in fit_directions(space, labels, PCS, method="logistic").items():
        sign = np.where(labels[attribute], 1, -1)

        def loss(w, sign=sign):
            return np.logaddexp(0, -sign * (unit @ w[1:] + w[0])).sum() + w[1:] @ w[1:] * PCS / LOGIT_VARIANCE / 2

        normal = minimize(loss, np.zeros(PCS + 1)).x[1:]
        np.testing.assert_allclose(direction.score, normal / np.linalg.norm(normal), atol=1e-3)


def test_every_method_has_its_name():
    assert tuple(METHODS) == NAMES


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_what_was_planted(space, labels, method):
    for k, direction in enumerate(fit_directions(space, labels[["first", "second"]], PCS, method=method).values()):
        assert direction.method == method and cosine(direction.score, torch.eye(PCS)[k]) > 0.85
        assert direction.held_out_auc > 0.8
        assert direction.lowest < -1 and direction.highest > 1


@pytest.mark.parametrize("method", METHODS)
def test_step_moves_the_projection_by_its_strength(layout, weights, ids, labels, method):
    for standardise in (False, True):
        space = WeightSpace.fit(layout, weights, ids, PCS, standardise=standardise)
        direction = fit_directions(space, labels, PCS, method=method)["both"]
        moved = space.project(weights[:3] + direction.step(space, 1.7))
        change = direction.projection(space, moved) - direction.projection(space, space.project(weights[:3]))
        torch.testing.assert_close(change, torch.full((3,), 1.7), rtol=1e-3, atol=3e-3)
        projections = direction.projection(space, space.coefficients)
        assert projections.std() == pytest.approx(1, abs=1e-3)
        reach = projections.min().item(), projections.max().item()
        assert reach == pytest.approx((direction.lowest, direction.highest), abs=1e-4)


@pytest.mark.parametrize(("method", "raw"), [("joint", False), ("paper, joint", True)])
def test_joint_steps_are_the_shortest_that_move_one_score_each(space, labels, method, raw):
    unit = np.ones(PCS) if raw else space.std.double().numpy()
    x = space.coefficients.double().numpy() / unit
    normals = np.stack([LinearRegression().fit(x, labels[a]).coef_ for a in ("first", "both")])
    directions = fit_directions(space, labels[["first", "both"]], PCS, method=method).values()
    assert cosine(*(d.score for d in directions)) > 0.3  # the labels are entangled
    steps = np.stack([(space.components @ d.step(space)).numpy() / unit for d in directions])
    moved = steps @ normals.T
    assert np.diag(moved).min() > 0.1 * np.linalg.norm(normals, axis=1).min()
    assert np.abs(moved - np.diag(np.diag(moved))).max() < 1e-4 * np.abs(moved).max()
    coordinates, *_ = np.linalg.lstsq(normals.T, steps.T)  # the shortest lie among the normals
    np.testing.assert_allclose(normals.T @ coordinates, steps.T, atol=1e-3 * np.abs(steps).max())


# ---------------------------------------------------------------- what directions know
def test_the_held_out_auc_is_of_people_that_the_regression_has_not_seen(space, labels):
    noisy = labels[["first"]] ^ (np.random.default_rng(1).random((len(labels), 1)) < 0.3)
    found = fit_directions(space, noisy, PCS, held_out=0.25, seed=4)["first"].held_out_auc
    unit, order = (space.coefficients / space.std).numpy(), np.random.default_rng(4).permutation(len(labels))
    test, train = order[:15], order[15:]
    regression = LinearRegression().fit(unit[train], noisy["first"].to_numpy()[train])
    assert found == pytest.approx(roc_auc_score(noisy["first"].to_numpy()[test], regression.predict(unit[test])))
    assert found < 0.95  # what all people together would give is more


def test_few_people_have_few_components(layout, weights, ids, labels):
    small = WeightSpace.fit(layout, weights[:16], ids[:16], PCS)
    few = labels[["first"]].loc[ids[:16]]
    assert len(fit_directions(small, few, PCS)["first"].vector) == 4
    assert len(fit_directions(small, few, PCS, models_per_component=2)["first"].vector) == 8


def test_separation_finds_labels_and_not_noise(space, labels):
    directions = fit_directions(space, labels, PCS)
    assert min(separation(directions, space, space.coefficients, labels).values()) > 0.95
    coin = labels.sample(frac=1, random_state=0).set_axis(labels.index)
    assert max(abs(a - 0.5) for a in separation(directions, space, space.coefficients, coin).values()) < 0.25
    constant = labels.assign(first=True)
    assert np.isnan(separation(directions, space, space.coefficients, constant)["first"])


# ---------------------------------------------------------------- provenance
def test_a_direction_belongs_to_a_space_and_its_truncations(layout, weights, ids, labels):
    space, changed = WeightSpace.fit(layout, weights, ids, PCS), weights.clone()
    changed[0, 0] += 1e-3
    other = WeightSpace.fit(layout, changed, ids, PCS)
    few = space.truncated(5)
    of_all, of_few = fit_directions(space, labels, PCS)["first"], fit_directions(few, labels, PCS)["first"]
    torch.testing.assert_close(of_few.step(space), of_few.step(few))
    moved = space.unproject(space.coefficients[:2])
    torch.testing.assert_close(
        of_few.projection(space, space.project(moved)), of_few.projection(few, few.project(moved)), rtol=1e-3, atol=1e-4
    )
    mix = f"direction 'first' is of space {space.source}, this is space {other.source}: use the space"
    for use in (
        lambda: of_all.step(other),
        lambda: of_all.projection(other, other.coefficients),
        lambda: separation({"first": of_all}, other, other.coefficients, labels),
    ):
        with pytest.raises(ValueError, match=mix):
            use()
    with pytest.raises(ValueError, match="'first' has 8 components, this truncated space 5"):
        of_all.step(few)


# ---------------------------------------------------------------- files
def test_directions_round_trip(space, labels, tmp_path):
    odd = labels.set_axis(["first", 'NA, "x"/é', "both"], axis=1)
    directions = fit_directions(space, odd, PCS, method="paper, joint")
    unknown = directions["first"].held_out_auc
    directions["both"] = Direction(**vars(directions["both"]) | {"held_out_auc": float("nan")})
    save_directions(directions, tmp_path / "d.safetensors")
    found = load_directions(tmp_path / "d.safetensors")
    assert list(found) == list(directions)
    for attribute, direction in directions.items():
        kept = found[attribute]
        for name in ("vector", "axis", "score"):
            assert torch.equal(getattr(kept, name), getattr(direction, name))
        ends = (direction.lowest, direction.highest)
        assert (kept.attribute, kept.lowest, kept.highest) == (attribute, *ends)
        assert (kept.space, kept.method) == (space.source, "paper, joint")
    assert found["first"].held_out_auc == unknown and np.isnan(found["both"].held_out_auc)
    torch.testing.assert_close(found["both"].step(space), directions["both"].step(space))


def test_only_directions_of_one_fit_are_saved_together(space, labels, tmp_path):
    mixed = fit_directions(space, labels, PCS) | fit_directions(space.truncated(4), labels[["both"]], PCS)
    with pytest.raises(ValueError, match="directions: expected those of one fit, found 4 components of space"):
        save_directions(mixed, tmp_path / "d.safetensors")
    mixed = fit_directions(space, labels, PCS) | fit_directions(space, labels[["both"]], PCS, method="paper")
    with pytest.raises(ValueError, match=r"by 'joint'; 8 components of space .* by 'paper'"):
        save_directions(mixed, tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match="directions: expected those of one fit, found none"):
        save_directions({}, tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())


def test_load_refuses_what_is_no_directions(space, labels, tmp_path):
    fit, path = fit_directions(space, labels, PCS).values(), tmp_path / "d.safetensors"
    of = {"vectors": "vector", "axes": "axis", "scores": "score"}
    whole = {name: torch.stack([getattr(d, one) for d in fit]) for name, one in of.items()}
    ranges = {a: [-2.0, 2.0, 0.9] for a in labels}

    def store(tensors, **metadata):
        save_tensors(tensors, path, {name: json.dumps(value) for name, value in metadata.items()})

    good = {"ranges": ranges, "space": space.source, "method": "joint"}
    store(whole, **good)
    assert list(load_directions(path)) == list(labels)
    old = {"vectors": whole["vectors"]}, {"ranges": ranges, "space": space.source}
    for tensors, metadata, error in [
        (dict(zip(labels, whole["vectors"], strict=True)), good, "has no tensor 'axes'; .* fit the directions again"),
        (*old, "has no tensor 'axes'; .* fit the directions again"),
        (whole, {"ranges": ranges, "method": "joint"}, "has no metadata 'space'"),
        (whole, {"ranges": ranges, "space": space.source}, "has no metadata 'method'"),
        (whole, good | {"ranges": {"first": [0.0, 1.0, 0.5]}}, "1 names for 3 vectors"),
        (whole, good | {"ranges": ranges | {"both": [0.0, "high", 0.5]}}, "metadata 'ranges'"),
        (whole, good | {"ranges": ranges | {"both": [0.0, float("nan"), 0.5]}}, "metadata 'ranges'"),
        (whole | {"scores": 2 * whole["scores"]}, good, "scores are not of length 1"),
        (whole | {"vectors": 2 * whole["vectors"]}, good, "vectors do not change their projections by 1, found 2"),
        (whole | {"axes": whole["axes"] * torch.nan}, good, "holds NaN"),
        (whole, good | {"ranges": ranges | {"both": [2.0, -2.0, 0.5]}}, "expected lowest up to highest"),
        (whole, good | {"ranges": ranges | {"both": [0.0, 1.0, 7.0]}}, "held_out_auc: expected 0 to 1"),
        (whole, good | {"ranges": ranges | {"both": ["0", 1.0, 0.7]}}, "metadata 'ranges'"),
        ({name: rows[:0] for name, rows in whole.items()}, good | {"ranges": {}}, "0 names for 0 vectors"),
    ]:
        store(tensors, **metadata)
        with pytest.raises(ValueError, match=error) as refused:
            load_directions(path)
        assert "\n" not in str(refused.value) and str(path) in str(refused.value)
    with pytest.raises(FileNotFoundError, match="no such file; expected saved directions"):
        load_directions(tmp_path / "none.safetensors")


# ---------------------------------------------------------------- arguments
def test_fit_directions_refuses(space, labels, unchecked):
    holes = labels.astype(object)
    holes.iloc[4, 0] = np.nan
    for table, error in [
        (labels.iloc[:-1], "labels: no row for identities train-00059 of the space"),
        (labels.reset_index(drop=True), "labels: no row for identities train-00000, train-00001, .* and 55 more"),
        (pd.concat([labels, labels.iloc[:1]]), "labels: more than one row for identities train-00000"),
        (labels.assign(first=True), "labels first are the same for every identity"),
        (labels[[]], "labels: there are none"),
        (holes, "label 'first': expected 0 or 1, found nan for train-00004"),
        (labels * 2 - 1, "label 'first': expected 0 or 1, found -1"),
        (labels.astype(str), "label 'first': expected 0 or 1, found True"),
        (labels["first"], "labels: expected DataFrame, found Series"),
        (labels.set_axis([1, 2, 3], axis=1), "labels: expected columns with names of text, found 1"),
        (pd.concat({"x": labels}, axis=1), "labels: expected columns with names of text, found tuple"),
        (labels.set_index(labels.index.rename("other"), append=True), "found one of 2 levels"),
        (labels.set_axis(["a", "a", "b"], axis=1), "labels: more than one column 'a'"),
    ]:
        with pytest.raises(ValueError, match=error):
            fit_directions(space, table)
    for settings, error in [
        ({"components": 0}, "components: expected a whole number of at least 1, found 0"),
        ({"held_out": 0.0}, "held_out: expected a share between 0 and 1, found 0.0"),
        ({"held_out": 1.0}, "held_out: expected a share between 0 and 1"),
        ({"held_out": float("nan")}, "held_out: expected a finite number, found nan"),
        ({"held_out": 0.999}, "held_out: 0.999 of 60 identities leaves none to fit"),
        ({"method": "plain"}, "no method 'plain'; expected one of paper, class means, joint, "),
        ({"method": "logistics"}, "no method 'logistics', did you mean 'logistic'?"),
        ({"models_per_component": 0}, "models_per_component: expected a whole number of at least 1"),
        ({"seed": -1}, "seed: expected a whole number of at least 0"),
    ]:
        with pytest.raises(ValueError, match=error):
            fit_directions(space, labels, **settings)


def test_numbers_0_and_1_are_labels_too(space, labels):
    found = fit_directions(space, labels.astype(float), PCS)
    for attribute, direction in fit_directions(space, labels, PCS).items():
        assert torch.equal(found[attribute].vector, direction.vector)


def test_directions_refuse_wrong_arguments(space, labels, unchecked):
    directions = fit_directions(space, labels, PCS)
    first, coefficients = directions["first"], space.coefficients
    for call, error in [
        (lambda: first.step(space, float("nan")), "strength of first: expected a finite number, found nan"),
        (lambda: first.step(space, float("inf")), "strength of first: expected a finite number, found inf"),
        (lambda: first.step(space, "much"), "strength of first: expected a finite number"),
        (lambda: first.step(space, True), "strength of first: expected a finite number, found True"),
        (lambda: first.step(space, 10**400), "strength of first: expected a finite number"),
        (lambda: first.step(coefficients), "space: expected WeightSpace, found Tensor"),
        (lambda: replace(first, score=5 * first.score), "direction 'first': scores are not of length 1, found 5"),
        (lambda: replace(first, axis=first.axis[:4]), "direction 'first': axis: expected rows of 8 numbers"),
        (lambda: replace(first, method=1), "direction 'first': method: expected str, found 1"),
        (lambda: replace(first, vector=first.vector[None]), "vector: .*; expected 1 axes"),
        (lambda: replace(first, lowest=float("nan")), "lowest: expected a finite number"),
        (
            lambda: save_directions({"second": first}, "d"),
            "direction 'second': expected that of its name, found 'first'",
        ),
        (lambda: save_directions(first, "d"), "directions: expected Mapping, found Direction"),
        (lambda: first.projection(space, coefficients[:, :4]), "coefficients: expected rows of 8 numbers"),
        (lambda: first.projection(space, coefficients * torch.nan), "coefficients: rows 0, 1, .* hold NaN"),
        (lambda: separation(directions, space, coefficients, labels[:9]), "labels: 9 rows for 60 models"),
        (
            lambda: separation(directions, space, coefficients, labels.rename(columns={"first": "firsts"})),
            "labels: no column 'first', did you mean 'firsts'",
        ),
    ]:
        with pytest.raises(ValueError, match=error):
            call()
