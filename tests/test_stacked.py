"""Stacked adapters against merged dense weights and against PEFT with two active adapters."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

from w2w_lib.lora.batched import apply_adapters
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.lora.stacked import change_norm, stacked
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.prompts import encode_prompts

STRENGTHS = torch.tensor([1.5, -2.0, 0.0])


@pytest.fixture(scope="module", params=[("paper", 1, 3.0), ("release", 2, 5.0)], ids=["paper", "release"])
def layout(request, pipeline):
    targets, rank, alpha = request.param
    return AdapterLayout.of(pipeline.unet, fingerprint(pipeline), targets, rank, alpha)


def draws(layout, seed, models=3):
    return torch.randn(models, layout.dimension, generator=torch.Generator().manual_seed(seed)) * 0.3


def dense(layout, row):
    """ΔW of every module, alpha / rank written out."""
    parts = row.split([f.size for f in layout.factors])
    factors = {f.key: part.view(f.shape) for f, part in zip(layout.factors, parts, strict=True)}
    downs = [key for key in factors if "lora_A" in key]
    return {key: layout.alpha / layout.rank * factors[key.replace("lora_A", "lora_B")] @ factors[key] for key in downs}


def test_the_change_is_the_sum_of_both_changes(layout):
    weights, other = draws(layout, 1), draws(layout, 2)
    doubled, both = stacked(layout, weights, other, STRENGTHS)
    assert doubled.rank == 2 * layout.rank and doubled.scale == layout.scale and doubled.base == layout.base
    for i, strength in enumerate(STRENGTHS):
        own, added, found = dense(layout, weights[i]), dense(layout, other[i]), dense(doubled, both[i])
        for key, change in found.items():
            torch.testing.assert_close(change, own[key] + strength * added[key], rtol=1e-5, atol=1e-5)
        plain = dense(layout, weights[i] + strength * other[i])
        crossed = max(float((plain[key] - change).abs().max()) for key, change in found.items())
        assert crossed > 0.1 or strength == 0  # the flattened vectors' sum is another adapter
    _, one_for_all = stacked(layout, weights, other[:1], -2)
    torch.testing.assert_close(one_for_all[1], stacked(layout, weights[1:2], other[:1], -2.0)[1][0], rtol=0, atol=0)


def test_a_stacked_adapter_acts_as_two_active_ones_in_peft(pipeline, layout):
    weights, other = draws(layout, 1), draws(layout, 2)
    x, t = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3)), torch.tensor([10, 500, 999])
    text = encode_prompts(pipeline, ["a photo of person", "man smiling", "woman"])
    with apply_adapters(pipeline.unet, *stacked(layout, weights, other, STRENGTHS)):
        ours = pipeline.unet(x, t, text).sample
    before = pipeline.unet(x, t, text).sample
    for i, strength in enumerate(STRENGTHS):
        model = two_in_peft(pipeline.unet, layout, {"person": weights[i], "slider": other[i]}, float(strength))
        expected = model(x[i : i + 1], t[i : i + 1], text[i : i + 1]).sample
        torch.testing.assert_close(ours[i : i + 1], expected, rtol=1e-5, atol=1e-5)
        assert (ours[i] - before[i]).abs().max() > 1e-3


def two_in_peft(unet, layout, adapters, strength):
    """PEFT's model with both adapters active, the second one's scale multiplied."""
    config = LoraConfig(r=layout.rank, lora_alpha=layout.alpha, target_modules=list(layout.targets))
    model = get_peft_model(copy.deepcopy(unet), config, "person")
    model.add_adapter("slider", config)
    model.base_model.set_adapter(["person", "slider"])
    with torch.no_grad():
        for name, row in adapters.items():
            parts = row.split([f.size for f in layout.factors])
            for factor, part in zip(layout.factors, parts, strict=True):
                key = factor.key.replace(".weight", f".{name}.weight")
                model.get_parameter(key).copy_(part.view(factor.shape))
    for module in model.modules():
        if hasattr(module, "scaling") and "slider" in module.scaling:
            module.scaling["slider"] *= strength
    return model


def test_norm_of_the_whole_change(layout):
    weights = draws(layout, 1)
    expected = [torch.cat([part.flatten() for part in dense(layout, row).values()]).norm() for row in weights]
    torch.testing.assert_close(change_norm(layout, weights), torch.stack(expected), rtol=1e-5, atol=0)
    doubled, cancelled = stacked(layout, weights, weights, -1.0)
    assert (change_norm(doubled, cancelled) < 1e-5 * change_norm(layout, weights)).all()
    torch.testing.assert_close(change_norm(layout, 0 * weights), torch.zeros(3))


def test_what_cannot_be_stacked(layout, unchecked):
    weights, other = draws(layout, 1), draws(layout, 2)
    for wrong, said in (
        ((weights[0], other), "weights of shape .*: expected .*models"),
        ((weights, other[:, 1:]), "other of shape .*: expected .*models"),
        ((weights, other[:2]), "other of 2 rows: expected one for all, or one for each of 3"),
        ((weights, other.long()), "other: expected a tensor of floating-point numbers, found a tensor of torch.int64"),
        ((weights * torch.nan, other), "weights: NaN or infinite"),
        ((weights[:0], other), "one row at least"),
        ((weights, other, float("inf")), "strength: expected a finite number, found inf"),
        ((weights, other, STRENGTHS[:2]), "strength .*: expected a finite number, or a tensor of one for each of 3"),
    ):
        with pytest.raises(ValueError, match=said):
            stacked(layout, *wrong)
    with pytest.raises(ValueError, match="layout: expected the AdapterLayout of the weights, found None"):
        stacked(None, weights, other)
    with pytest.raises(ValueError, match="weights of shape"):
        change_norm(layout, weights[0])
