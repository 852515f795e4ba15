"""The space against NumPy's SVD, the maths of the authors' release and planted dimensions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import LATENT, MODELS, PCS

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.space import components as components_module
from w2w_lib.space.arguments import rows_fingerprint
from w2w_lib.space.components import principal_components
from w2w_lib.space.controls import held_out_share, independent_columns, rotated
from w2w_lib.space.weight_space import WeightSpace


def numpys_svd(weights):
    """Deviations, components and singular values of float64 NumPy."""
    centred = weights.double().numpy() - weights.double().numpy().mean(0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    return singular, rows


def falling(models, d):
    """Random weights around a mean, whose singular values fall as those of trained ones do."""
    rng = torch.Generator().manual_seed(3)
    u, _, v = torch.linalg.svd(torch.randn(models, d, generator=rng), full_matrices=False)
    return torch.randn(d, generator=rng) + u * torch.arange(1, min(models, d) + 1) ** -0.5 @ v


# ---------------------------------------------------------------- fit
def test_space_is_numpys_svd(space, weights):
    singular, rows = numpys_svd(weights)
    overlap = np.abs((space.components.numpy() * rows[:PCS]).sum(1))
    np.testing.assert_allclose(overlap, 1, atol=1e-4)
    np.testing.assert_allclose(space.std.numpy(), singular[:PCS] / np.sqrt(MODELS - 1), rtol=1e-4)
    np.testing.assert_allclose(space.explained, singular[:PCS] ** 2 / (singular**2).sum(), rtol=1e-4)


@pytest.mark.parametrize(("small", "exact"), [(2**24, 5000), (10, 5000), (10, 10)])
@pytest.mark.parametrize("shape", [(60, 400), (400, 60)])
def test_every_solver_finds_numpys_components_with_scikit_learns_signs(monkeypatch, small, exact, shape):
    monkeypatch.setattr(components_module, "SMALL", small)
    monkeypatch.setattr(components_module, "EXACT", exact)
    weights = falling(*shape)
    singular, rows = numpys_svd(weights)
    signs = np.sign(np.take_along_axis(rows, np.abs(rows).argmax(1)[:, None], 1))
    components, coefficients, solver = principal_components(weights, None, PCS, 0)
    tolerance = 1e-5 if solver == "exact" else 0.05
    np.testing.assert_allclose(components, (rows * signs)[:PCS], atol=tolerance)
    np.testing.assert_allclose(coefficients.std(0), singular[:PCS] / np.sqrt(len(weights) - 1), rtol=tolerance)
    assert solver == "exact" or exact == 10


@pytest.mark.slow
def test_at_the_pockets_size_the_gram_matrix_is_as_exact_as_the_svd(monkeypatch):
    weights = falling(1000, 4096)
    decomposition, _, _ = principal_components(weights, None, 300, 0)
    monkeypatch.setattr(components_module, "SMALL", 10)
    components, _, _ = principal_components(weights, None, 300, 0)
    np.testing.assert_allclose(components, decomposition, atol=1e-5)
    torch.testing.assert_close(components @ components.T, torch.eye(300), rtol=0, atol=1e-5)


@pytest.mark.parametrize("small", [2**24, 10])
def test_standardised_space_is_the_svd_of_standardised_weights(layout, weights, ids, monkeypatch, small):
    monkeypatch.setattr(components_module, "SMALL", small)
    constant = weights.clone()
    constant[:, :3] = torch.tensor([0.1, -7.3, 0.0])  # 0.1 and -7.3 have a deviation by rounding
    space = WeightSpace.fit(layout, constant, ids, PCS, standardise=True)
    varying = constant[:, 3:].double()
    singular, rows = numpys_svd(varying / varying.std(0))
    torch.testing.assert_close(
        space.std.double(), torch.tensor(singular[:PCS]) / (MODELS - 1) ** 0.5, rtol=1e-4, atol=0
    )
    np.testing.assert_allclose(np.abs((space.components[:LATENT, 3:].numpy() * rows[:LATENT]).sum(1)), 1, atol=1e-4)
    assert space.components[:, :3].abs().max() < 1e-6  # no rounding blown up to a deviation of 1
    assert space.total_variance == pytest.approx(layout.dimension - 3, rel=1e-4)
    torch.testing.assert_close(space.unproject(space.sample(4, 0))[:, :3], constant[:4, :3], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("standardise", [False, True])
def test_the_mean_model_is_the_mean_of_the_models(layout, weights, ids, standardise):
    space = WeightSpace.fit(layout, weights, ids, PCS, standardise=standardise)
    torch.testing.assert_close(space.mean_model, weights.mean(0))
    torch.testing.assert_close(space.unproject(torch.zeros(PCS)), weights.mean(0))
    torch.testing.assert_close(space.project(space.mean_model), torch.zeros(PCS))


def test_a_standardised_space_is_the_releases_maths(layout, weights, ids):
    """z = (weights - mean) / std, c = z V, weights = c V^T * std + mean; entries of std may be negative or 0."""
    mean, std = weights.mean(0), weights.std(0)
    std[::50] *= -1
    z = (weights - mean) / std
    z[:, 7] = 0  # where std is 0, z has nothing to say
    std[7] = 0
    _, _, v = torch.linalg.svd(z, full_matrices=False)
    coefficients = z @ v[:PCS].T
    space = WeightSpace(layout, ids, mean, v[:PCS], coefficients, float(z.var(0).sum()), "theirs", "theirs", std)
    torch.testing.assert_close(space.project(weights), coefficients, rtol=1e-3, atol=1e-4)
    back = space.unproject(coefficients)
    torch.testing.assert_close(back, coefficients @ v[:PCS] * std + mean)
    torch.testing.assert_close(back[:, 7], mean[7].expand(MODELS))
    assert held_out_share(space, weights) == pytest.approx(space.explained.sum(), abs=1e-4)


@pytest.mark.parametrize("standardise", [False, True])
def test_all_components_give_every_model_back(layout, weights, ids, standardise):
    space = WeightSpace.fit(layout, weights, ids, standardise=standardise)
    assert len(space.components) == MODELS - 1
    torch.testing.assert_close(space.unproject(space.project(weights)), weights, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(space.project(weights), space.coefficients, rtol=1e-3, atol=1e-3)
    assert held_out_share(space, weights) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("small", [2**24, 10])
def test_models_that_are_there_twice_span_no_more(layout, weights, ids, monkeypatch, small):
    monkeypatch.setattr(components_module, "SMALL", small)
    twice = weights[:4].repeat(3, 1)
    space = WeightSpace.fit(layout, twice, ids[:12])
    assert space.components.shape == (3, layout.dimension)
    torch.testing.assert_close(space.unproject(space.project(twice)), twice, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="components: these 12 models span 3 dimensions only, found 5"):
        WeightSpace.fit(layout, twice, ids[:12], 5)


def test_share_explained_of_planted_dimensions(space, weights):
    few = space.truncated(LATENT)
    assert few.explained.sum() > 0.95
    assert held_out_share(few, weights) == pytest.approx(few.explained.sum(), abs=1e-4)
    # A vector orthogonal to all components keeps nothing, one along a component everything.
    assert held_out_share(space, space.mean_model + space.components[:1]) == pytest.approx(1, abs=1e-5)
    beside = few.unproject(torch.zeros(1, LATENT)) + space.components[LATENT]
    assert held_out_share(few, beside) == pytest.approx(0, abs=1e-5)


# ---------------------------------------------------------------- provenance
def test_a_truncated_space_has_the_same_source_and_another_fingerprint(space):
    few = space.truncated(LATENT)
    assert few.source == space.source and few.fingerprint != space.fingerprint
    assert few.truncated(LATENT).fingerprint == few.fingerprint


def test_the_source_is_what_the_space_was_made_of(layout, weights, ids, space):
    order = torch.randperm(MODELS, generator=torch.Generator().manual_seed(0))
    again = WeightSpace.fit(layout, weights[order], [ids[i] for i in order], 4, seed=7)
    assert again.source == space.source  # the same models in another order; an exact solver draws no numbers
    changed, renamed = weights.clone(), ["train-x", *ids[1:]]
    changed[5, 3] += 1e-4
    elsewhere = AdapterLayout(layout.factors, layout.rank, layout.alpha, layout.targets, "f" * 16)
    others = [
        WeightSpace.fit(layout, changed, ids, PCS),
        WeightSpace.fit(layout, weights, renamed, PCS),
        WeightSpace.fit(elsewhere, weights, ids, PCS),
        WeightSpace.fit(layout, weights, ids, PCS, standardise=True),
    ]
    assert len({space.source, *(other.source for other in others)}) == 5
    assert rows_fingerprint(ids, weights) == space.rows != rows_fingerprint(ids, weights[order])


def test_a_randomised_space_names_its_seed(layout, weights, ids, monkeypatch):
    monkeypatch.setattr(components_module, "SMALL", 10)
    monkeypatch.setattr(components_module, "EXACT", 10)
    sources = {WeightSpace.fit(layout, weights, ids, PCS, seed=seed).source for seed in (0, 0, 1)}
    assert len(sources) == 2


# ---------------------------------------------------------------- arguments
def test_fit_refuses(layout, weights, ids, unchecked):
    broken = weights.clone()
    broken[2, 5], broken[9, 0] = torch.nan, torch.inf
    for arguments, error in [
        ((weights[:1], ids[:1]), "1 models: a space needs at least 2"),
        ((weights, ids, MODELS), "components: expected a whole number of at least 1 and at most 59, found 60"),
        ((weights, ids, 0), "components: expected a whole number of at least 1 .*found 0"),
        ((weights, ids, 2.5), "components: expected a whole number"),
        ((weights, ids, PCS, False, -1), "seed: expected a whole number of at least 0"),
        ((broken, ids), "weights: rows train-00002, train-00009 hold NaN or infinite numbers"),
        ((weights[:, :-1], ids), "weights: expected rows of .* numbers, found shape"),
        ((weights.int(), ids), "weights: expected a tensor of floating-point numbers, found a tensor of torch.int32"),
        ((weights.numpy(), ids), "weights: expected a tensor of floating-point numbers, found ndarray"),
        ((weights, ids[:-1]), "59 ids for 60 models: expected one for each"),
        ((weights, [*ids[:-1], ids[3]]), "ids train-00003 are there more than once"),
        ((weights, range(MODELS)), "ids: expected texts, found 0"),
        ((weights, "".join(map(chr, range(65, 65 + MODELS)))), "ids: expected a list, found 'ABC"),
        ((weights, set(ids)), "ids: expected a list, found set"),
        ((weights[None], ids), "weights: expected rows of .* numbers, found shape .*; expected 2 axes"),
        ((weights.to_sparse(), ids), "weights: .* found a tensor of torch.float32 in torch.sparse_coo"),
        ((weights.double() * 1e300, ids), "weights: rows train-00000, .* hold NaN or infinite"),
        ((1e30 * weights, ids), "variance of the weights: expected a finite number, found inf"),
        ((weights, ids, 4, weights.std(0)), "standardise: expected bool, found Tensor"),
        ((weights[:1].expand(5, -1), ids[:5]), "5 models without a difference"),
    ]:
        with pytest.raises(ValueError, match=error):
            WeightSpace.fit(layout, *arguments)


def test_numbers_of_any_precision_are_taken_in_fp32(space, weights):
    for one in (space.project, lambda rows: space.nearest(space.project(rows))[1]):
        assert torch.equal(one(weights.double()), one(weights))
    assert (
        space.project(weights.bfloat16()).dtype == space.unproject(space.coefficients.double()).dtype == torch.float32
    )


def test_what_is_put_together_by_hand_is_checked(space, ids, unchecked):
    for changes, error in [
        ({"components": space.components.numpy()}, "components: expected a tensor of floating-point numbers"),
        ({"mean": space.mean.half()}, "mean: expected numbers in torch.float32, found torch.float16"),
        ({"mean": space.mean * torch.nan}, "mean: expected finite numbers"),
        ({"ids": [ids[0]] * MODELS}, "ids train-00000, .* are there more than once"),
        ({"total_variance": float("nan")}, "total_variance: expected a finite number, found nan"),
        ({"total_variance": 0.0}, "total_variance: expected a number above 0"),
        ({"ids": ids[:1], "coefficients": space.coefficients[:1]}, "space of 1 models and 8 components: expected at"),
        ({"layout": None}, "layout: expected AdapterLayout, found None"),
    ]:
        with pytest.raises(ValueError, match=error):
            replace(space, **changes)
    flat = replace(space, coefficients=space.coefficients * torch.tensor([1.0, 0.0, *[1.0] * (PCS - 2)]))
    with pytest.raises(ValueError, match="coefficients of components 1: expected finite numbers that differ"):
        flat.sample(1, 0)


def test_the_spaces_functions_refuse(space, weights, unchecked):
    coefficients, nan = space.coefficients[:2], torch.full((1, PCS), torch.nan)
    for call, error in [
        (lambda: space.truncated(0), "components: expected a whole number of at least 1 and at most 8, found 0"),
        (lambda: space.truncated(PCS + 1), "components: .* found 9"),
        (lambda: space.sample(0, 0), "count: expected a whole number of at least 1, found 0"),
        (lambda: space.sample(1, -1), "seed: expected a whole number of at least 0"),
        (lambda: space.sample(1, 2**40), "seed: "),
        (lambda: space.project(weights[:, :4]), r"weights: expected rows of .*, found shape \(60, 4\)"),
        (lambda: space.project(weights * torch.nan), "weights: rows 0, 1, 2, 3, 4 and 55 more hold NaN"),
        (lambda: space.unproject(nan), "coefficients: rows 0 hold NaN"),
        (lambda: space.unproject(coefficients[:, :3]), "coefficients: expected rows of 8 numbers"),
        (lambda: space.nearest(nan), "coefficients: rows 0 hold NaN"),
        (lambda: space.nearest(coefficients, 0), "count: "),
        (lambda: space.nearest(coefficients, MODELS + 1), "count: .* at most 60, found 61"),
        (lambda: space.nearest(coefficients[0]), "coefficients: .*; expected 2 axes"),
        (lambda: space.sample(1, 10**400), "seed: expected a whole number"),
        (lambda: rotated(weights[0], 0), "coefficients: .*; expected 2 axes"),
        (lambda: held_out_share(space, 1e30 * weights), "squared distance .*: expected a finite number"),
        (lambda: independent_columns(weights.numpy(), 0), "weights: expected a tensor"),
        (lambda: held_out_share(space, space.mean_model[None]), "every row is the space's mean"),
        (lambda: independent_columns(weights, -1), "seed: "),
    ]:
        with pytest.raises(ValueError, match=error):
            call()


def test_projecting_a_few_rows_at_a_time_changes_nothing(space, weights, monkeypatch):
    whole = space.project(weights)
    monkeypatch.setattr("w2w_lib.space.arguments.CHUNK", 7 * space.layout.dimension)
    torch.testing.assert_close(space.project(weights), whole)
    stacked = weights[:12].reshape(3, 4, -1)
    torch.testing.assert_close(space.project(stacked), whole[:12].reshape(3, 4, -1))
    assert space.project(weights[:0]).shape == (0, len(space.components))
