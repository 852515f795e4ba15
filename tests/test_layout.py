"""Which layers an adapter may have, how its numbers are laid out, and how a batch is shared among adapters."""

import json
from dataclasses import replace

import pytest
import torch
from tiny_base import tiny_pipeline

from w2w_lib.lora.batched import apply_adapters
from w2w_lib.lora.layout import AdapterLayout


def test_layouts_that_cannot_be(pipeline, unchecked):
    for targets, rank, alpha, said in (
        ((), 1, 1.0, r"target modules tuple \(\): expected at least one name"),
        ((1,), 1, 1.0, r"target modules tuple \(1,\): expected at least one name"),
        (5, 1, 1.0, "target modules 5: expected at least one name"),
        ({"attn2.to_k"}, 1, 1.0, "expected at least one name"),  # a set has no order
        (b"paper", 1, 1.0, "expected at least one name"),
        ("paper", 10**400, 1.0, "rank: expected a whole number"),
        ("paper", 1, 10**400, "alpha: expected a finite number"),
        ("papr", 1, 1.0, "'papr', did you mean 'paper'"),
        ("paper", 1.5, 1.0, "rank: expected a whole number of at least 1, found 1.5"),
        ("paper", True, 1.0, "rank: expected a whole number"),
        ("paper", 1, 0.0, "alpha: expected a number above 0, found 0.0"),
        ("paper", 1, float("nan"), "alpha: expected a finite number, found nan"),
        (("o_k",), 1, 1.0, "target module 'o_k': the base has none"),
        (("attn9.to_k",), 1, 1.0, r"attn9.to_k.*it has .*attn2.to_k"),
        ("paper", 0, 1.0, "rank.*found 0"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            AdapterLayout.of(pipeline.unet, "x", targets, rank, alpha)
        assert "\n" not in str(caught.value)
    overlapping = AdapterLayout.of(pipeline.unet, "x", ["attn2.to_k", "to_k", "to_k"])
    assert len({f.key for f in overlapping.factors}) == len(overlapping.factors)
    assert overlapping.targets == ("attn2.to_k", "to_k")
    assert AdapterLayout.of(pipeline.unet, "x", "paper", rank=2.0).factors[0].shape[0] == 2
    with pytest.raises(ValueError, match="unet: expected the UNet of a base, found StableDiffusionPipeline"):
        AdapterLayout.of(pipeline, "x")
    with pytest.raises(ValueError, match="seed: expected a whole number of at least 0 and at most"):
        overlapping.initial(2**64)
    wider = AdapterLayout.of(tiny_pipeline(channels=(16, 64)).unet, "x")
    with pytest.raises(ValueError, match=r"adapter of another base: .* needs a width of 64, this UNet has .* 32"):
        with apply_adapters(pipeline.unet, wider):
            pass


def test_a_layout_comes_back_from_json(layout):
    assert AdapterLayout.from_json(layout.to_json()) == layout


def test_json_that_is_no_layout(layout, unchecked):
    good = json.loads(layout.to_json())
    first, second, *rest = good["factors"]
    key = first["key"]
    cases = {
        "Invalid JSON": "{",
        r"layout: Input should be an object, found list \[\]": "[]",
        "no setting 'rnak', did you mean 'rank'": good | {"rnak": 1},
        "base is missing": {name: value for name, value in good.items() if name != "base"},
        "rank: .*valid integer": good | {"rank": "1"},
        "alpha: .*finite": json.dumps(good | {"alpha": float("nan")}),
        "alpha: expected a number above 0": good | {"alpha": -1.0},
        r"expected shape \(2, inputs\)": good | {"rank": 2},
        "sorted order": good | {"factors": [second, first, *rest]},
        "different keys": good | {"factors": [first, first, second, *rest]},
        "found none": good | {"factors": []},
        "is there without .*lora_B": good | {"factors": [first, *rest]},
        "expected base_model.model": good | {"factors": [first, second, *rest, {"key": "conv_in", "shape": [1, 4]}]},
        "whose name ends in to_q": good | {"targets": ["to_q"]},
        r"expected shape \(1, inputs\)": good | {"factors": [{"key": key, "shape": [1, 0]}, second, *rest]},
        "factors.0.shape": good | {"factors": [{"key": key, "shape": [1]}, second, *rest]},
        "factors.0": good | {"factors": [first | {"dtype": "float"}, second, *rest]},
    }
    for said, wrong in cases.items():
        with pytest.raises(ValueError, match=said) as caught:
            AdapterLayout.from_json(wrong if isinstance(wrong, str) else json.dumps(wrong))
        assert "\n" not in str(caught.value)


def test_weights_of_another_layout(layout, weights, unchecked):
    for wrong in (weights[0], weights[:, 1:], weights[None]):
        with pytest.raises(ValueError, match=rf"weights of shape .*expected \(models, {layout.dimension}\)"):
            layout.unflatten(wrong)
    for wrong in (weights.numpy(), weights.tolist(), None):
        with pytest.raises(ValueError, match="weights: expected a torch"):
            layout.unflatten(wrong)
    factors = layout.unflatten(weights)
    torch.testing.assert_close(layout.flatten(factors), weights, rtol=0, atol=0)
    first, second, *_ = factors
    short = {key: value for key, value in factors.items() if key not in (first, second)}
    with pytest.raises(ValueError, match=rf"{first} is missing \(and 1 more\); expected the modules"):
        layout.flatten(short)
    with pytest.raises(ValueError, match=r"conv_in is not in the layout;"):
        layout.flatten(factors | {"conv_in": factors[first]})
    with pytest.raises(ValueError, match=rf"{first}: expected shape .* of rank 1, found"):
        layout.flatten(factors | {first: factors[first].mT})
    with pytest.raises(ValueError, match="expected shape"):
        replace(layout, rank=2)


def test_adapters_that_do_not_divide_a_batch(pipeline, layout, weights, unchecked):
    x, text = torch.zeros(3, 4, 8, 8), torch.ones(3, 77, 16)
    with apply_adapters(pipeline.unet, layout, weights[:2]) as adapters:
        with pytest.raises(ValueError, match=r"3 rows, and 2 adapters for 1 rows each: expected a multiple of 2"):
            pipeline.unet(x, 1, text)
        adapters.enabled = False
        alone = pipeline.unet(x, 1, text).sample
        with pytest.raises(ValueError, match="each: expected a whole number of at least 1, found 0"):
            adapters.set(weights[:1], 0)
        with pytest.raises(ValueError, match="of no adapter"):
            adapters.set(weights[:0])
        adapters.set(weights[:1], 3)
        assert not torch.equal(pipeline.unet(sample=x, timestep=1, encoder_hidden_states=text).sample, alone)
    torch.testing.assert_close(pipeline.unet(x, 1, text).sample, alone, rtol=0, atol=0)
