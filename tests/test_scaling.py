"""Spaces of some of the people, their directions and coefficients, against closed forms and planted truths."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr

from w2w_lib.space.coefficients import excess_kurtosis, kurtosis_error, label_correlations, named_by_labels
from w2w_lib.space.controls import held_out_share
from w2w_lib.space.sampling_models import fit_mixture, mixture_samples, training_samples
from w2w_lib.space.subsets import (
    chance_cosine,
    coefficient_normals,
    conditions,
    direction_cosines,
    jointly_permuted,
    label_scores,
    nested_subspaces,
    random_subspace,
    weight_step,
)
from w2w_lib.space.weight_space import WeightSpace


def test_smaller_subspaces_are_of_people_in_the_larger_ones(layout, weights, ids):
    spaces = nested_subspaces(layout, weights, ids, [10, 30, len(ids)], 2, seed=3)
    assert sorted(spaces) == [(n, r) for n in (10, 30, len(ids)) for r in (0, 1)]
    for repeat in (0, 1):
        assert set(spaces[10, repeat].ids) < set(spaces[30, repeat].ids) < set(spaces[len(ids), repeat].ids)
    assert set(spaces[10, 0].ids) != set(spaces[10, 1].ids)
    rows = [ids.index(i) for i in spaces[10, 1].ids]
    torch.testing.assert_close(spaces[10, 1].mean, weights[rows].mean(0), atol=1e-5, rtol=1e-5)
    assert len(spaces[10, 1].components) == 9
    with pytest.raises(ValueError, match="sizes"):
        nested_subspaces(layout, weights, ids, [len(ids) + 1], 1)


def test_the_conditions_are_three_series():
    found = conditions([50, 100], [10, 99], 20, repeats=2)
    assert [c[1:] for c in found if c.series == "growing"] == [(50, 49, 0), (50, 49, 1), (100, 99, 0)]
    assert [c[1:] for c in found if c.series == "fixed"] == [(50, 20, 0), (50, 20, 1), (100, 20, 0)]
    assert [c[1:] for c in found if c.series == "counts"] == [(100, 10, 0), (100, 99, 0)]


def test_a_random_subspace_keeps_the_share_of_its_dimensions(layout, ids):
    weights = torch.randn(len(ids), layout.dimension, generator=torch.Generator().manual_seed(0))
    space = WeightSpace.fit(layout, weights, ids, 5)
    control = random_subspace(space, layout.dimension // 4, seed=0)
    fresh = torch.randn(40, layout.dimension, generator=torch.Generator().manual_seed(1))
    assert held_out_share(control, fresh) == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(control.project(space.unproject(space.coefficients)), control.coefficients)


def test_normals_are_the_closed_form_of_uncorrelated_coefficients(space, labels):
    """Coefficients of a PCA are centred and uncorrelated: each number of the normal is a covariance over a variance."""
    found, means = (coefficient_normals(space, labels, 5, method) for method in ("normals", "class means"))
    for name in labels:
        beta, shown = space.coefficients[:, :5].double(), torch.tensor(labels[name].to_numpy())
        expected = beta.T @ (shown.double() - shown.double().mean()) / beta.square().sum(0)
        torch.testing.assert_close(found[name], (expected / expected.norm()).float(), atol=1e-4, rtol=1e-3)
        apart = beta[shown].mean(0) - beta[~shown].mean(0)
        torch.testing.assert_close(means[name], (apart / apart.norm()).float(), atol=1e-4, rtol=1e-3)


def test_with_as_many_components_as_people_every_label_is_fitted(layout, ids):
    weights = torch.randn(len(ids), layout.dimension, generator=torch.Generator().manual_seed(4))
    space = WeightSpace.fit(layout, weights, ids)
    shown = pd.DataFrame({"any": np.random.default_rng(0).random(len(ids)) < 0.4}, ids)
    scores = label_scores(coefficient_normals(space, shown, len(ids) - 1), space.coefficients)["any"].to_numpy()
    assert scores[shown["any"]].min() > scores[~shown["any"]].max() + 1e-3


def test_cosines_of_directions_are_those_of_their_steps(space, labels):
    normals = coefficient_normals(space, labels, 6)
    cosines = direction_cosines(normals)
    a, b = (weight_step(space, normals[name]) for name in ("first", "both"))
    assert a.norm().item() == pytest.approx(1, abs=1e-4)
    assert cosines["first", "both"] == pytest.approx(abs(torch.cosine_similarity(a, b, 0).item()), abs=1e-4)
    assert list(cosines.index) == [("first", "second"), ("first", "both"), ("second", "both")]


def test_people_without_labels_and_labels_without_variety(space, labels):
    assert list(coefficient_normals(space, labels.assign(second=1), 3)) == ["first", "both"]
    with pytest.raises(ValueError, match="no row for train-00000"):
        coefficient_normals(space, labels.iloc[1:], 3)


def test_chance_cosine_is_that_of_random_vectors():
    for m in (2, 20):
        pairs = np.random.default_rng(m).normal(size=(2, 20_000, m))
        cosines = (pairs[0] * pairs[1]).sum(1) / np.linalg.norm(pairs, axis=2).prod(0)
        assert chance_cosine(m) == pytest.approx(np.abs(cosines).mean(), rel=0.02)
    assert chance_cosine(1000) == pytest.approx(np.sqrt(2 / (np.pi * 1000)), rel=1e-3)


def test_permuted_labels_keep_what_they_have_in_common(labels):
    mixed = jointly_permuted(labels, seed=0)
    assert list(mixed.index) == list(labels.index) and not mixed.equals(labels)
    pd.testing.assert_frame_equal(mixed.corr(), labels.corr())


def test_kurtosis_of_known_distributions():
    rng = np.random.default_rng(0)
    two = rng.choice([-1.0, 1.0], 4000)
    table = excess_kurtosis(torch.tensor(np.stack([rng.normal(size=4000), two, rng.uniform(size=4000)], 1)).float())
    assert table["kurtosis"].tolist() == pytest.approx([0, -2, -1.2], abs=0.15)
    assert abs(table["errors from normal"][1]) < 4 and table["errors from normal"][2] < -20
    spread = [excess_kurtosis(torch.tensor(rng.normal(size=(60, 800))).float())["kurtosis"].std() for _ in range(2)]
    assert np.mean(spread) == pytest.approx(kurtosis_error(60), rel=0.1)
    assert kurtosis_error(10_000) == pytest.approx(np.sqrt(24 / 10_000), rel=1e-3)


def test_components_are_named_by_the_labels_they_go_with(space, labels):
    table = label_correlations(space.coefficients, labels)
    expected = pearsonr(space.coefficients[:, 1].numpy(), labels["both"].to_numpy(float)).statistic
    assert table.loc[2, "both"] == pytest.approx(expected, abs=1e-5)
    names = named_by_labels(table, 1)
    assert names[1].startswith("first +") and names[2].startswith("second +")


def two_kinds(layout, count=400) -> WeightSpace:
    """A space whose first component has two kinds of people, 6 apart with a spread of 1, a third on one side."""
    rng = torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(layout.dimension, 3, generator=rng)).Q.T
    side = torch.where(torch.arange(count) % 3 == 0, 4.0, -2.0)
    factors = torch.randn(count, 3, generator=rng) * torch.tensor([1.0, 0.8, 0.5]) + side[:, None] * torch.eye(3)[0]
    return WeightSpace.fit(layout, factors @ basis, [f"p{i}" for i in range(count)], 3)


def test_a_mixture_has_the_two_kinds_that_a_normal_distribution_lacks(layout):
    space = two_kinds(layout)
    sides = fit_mixture(space, 2, 2).weights_
    assert sorted(sides) == pytest.approx([1 / 3, 2 / 3], abs=0.05)
    draws = {
        "people": space.coefficients,
        "normal": space.sample(4000, 1),
        "one kind": mixture_samples(space, 4000, 1, 2, 1),
        "two kinds": mixture_samples(space, 4000, 2, 2, 1),
        "near people": training_samples(space, 4000, 0.3, 1),
    }
    kurtosis = {name: excess_kurtosis(beta)["kurtosis"][1] for name, beta in draws.items()}
    assert kurtosis["two kinds"] == pytest.approx(kurtosis["people"], abs=0.2)
    assert abs(kurtosis["normal"]) < 0.25 and abs(kurtosis["one kind"]) < 0.25
    for beta in draws.values():  # all with the variances of the people, and uncorrelated as they are
        covariance = np.cov((beta / space.std).numpy().T)
        np.testing.assert_allclose(covariance, np.eye(3), atol=0.12)


def test_samples_near_people_are_copies_without_noise(layout):
    space = two_kinds(layout, 30)
    copies = training_samples(space, 20, 0.0, 0)
    assert torch.cdist(copies, space.coefficients).min(1).values.max() < 1e-4
