"""Adapter files, by the libraries that are to open them."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from conftest import fill
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tiny_base import stable_diffusion_unet, tiny_pipeline

from w2w_lib.lora.adapter_files import FORMATS, load_adapter, save_adapter
from w2w_lib.lora.batched import apply_adapters
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.prompts import encode_prompts
from w2w_lib.models.sampling import Sampling, generate

PROMPT, SEED, SAMPLING = "a photo of sks person", 3, Sampling(steps=4, guidance=2.0)


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module", params=[("paper", 1, 3.0), ("release", 2, 27.0)], ids=["paper", "release"])
def layout(request, pipeline):
    targets, rank, alpha = request.param
    return AdapterLayout.of(pipeline.unet, fingerprint(pipeline), targets, rank, alpha)


@pytest.fixture
def weights(layout):
    return torch.randn(layout.dimension, generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.mark.parametrize("kind", FORMATS)
def test_round_trip(layout, weights, tmp_path, kind):
    save_adapter(layout, weights, tmp_path / "adapter", kind)
    torch.testing.assert_close(load_adapter(layout, tmp_path / "adapter"), weights, rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["diffusers", "kohya"])
def test_diffusers_paints_the_same_picture_from_our_file(pipeline, layout, weights, tmp_path, kind):
    save_adapter(layout, weights, tmp_path / "lora.safetensors", kind)
    ours = generate(pipeline, [PROMPT], [SEED], layout, weights[None], sampling=SAMPLING)
    bare = generate(pipeline, [PROMPT], [SEED], sampling=SAMPLING)
    other = tiny_pipeline()
    other.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    theirs = generate(other, [PROMPT], [SEED], sampling=SAMPLING)
    assert abs(ours.astype(int) - theirs).max() <= 1 < abs(ours.astype(int) - bare).max()


def test_kohya_names_and_alpha(layout, weights, tmp_path):
    save_adapter(layout, weights, tmp_path / "lora.safetensors", "kohya")
    tensors = load_file(tmp_path / "lora.safetensors")
    target = layout.targets[-1].replace(".", "_")
    name = f"lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_{target}"
    assert tensors[f"{name}.alpha"] == layout.alpha and tensors[f"{name}.lora_down.weight"].shape[0] == layout.rank


def test_another_alpha_is_the_same_adapter(pipeline, layout, weights, tmp_path):
    save_adapter(layout, weights, tmp_path / "peft", "peft")
    double = AdapterLayout.of(pipeline.unet, layout.base, layout.targets, layout.rank, 2 * layout.alpha)
    factors = layout.unflatten(weights[None])
    halved = layout.flatten({k: v / 2 if ".lora_B." in k else v for k, v in factors.items()})[0]
    torch.testing.assert_close(load_adapter(double, tmp_path / "peft"), halved)


@pytest.mark.parametrize(
    "kind", ["diffusers", "diffusers, old names", "diffusers, with metadata", "peft", "peft, rslora"]
)
def test_files_that_the_libraries_wrote_are_read(pipeline, layout, weights, tmp_path, kind):
    """Truth: what the library's own adapter adds to the UNet's output."""
    unet = copy.deepcopy(pipeline.unet)
    config = LoraConfig(
        r=layout.rank,
        lora_alpha=layout.rank if kind in ("diffusers", "diffusers, old names") else layout.alpha,
        target_modules=list(layout.targets),
        use_rslora="rslora" in kind,
    )
    if "peft" in kind:
        theirs = get_peft_model(unet, config)
        own = {name.replace(".default", ""): p for name, p in theirs.named_parameters() if p.requires_grad}
    else:
        unet.add_adapter(config)
        theirs = unet
        own = {f"base_model.model.{n}".replace(".default", ""): p for n, p in unet.named_parameters() if "lora_" in n}
    for key, value in layout.unflatten(weights[None]).items():
        own[key].data = value[0].clone()
    if "peft" in kind:
        theirs.save_pretrained(tmp_path)
        files = [tmp_path, tmp_path / "adapter_model.safetensors"]
    else:
        state = get_peft_model_state_dict(unet)
        state = state if kind == "diffusers" else convert_state_dict_to_diffusers(state)
        told = {"unet_lora_adapter_metadata": config.to_dict()} if "metadata" in kind else {}
        StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=state, **told)
        files = [tmp_path / "pytorch_lora_weights.safetensors"]
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor([500]), encode_prompts(pipeline, [PROMPT])
    for file in files:
        with apply_adapters(pipeline.unet, layout, load_adapter(layout, file)[None]):
            ours = pipeline.unet(x, t, text).sample
        torch.testing.assert_close(ours, theirs(x, t, text).sample, rtol=1e-4, atol=1e-5)


def test_configurations_that_theta_cannot_hold_or_that_say_too_little(layout, weights, tmp_path):
    save_adapter(layout, weights, tmp_path, "peft")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    cases = {
        "alpha_pattern; expected one rank": {"alpha_pattern": {"to_k": 2}},
        "use_dora; expected one rank": {"use_dora": True},
        "has no lora_alpha": {"lora_alpha": None},
        "has no r;": {"r": 0},
    }
    for said, change in cases.items():
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=said):
            load_adapter(layout, tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": None}))
    torch.testing.assert_close(load_adapter(layout, tmp_path, alpha=layout.alpha), weights)
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(ValueError, match=r"adapter_config.json: not a PEFT configuration"):
        load_adapter(layout, tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match="expected PEFT's configuration beside the file"):
        load_adapter(layout, tmp_path)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_full_disk_leaves_the_adapter_that_was_there(layout, weights, small_disk, kind):
    path = small_disk / "adapter"
    save_adapter(layout, weights, path, kind)
    fill(small_disk)
    with pytest.raises(OSError, match=r"cannot write the adapter .*No space left.*make room"):
        save_adapter(replace(layout, alpha=9 * layout.alpha), 2 * weights, path, kind)
    torch.testing.assert_close(load_adapter(layout, path), weights, rtol=1e-6, atol=0)
    assert not list(small_disk.rglob("*.partial*"))


def test_bad_files_are_named(pipeline, layout, weights, tmp_path):
    path = tmp_path / "lora.safetensors"
    with pytest.raises(FileNotFoundError, match=r"lora.safetensors: expected a PEFT"):
        load_adapter(layout, path)
    with pytest.raises(ValueError, match="'onnx': expected one of peft, diffusers, kohya"):
        save_adapter(layout, weights, path, "onnx")
    with pytest.raises(ValueError, match=r"lora.safetensors.*NaN.*nothing was written"):
        save_adapter(layout, weights / 0, path)
    assert not path.exists()
    save_adapter(layout, weights, path, "kohya")
    tensors = load_file(path)
    bare = tmp_path / "bare.safetensors"
    save_file({k: v for k, v in tensors.items() if not k.endswith("alpha")}, bare)
    with pytest.raises(ValueError, match=r"bare.safetensors: lora_unet_.*alpha is missing"):
        load_adapter(layout, bare)
    torch.testing.assert_close(load_adapter(layout, bare, alpha=layout.alpha), weights)
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
    layout = AdapterLayout.of(stable_diffusion_unet(), "sd15", targets)
    assert (layout.dimension, len(layout.factors)) == (dimension, tensors)
    keys = [factor.key for factor in layout.factors]
    assert keys == sorted(keys) and keys[0].startswith("base_model.model.down_blocks.0.attentions.0")
