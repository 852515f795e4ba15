"""Directions against linear regression and planted labels."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from planted import PCS
from sklearn.linear_model import LinearRegression
from sklearn.metrics import roc_auc_score

from w2w_lib.files.atomic import save_tensors
from w2w_lib.space.directions import Direction, fit_directions, load_directions, save_directions, separation
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
    directions = fit_directions(space, odd, PCS)
    unknown = directions["first"].held_out_auc
    directions["both"] = Direction(**vars(directions["both"]) | {"held_out_auc": float("nan")})
    save_directions(directions, tmp_path / "d.safetensors")
    found = load_directions(tmp_path / "d.safetensors")
    assert list(found) == list(directions)
    for attribute, direction in directions.items():
        kept = found[attribute]
        assert torch.equal(kept.vector, direction.vector)
        assert (kept.attribute, kept.lowest, kept.highest, kept.space) == (
            attribute,
            direction.lowest,
            direction.highest,
            space.source,
        )
    assert found["first"].held_out_auc == unknown and np.isnan(found["both"].held_out_auc)
    torch.testing.assert_close(found["both"].step(space), directions["both"].step(space))


def test_only_directions_of_one_fit_are_saved_together(space, labels, tmp_path):
    mixed = fit_directions(space, labels, PCS) | fit_directions(space.truncated(4), labels[["both"]], PCS)
    with pytest.raises(ValueError, match="directions: expected those of one fit, found 4 components of space"):
        save_directions(mixed, tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match="directions: expected those of one fit, found none"):
        save_directions({}, tmp_path / "d.safetensors")
    assert not list(tmp_path.iterdir())


def test_load_refuses_what_is_no_directions(space, labels, tmp_path):
    vectors = torch.stack([d.vector for d in fit_directions(space, labels, PCS).values()])
    ranges, path = {a: [-2.0, 2.0, 0.9] for a in labels}, tmp_path / "d.safetensors"

    def store(vectors, ranges, **more):
        metadata = {"ranges": json.dumps(ranges)} | {name: json.dumps(value) for name, value in more.items()}
        save_tensors(vectors if isinstance(vectors, dict) else {"vectors": vectors}, path, metadata)

    for content, origin, error in [
        ((dict(zip(labels, vectors, strict=True)), ranges), {}, "has no tensor 'vectors'; .* fit the directions again"),
        ((vectors, ranges), {}, "has no metadata 'space'"),
        ((vectors, {"first": [0.0, 1.0, 0.5]}), {"space": space.source}, "1 names for 3 vectors"),
        ((vectors, ranges | {"both": [0.0, "high", 0.5]}), {"space": space.source}, "metadata 'ranges'"),
        ((vectors, ranges | {"both": [0.0, float("nan"), 0.5]}), {"space": space.source}, "metadata 'ranges'"),
        ((2 * vectors, ranges), {"space": space.source}, "vectors are not of length 1"),
        ((vectors * torch.nan, ranges), {"space": space.source}, "holds NaN"),
        ((vectors, ranges | {"both": [2.0, -2.0, 0.5]}), {"space": space.source}, "expected lowest up to highest"),
        ((vectors, ranges | {"both": [0.0, 1.0, 7.0]}), {"space": space.source}, "held_out_auc: expected 0 to 1"),
        ((vectors, ranges | {"both": ["0", 1.0, 0.7]}), {"space": space.source}, "metadata 'ranges'"),
        ((vectors[:0], {}), {"space": space.source}, "0 names for 0 vectors"),
    ]:
        store(*content, **origin)
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
        (lambda: replace(first, vector=5 * first.vector), "direction 'first': vectors are not of length 1, found 5"),
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
