"""The share of adapters' variance that prompts can reach, on adapters made inside, outside and across that span."""

import numpy as np
import pytest
import torch

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.lora.prompt_reach import TOGETHER, prompt_reach
from w2w_lib.models.prompts import encode_prompts

CAPTIONS = ["person", "a photo of a smiling woman", "man", "a photo of a man", "smiling person", "a woman smiling"]
MODELS = 40


def numpy_reach(pipeline, layout, weights, held, modules):
    """Shares by the definition, from whole matrices: (axes, reached, principal components) of B, BA and BA c."""
    states = encode_prompts(pipeline, CAPTIONS).numpy().astype(float)
    frozen = dict(pipeline.unet.named_modules())
    matrix = np.concatenate([frozen[name].weight.numpy().astype(float) for name in modules])
    moved = (states - states.mean(0)).reshape(-1, states.shape[2]) @ matrix.T
    axes, sizes, _ = np.linalg.svd(moved.T, full_matrices=False)
    shares = sizes**2 / (sizes**2).sum()
    axes = axes[:, : np.searchsorted(shares.cumsum(), held) + 1]
    factors = {key: f.numpy().astype(float) for key, f in layout.unflatten(weights).items()}
    ups = [layout.scale * factors[f"base_model.model.{name}.lora_B.weight"] for name in modules]
    downs = [factors[f"base_model.model.{name}.lora_A.weight"] for name in modules]
    updates = np.concatenate([b @ a for b, a in zip(ups, downs, strict=True)], 1)
    found = {"B": np.concatenate(ups, 1), "BA": updates, "BA c": updates @ states.reshape(-1, states.shape[2]).T}
    for of, x in found.items():
        x = (x - x.mean(0)).swapaxes(0, 1).reshape(x.shape[1], -1)
        sizes = np.linalg.svd(x, compute_uv=False) ** 2
        within = np.square(axes.T @ x).sum() / np.square(x).sum()
        found[of] = (axes.shape[1], within, sizes[: axes.shape[1]].sum() / sizes.sum())
    return found


@pytest.fixture(scope="module")
def rng():
    return torch.Generator().manual_seed(2)


@pytest.fixture(scope="module")
def differences(pipeline):
    """Differences of text states between captions, at one position."""
    states = encode_prompts(pipeline, CAPTIONS)
    return (states - states.mean(0)).flatten(0, 1)


def planted(pipeline, layout, changes, rng):
    """Adapters with B = W times a change of text states (by layer and model) and any A, the same for all layers."""
    frozen = dict(pipeline.unet.named_modules())
    down = torch.randn(MODELS, 1, changes.shape[2], generator=rng)
    factors = {
        f.key: down if f.is_down else (frozen[f.module].weight @ changes[i // 2].mT)[..., None].permute(1, 0, 2)
        for i, f in enumerate(layout.factors)
    }
    return layout.flatten(factors)


def test_what_one_change_of_text_states_does_to_all_layers_is_reached(pipeline, layout, differences, rng):
    mixes = torch.randn(MODELS, len(differences), generator=rng) @ differences
    same = planted(pipeline, layout, mixes.expand(len(layout.factors) // 2, -1, -1), rng)
    found = prompt_reach(pipeline, layout, same, CAPTIONS, held=1.0)
    assert found["reached by prompts"].to_numpy() == pytest.approx(1, abs=1e-5)
    assert (found["random"].drop(TOGETHER) <= 1).all() and (found["random"][TOGETHER] < 0.2).all()


def test_other_changes_in_every_layer_are_reached_layer_by_layer_alone(pipeline, layout, differences, rng):
    mixes = torch.randn(len(layout.factors) // 2, MODELS, len(differences), generator=rng) @ differences
    found = prompt_reach(pipeline, layout, planted(pipeline, layout, mixes, rng), CAPTIONS, held=1.0)
    assert found["reached by prompts"].drop(TOGETHER).to_numpy() == pytest.approx(1, abs=1e-5)
    assert (found["reached by prompts"][TOGETHER] < 0.5).all()


def test_random_adapters_are_reached_as_random_axes_are(pipeline, layout, rng):
    found = prompt_reach(pipeline, layout, torch.randn(2000, layout.dimension, generator=rng), CAPTIONS)
    np.testing.assert_allclose(found["reached by prompts"], found["axes"] / found["outputs"], atol=0.03)
    np.testing.assert_allclose(found["random"], found["axes"] / found["outputs"])
    assert (found["principal components"] >= found["reached by prompts"]).all()


@pytest.mark.parametrize("rank", [1, 2])
def test_shares_are_those_of_whole_matrices(pipeline, layout, rng, rank):
    layout = AdapterLayout.of(pipeline.unet, layout.base, "paper", rank, alpha=3)
    weights = torch.randn(MODELS, layout.dimension, generator=rng) + torch.randn(layout.dimension, generator=rng)
    found = prompt_reach(pipeline, layout, weights, CAPTIONS, held=0.9)
    modules = list(dict.fromkeys(f.module for f in layout.factors))
    for layer, names in {TOGETHER: modules, modules[3]: modules[3:4]}.items():
        for of, expected in numpy_reach(pipeline, layout, weights, 0.9, names).items():
            columns = ["axes", "reached by prompts", "principal components"]
            assert tuple(found.loc[(layer, of), columns]) == pytest.approx(expected, rel=1e-4)


def test_what_has_no_share_is_refused(pipeline, layout, rng):
    weights = torch.randn(3, layout.dimension, generator=rng)
    blind = AdapterLayout.of(pipeline.unet, layout.base, ("attn1.to_q",))
    with pytest.raises(ValueError, match="no layer reads text"):
        prompt_reach(pipeline, blind, torch.zeros(3, blind.dimension), CAPTIONS)
    with pytest.raises(ValueError, match="at least two models"):
        prompt_reach(pipeline, layout, weights[:1], CAPTIONS)
    with pytest.raises(ValueError, match="is the same: expected models of several people"):
        prompt_reach(pipeline, layout, weights[:1].repeat(3, 1), CAPTIONS)
    with pytest.raises(ValueError, match="all give the same keys"):
        prompt_reach(pipeline, layout, weights, ["person", "person"])
    with pytest.raises(ValueError, match="held"):
        prompt_reach(pipeline, layout, weights, CAPTIONS, held=0.0)
