"""The space against NumPy's SVD and planted dimensions."""

import numpy as np
import pytest
import torch
from planted import LATENT, MODELS, PCS

from w2w_lib.space import weight_space as space_module
from w2w_lib.space.controls import held_out_share, independent_columns, outside
from w2w_lib.space.weight_space import WeightSpace


def test_space_is_numpys_svd(space, weights):
    centred = weights.double().numpy() - weights.double().numpy().mean(0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    overlap = np.abs((space.components.numpy() * rows[:PCS]).sum(1))
    np.testing.assert_allclose(overlap, 1, atol=1e-4)
    np.testing.assert_allclose(space.std.numpy(), singular[:PCS] / np.sqrt(MODELS - 1), rtol=1e-4)
    np.testing.assert_allclose(space.explained, singular[:PCS] ** 2 / (singular**2).sum(), rtol=1e-4)


def test_beyond_the_exact_sizes_it_is_still_the_svd(layout, ids, space, monkeypatch):
    monkeypatch.setattr(space_module, "EXACT", 10)
    falling = torch.randn(MODELS, layout.dimension, generator=torch.Generator().manual_seed(3))
    u, _, v = torch.linalg.svd(falling, full_matrices=False)
    weights = u * torch.arange(1, MODELS + 1) ** -0.5 @ v
    singular = torch.linalg.svdvals((weights - weights.mean(0)).double())
    found = WeightSpace.fit(layout, weights, ids, PCS)
    torch.testing.assert_close(found.std.double(), singular[:PCS] / (MODELS - 1) ** 0.5, rtol=1e-3, atol=0)
    assert found.total_variance == pytest.approx(float(singular.square().sum()) / (MODELS - 1), rel=1e-4)


def test_standardised_space_is_the_svd_of_standardised_weights(layout, weights, ids):
    space = WeightSpace.fit(layout, weights, ids, PCS, standardise=True)
    scaled = weights.double() / weights.double().std(0)
    singular = torch.linalg.svdvals(scaled - scaled.mean(0))
    torch.testing.assert_close(space.std.double(), singular[:PCS] / (MODELS - 1) ** 0.5, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("standardise", [False, True])
def test_all_components_give_every_model_back(layout, weights, ids, standardise):
    space = WeightSpace.fit(layout, weights, ids, standardise=standardise)
    assert len(space.components) == MODELS - 1
    torch.testing.assert_close(space.unproject(space.project(weights)), weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(space.project(weights), space.coefficients, rtol=1e-3, atol=1e-3)
    assert held_out_share(space, weights) == pytest.approx(1, abs=1e-4)


def test_share_explained_of_planted_dimensions(space, layout, weights):
    few = space.truncated(LATENT)
    assert few.explained.sum() > 0.95
    assert held_out_share(few, weights) == pytest.approx(few.explained.sum(), abs=1e-4)
    # A vector orthogonal to all components keeps nothing, one along a component everything.
    assert held_out_share(space, space.mean + space.components[:1]) == pytest.approx(1, abs=1e-5)
    assert held_out_share(space, outside(space, weights, seed=0)) == pytest.approx(0, abs=1e-5)


def test_shuffled_columns_keep_the_numbers_and_lose_the_structure(layout, weights, ids, space):
    shuffled = independent_columns(weights, seed=0)
    assert torch.equal(shuffled.sort(0).values, weights.sort(0).values)
    control = WeightSpace.fit(layout, shuffled, ids, PCS)
    assert control.total_variance == pytest.approx(space.total_variance, rel=1e-5)
    assert control.explained[:LATENT].sum() < 0.5 * space.explained[:LATENT].sum()


def test_samples_have_the_training_mean_and_deviation(space):
    drawn = space.sample(20_000, seed=0)
    torch.testing.assert_close(drawn.std(0), space.std, rtol=0.03, atol=0)
    assert (drawn.mean(0).abs() < 0.03 * space.std).all()
    assert torch.equal(space.sample(3, seed=5), space.sample(3, seed=5))
    assert not torch.equal(space.sample(3, seed=5), space.sample(3, seed=6))


def test_weights_outside_are_as_far_and_orthogonal(space, weights):
    strange = outside(space, weights, seed=0)
    distances = [(x - space.mean).norm(dim=1) for x in (strange, weights)]
    torch.testing.assert_close(*distances, rtol=1e-4, atol=0)
    assert ((strange - space.mean) @ space.components.T).abs().max() < 1e-4


def test_nearest_of_a_training_model_is_itself(space, ids):
    found, similarity = space.nearest(2.5 * space.coefficients[:5], count=2)
    assert [row[0] for row in found] == ids[:5]
    assert torch.allclose(similarity[:, 0], torch.ones(5))
    assert (similarity[:, 0] > similarity[:, 1]).all()


@pytest.mark.parametrize("standardise", [False, True])
def test_space_round_trip(layout, weights, ids, tmp_path, standardise):
    space = WeightSpace.fit(layout, weights, ids, PCS, standardise=standardise)
    space.save(tmp_path / "space.safetensors")
    found = WeightSpace.load(tmp_path / "space.safetensors")
    assert (found.layout, found.ids, found.total_variance) == (layout, ids, space.total_variance)
    for name in ("mean", "components", "coefficients", "scale"):
        kept, wanted = getattr(found, name), getattr(space, name)
        assert (kept is None and wanted is None) or torch.equal(kept, wanted)
    assert [p.name for p in tmp_path.iterdir()] == ["space.safetensors"]


def test_space_refuses(layout, weights, ids, tmp_path):
    with pytest.raises(ValueError, match="1 models: a space needs at least 2"):
        WeightSpace.fit(layout, weights[:1], ids[:1])
    with pytest.raises(ValueError, match="60 components: expected 1 to 59"):
        WeightSpace.fit(layout, weights, ids, MODELS)
    with pytest.raises(FileNotFoundError, match="run notebook 03 first"):
        WeightSpace.load(tmp_path / "none.safetensors")
