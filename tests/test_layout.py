"""Which layers an adapter may have."""

import pytest
from tiny_base import tiny_pipeline

from w2w_lib.lora.batched import apply_adapters
from w2w_lib.lora.layout import AdapterLayout


def test_layouts_that_cannot_be(pipeline, unchecked):
    for targets, rank, alpha, said in (
        ((), 1, 1.0, "no target modules"),
        ("paper", 1.5, 1.0, "rank 1.5: expected a whole number"),
        ("paper", 1, 0.0, "alpha 0.0: expected a finite number other than 0"),
        (("o_k",), 1, 1.0, "target module 'o_k': the base has none"),
        (("attn9.to_k",), 1, 1.0, r"attn9.to_k.*it has .*attn2.to_k"),
        ("paper", 0, 1.0, "rank 0"),
    ):
        with pytest.raises(ValueError, match=said):
            AdapterLayout.of(pipeline.unet, "x", targets, rank, alpha)
    twice = AdapterLayout.of(pipeline.unet, "x", ("attn2.to_k", "to_k"))
    assert len({f.key for f in twice.factors}) == len(twice.factors)
    wider = AdapterLayout.of(tiny_pipeline(channels=(16, 64)).unet, "x")
    with pytest.raises(ValueError, match=r"adapter of another base: .* needs a width of 64, this UNet has .* 32"):
        with apply_adapters(pipeline.unet, wider):
            pass
