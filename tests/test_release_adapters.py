"""Adapters as the authors publish them open here, and ours open in PEFT, at their layout and alpha."""

import copy
import json

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from tiny_base import stable_diffusion_unet

from w2w_lib.lora.adapter_files import load_adapter, save_adapter
from w2w_lib.lora.batched import apply_adapters
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.release.random_base import random_stable_diffusion
from w2w_lib.release.synthetic import TARGET_MODULES


@pytest.fixture(scope="module")
def unet():
    return random_stable_diffusion().unet.eval()


@pytest.fixture(scope="module")
def layout(unet):
    return AdapterLayout.of(unet, "narrow", "release", 1, 27.0)


@pytest.fixture
def weights(layout):
    return torch.randn(layout.dimension, generator=torch.Generator().manual_seed(1)) * 0.02


def test_their_adapters_open(layout, weights, tmp_path):
    """As their utilities export them: an adapter's name in the keys, and PEFT's configuration of all four modules."""
    folder = tmp_path / "identity1" / "unet"
    folder.mkdir(parents=True)
    factors = layout.unflatten(weights[None])
    named = {key.replace(".weight", ".identity1.weight"): value[0].clone() for key, value in factors.items()}
    save_file(named, folder / "adapter_model.safetensors")
    config = LoraConfig(r=1, lora_alpha=27, target_modules=TARGET_MODULES).to_dict()
    (folder / "adapter_config.json").write_text(json.dumps(config, default=sorted))
    for path in (folder, folder.parent, folder / "adapter_model.safetensors"):
        torch.testing.assert_close(load_adapter(layout, path), weights, rtol=0, atol=0)


@torch.no_grad()
def test_ours_open_in_peft(unet, layout, weights, tmp_path):
    """Truth: y = W x + 27 B (A x), as PEFT computes it from our folder."""
    save_adapter(layout, weights, tmp_path / "unet", "peft")
    theirs = PeftModel.from_pretrained(copy.deepcopy(unet), tmp_path / "unet")
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 7, 48)
    with apply_adapters(unet, layout, weights[None]):
        ours = unet(x, t, text).sample
    torch.testing.assert_close(ours, theirs(x, t, text).sample, rtol=1e-4, atol=1e-5)
    assert (ours - unet(x, t, text).sample).abs().max() > 1e-3


@pytest.mark.slow
@torch.no_grad()
def test_the_full_layout_acts_as_in_peft(tmp_path):
    """Truth: PEFT on Stable Diffusion 1.5's UNet at its real size, with random weights: 128 factors, 99,648 numbers."""
    unet = stable_diffusion_unet().to_empty(device="cpu")
    rng = torch.Generator().manual_seed(0)
    for name, tensor in unet.named_parameters():
        spread = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.0
        tensor.copy_(torch.randn(tensor.shape, generator=rng) * spread + (tensor.ndim == 1) * name.endswith("weight"))
    layout = AdapterLayout.of(unet, "random", "release", 1, 27.0)
    assert (len(layout.factors), layout.dimension) == (128, 99_648)
    models = torch.randn(2, layout.dimension, generator=rng) * 0.02
    x, text = torch.randn(2, 4, 8, 8, generator=rng), torch.randn(2, 7, 768, generator=rng)
    with apply_adapters(unet, layout, models):
        ours = unet(x, 500, text).sample
    base = unet(x, 500, text).sample
    save_adapter(layout, models[1], tmp_path / "unet", "peft")
    theirs = PeftModel.from_pretrained(unet, tmp_path / "unet")(x[1:], 500, text[1:]).sample
    changed = (ours[1:] - base[1:]).norm()
    assert changed > 0.01 * base.norm() and (theirs - ours[1:]).norm() < 1e-3 * changed
