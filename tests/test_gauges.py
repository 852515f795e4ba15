"""Gauges of rank-r factors: B A is what counts. Against products written out, and scikit-learn's PCA of them."""

import pytest
import torch
from sklearn.decomposition import PCA

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.space.gauges import ProductSpace, balanced, with_rank


@pytest.fixture(scope="module", params=[1, 2])
def layout(request, pipeline):
    return AdapterLayout.of(pipeline.unet, fingerprint(pipeline), "paper", rank=request.param, alpha=request.param)


@pytest.fixture(scope="module")
def weights(layout):
    return torch.randn(12, layout.dimension, generator=torch.Generator().manual_seed(2))


def products(layout, weights) -> list[torch.Tensor]:
    parts = layout.unflatten(weights)
    return [parts[f.key.replace("lora_A", "lora_B")] @ parts[f.key] for f in layout.factors if f.is_down]


def written_out(layout, weights):
    return torch.cat([product.flatten(1) for product in products(layout, weights)], 1)


def in_another_gauge(layout, weights):
    """The same models with A and B multiplied by a matrix and its inverse, another one for each model."""
    parts, rng = layout.unflatten(weights), torch.Generator().manual_seed(3)
    for factor in layout.factors:
        if factor.is_down:
            key_b = factor.key.replace("lora_A", "lora_B")
            turn = 3 * torch.eye(layout.rank) + torch.randn(len(weights), layout.rank, layout.rank, generator=rng)
            parts[factor.key], parts[key_b] = turn @ parts[factor.key], parts[key_b] @ torch.linalg.inv(turn)
    return layout.flatten(parts)


def test_balanced_factors_are_the_same_models_and_do_not_depend_on_the_gauge(layout, weights):
    reference = weights[0]
    found = balanced(layout, weights, reference)
    torch.testing.assert_close(written_out(layout, found), written_out(layout, weights), atol=1e-4, rtol=1e-3)
    parts = layout.unflatten(found)
    for factor in layout.factors:
        if factor.is_down:
            a, b = parts[factor.key], parts[factor.key.replace("lora_A", "lora_B")]
            torch.testing.assert_close(a @ a.mT, b.mT @ b, atol=1e-3, rtol=1e-3)
            towards = layout.unflatten(reference[None])[factor.key]
            assert ((a * towards).sum((1, 2)) > 0).all()
    again = balanced(layout, in_another_gauge(layout, weights), reference)
    torch.testing.assert_close(again, found, atol=1e-2, rtol=1e-2)


def test_components_of_products_are_those_of_products_written_out(layout, weights):
    space, train, fresh = ProductSpace.fit(layout, weights[:10], 4), weights[:10], weights[10:]
    pca = PCA(4, svd_solver="full").fit(written_out(layout, train).numpy())
    expected = torch.from_numpy(pca.transform(written_out(layout, fresh).numpy()))
    torch.testing.assert_close(space.project(fresh).abs(), expected.abs().float(), atol=1e-2, rtol=1e-3)
    centred = written_out(layout, fresh).numpy() - pca.mean_
    assert space.held_out_share(fresh) == pytest.approx((expected.numpy() ** 2).sum() / (centred**2).sum(), rel=1e-3)
    torch.testing.assert_close(
        space.std, torch.from_numpy(pca.explained_variance_).sqrt().float(), rtol=1e-3, atol=1e-3
    )


def test_all_components_give_the_training_models_back(layout, weights):
    space = ProductSpace.fit(layout, weights, len(weights) - 1)
    found = space.adapters(space.project(weights))
    torch.testing.assert_close(written_out(layout, found), written_out(layout, weights), atol=2e-2, rtol=1e-2)


def test_another_rank_keeps_layers_and_scale(layout, pipeline):
    other = with_rank(layout, 4)
    assert other == AdapterLayout.of(pipeline.unet, layout.base, "paper", rank=4, alpha=4 * layout.scale)
