"""Samples, neighbours and controls of the space, against their closed forms and SciPy."""

import numpy as np
import pytest
import torch
from planted import LATENT, MODELS, PCS
from scipy.spatial.distance import cdist

from w2w_lib.space.controls import beyond, independent_columns, rotated
from w2w_lib.space.weight_space import WeightSpace


def test_shuffled_columns_keep_the_numbers_and_lose_the_structure(layout, weights, ids, space):
    before = weights.clone()
    shuffled = independent_columns(weights, seed=0)
    assert torch.equal(weights, before)
    assert torch.equal(shuffled.sort(0).values, weights.sort(0).values)
    assert torch.equal(shuffled, independent_columns(weights, seed=0))
    assert not torch.equal(shuffled, independent_columns(weights, seed=1))
    control = WeightSpace.fit(layout, shuffled, ids, PCS)
    assert control.total_variance == pytest.approx(space.total_variance, rel=1e-5)
    assert control.explained[:LATENT].sum() < 0.5 * space.explained[:LATENT].sum()


def test_samples_have_the_training_mean_and_deviation(space):
    drawn = space.sample(20_000, seed=0)
    torch.testing.assert_close(drawn.std(0), space.std, rtol=0.03, atol=0)
    assert (drawn.mean(0).abs() < 0.03 * space.std).all()
    assert torch.equal(space.sample(3, seed=5), space.sample(3, seed=5))
    assert not torch.equal(space.sample(3, seed=5), space.sample(3, seed=6))


def test_weights_beyond_the_kept_components_are_as_far_and_orthogonal(space):
    kept = space.truncated(LATENT)
    drawn = kept.sample(2000, seed=1)
    strange = beyond(space, drawn, seed=0)
    mean = space.coefficients.mean(0)
    torch.testing.assert_close((strange - mean).norm(dim=1), (drawn - mean[:LATENT]).norm(dim=1))
    assert (strange[:, :LATENT] == mean[:LATENT]).all()
    shape = (strange - mean)[:, LATENT:] / (strange - mean).norm(dim=1, keepdim=True)
    shares = space.std[LATENT:].square() / space.std[LATENT:].square().sum()
    torch.testing.assert_close(shape.square().mean(0), shares, rtol=0.1, atol=0.01)
    with pytest.raises(ValueError, match=f"of which {PCS} are kept: expected more"):
        beyond(space, space.coefficients, 0)


def test_rotated_vectors_keep_lengths_and_angles_and_spread_their_variance(space):
    drawn = space.sample(4000, seed=1)
    turned = [rotated(drawn, seed) for seed in range(40)]
    torch.testing.assert_close(turned[0] @ turned[0].T, drawn @ drawn.T, rtol=1e-3, atol=1e-2)
    variance = torch.stack([one.var(0) for one in turned]).mean(0)
    torch.testing.assert_close(variance, space.std.square().mean().expand(PCS), rtol=0.35, atol=0)
    assert torch.equal(turned[3], rotated(drawn, 3))


def test_nearest_is_scipys_cosine_distance(space, ids, monkeypatch):
    monkeypatch.setattr("w2w_lib.space.weight_space.CHUNK", 2 * MODELS)  # two queries at a time
    queries = torch.cat([2.5 * space.coefficients[:5], space.sample(4, seed=1)])
    found, similarity = space.nearest(queries, count=3)
    distances = cdist(queries, space.coefficients, "cosine")
    order = distances.argsort(1)[:, :3]
    assert found == [[ids[i] for i in row] for row in order]
    np.testing.assert_allclose(similarity, 1 - np.take_along_axis(distances, order, 1), atol=1e-5)
    assert [row[0] for row in found[:5]] == ids[:5]
