"""Adapter files, by the libraries that are to open them."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_base import tiny_pipeline

from w2w_lib.adapter_files import FORMATS, load_adapter, save_adapter
from w2w_lib.base_model import fingerprint
from w2w_lib.generate import Sampling, generate
from w2w_lib.layout import AdapterLayout

PROMPT, SEED, SAMPLING = "a photo of sks person", 3, Sampling(steps=4, guidance=2.0)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module", params=[("paper", 1, 3.0), ("release", 2, 27.0)], ids=["paper", "release"])
def layout(request, pipeline):
    targets, rank, alpha = request.param
    return AdapterLayout.of(pipeline.unet, fingerprint(pipeline), targets, rank, alpha)


@pytest.fixture
def theta(layout):
    return torch.randn(layout.dimension, generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.mark.parametrize("kind", FORMATS)
def test_round_trip(layout, theta, tmp_path, kind):
    save_adapter(layout, theta, tmp_path / "adapter", kind)
    torch.testing.assert_close(load_adapter(layout, tmp_path / "adapter"), theta, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["diffusers", "kohya"])
def test_diffusers_paints_the_same_picture_from_our_file(pipeline, layout, theta, tmp_path, kind):
    save_adapter(layout, theta, tmp_path / "lora.safetensors", kind)
    ours = generate(pipeline, [PROMPT], [SEED], layout, theta[None], sampling=SAMPLING)
    bare = generate(pipeline, [PROMPT], [SEED], sampling=SAMPLING)
    other = tiny_pipeline()
    other.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    theirs = generate(other, [PROMPT], [SEED], sampling=SAMPLING)
    assert abs(ours.astype(int) - theirs).max() <= 1 < abs(ours.astype(int) - bare).max()


def test_kohya_names_and_alpha(layout, theta, tmp_path):
    save_adapter(layout, theta, tmp_path / "lora.safetensors", "kohya")
    tensors = load_file(tmp_path / "lora.safetensors")
    target = layout.targets[-1].replace(".", "_")
    name = f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_{target}"
    assert tensors[f"{name}.alpha"] == layout.alpha and tensors[f"{name}.lora_down.weight"].shape[0] == layout.rank


def test_another_alpha_is_the_same_adapter(pipeline, layout, theta, tmp_path):
    save_adapter(layout, theta, tmp_path / "peft", "peft")
    double = AdapterLayout.of(pipeline.unet, layout.base, layout.targets, layout.rank, 2 * layout.alpha)
    factors = layout.unflatten(theta[None])
    halved = layout.flatten({k: v / 2 if ".lora_B." in k else v for k, v in factors.items()})[0]
    torch.testing.assert_close(load_adapter(double, tmp_path / "peft"), halved)


def test_bad_files_are_named(pipeline, layout, theta, tmp_path):
    path = tmp_path / "lora.safetensors"
    with pytest.raises(FileNotFoundError, match=r"lora.safetensors: expected a PEFT"):
        load_adapter(layout, path)
    with pytest.raises(ValueError, match="'onnx': expected one of peft, diffusers, kohya"):
        save_adapter(layout, theta, path, "onnx")
    with pytest.raises(ValueError, match=r"lora.safetensors.*NaN.*nothing was written"):
        save_adapter(layout, theta / 0, path)
    save_adapter(layout, theta, path, "kohya")
    tensors = load_file(path)
    bare = tmp_path / "bare.safetensors"
    save_file({k: v for k, v in tensors.items() if not k.endswith("alpha")}, bare)
    with pytest.raises(ValueError, match=r"bare.safetensors: lora_unet_.*alpha is missing"):
        load_adapter(layout, bare)
    torch.testing.assert_close(load_adapter(layout, bare, alpha=layout.alpha), theta)
    save_file({k: v * torch.nan for k, v in tensors.items()}, tmp_path / "nan.safetensors")
    with pytest.raises(ValueError, match=r"nan.safetensors: holds NaN"):
        load_adapter(layout, tmp_path / "nan.safetensors", alpha=1.0)
    with pytest.raises(ValueError, match=r"an adapter of base .*expected one of another"):
        load_adapter(AdapterLayout.of(pipeline.unet, "another", layout.targets, layout.rank), path)
    with pytest.raises(ValueError, match=r"lora.safetensors: adapter tensor .*expected shape"):
        load_adapter(AdapterLayout.of(pipeline.unet, layout.base, layout.targets, rank=3), path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_adapter(layout, path)


@pytest.mark.parametrize(("targets", "dimension", "tensors"), [("paper", 49_536, 64), ("release", 99_648, 128)])
def test_stable_diffusion_sizes(targets, dimension, tensors):
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            cross_attention_dim=768,
            attention_head_dim=8,
        )
    layout = AdapterLayout.of(unet, "sd15", targets)
    assert (layout.dimension, len(layout.factors)) == (dimension, tensors)
    keys = [factor.key for factor in layout.factors]
    assert keys == sorted(keys) and keys[0].startswith("base_model.model.down_blocks.0.attentions.0")
