"""The release's directions and strengths, by formulas written down in float64 NumPy."""

import numpy as np
import pandas as pd
import pytest
import torch

from w2w_lib.release.directions import as_direction, released_direction, strength_of_sigma
from w2w_lib.space.directions import fit_directions
from w2w_lib.space.weight_space import WeightSpace

PCS = 8


@pytest.fixture(scope="module")
def space(layout):
    rng = torch.Generator().manual_seed(2)
    weights = (
        torch.randn(200, PCS, generator=rng)
        * torch.arange(PCS, 0, -1)
        @ torch.randn(PCS, layout.dimension, generator=rng)
    )
    return WeightSpace.fit(layout, weights, [f"m{i}" for i in range(200)], PCS, standardise=True)


@pytest.fixture(scope="module")
def labels(space):
    units = (space.coefficients / space.std).numpy()
    truths = {"first": units[:, 0] + units[:, 3] > 0.3, "second": units[:, 1] > -units[:, 0], "third": units[:, 2] > 1}
    return pd.DataFrame(truths, index=space.ids)


def signs(labels, name):
    return np.where(labels[name].to_numpy(), 1.0, -1.0)


def test_directions_are_the_pseudo_inverse_times_the_labels(space, labels):
    pinv = np.linalg.pinv(space.coefficients.double().numpy())
    for name in labels:
        found = released_direction(space, labels.sample(frac=1, random_state=0), name)
        np.testing.assert_allclose(found, pinv @ signs(labels, name), rtol=1e-3, atol=1e-7)


def test_other_labels_are_removed_one_after_the_other(space, labels):
    pinv = np.linalg.pinv(space.coefficients.double().numpy())
    expected = pinv @ signs(labels, "first")
    for name in ("second", "third"):
        e = pinv @ signs(labels, name)
        expected = expected - (expected @ e) / (e @ e) * e
    found = released_direction(space, labels, "first", ["second", "third"])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)
    other_way = released_direction(space, labels, "first", ["third", "second"])
    assert (found - other_way).norm() / found.norm() > 1e-3  # their order matters


def test_strengths_in_standard_deviations(space, labels):
    d = released_direction(space, labels, "first")
    unit = d.double().numpy() / np.linalg.norm(d.double().numpy())
    projections = space.coefficients.double().numpy() @ unit
    moved = space.coefficients[0] + strength_of_sigma(space, d) * d
    gained = (moved.double().numpy() - space.coefficients[0].double().numpy()) @ unit
    np.testing.assert_allclose(gained, projections.std(ddof=1), rtol=1e-4)


def test_the_same_edit_as_one_of_our_directions(space, labels):
    """Truth: theta' = ((c + s d) V^T) * std + mean."""
    d = released_direction(space, labels, "second")
    s = 0.7 * strength_of_sigma(space, d)
    ours, units = as_direction(space, "second", d)
    change = (d.double() * s @ space.components.double()) * space.scale.double()
    torch.testing.assert_close(ours.step(space, s * units).double(), change, rtol=1e-3, atol=1e-6)
    moved = ours.projection(space, space.coefficients[:1] + s * d) - ours.projection(space, space.coefficients[:1])
    torch.testing.assert_close(moved, torch.tensor([0.7]), rtol=1e-3, atol=1e-4)
    steps = {m: fit_directions(space, labels, PCS, method=m)["second"].step(space) for m in ("paper", "class means")}
    assert torch.cosine_similarity(steps["paper"].double(), change, dim=0) > 0.99  # theirs but for the intercept
    assert torch.cosine_similarity(steps["class means"].double(), change, dim=0) < 0.9999  # another metric


def test_what_does_not_fit(space, labels):
    with pytest.raises(ValueError, match="no column 'frist', did you mean 'first'"):
        released_direction(space, labels, "frist")
    with pytest.raises(ValueError, match="no row for models m0"):
        released_direction(space, labels.iloc[1:], "first")
    with pytest.raises(ValueError, match=f"direction: expected rows of {PCS} numbers"):
        strength_of_sigma(space, torch.ones(3))
