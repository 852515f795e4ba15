"""Adapter files, by the libraries that are to open them."""

import copy
import json
import os
from dataclasses import replace
from pathlib import Path

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


def refused(layout, path, said, kind=ValueError, **options):
    """The error is of one line that names the path and says so."""
    with pytest.raises(kind, match=said) as caught:
        load_adapter(layout, path, **options)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_configurations_that_weights_cannot_hold_or_that_lack_something(layout, weights, tmp_path):
    save_adapter(layout, weights, tmp_path, "peft")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    cases = {
        "alpha_pattern; expected one rank": {"alpha_pattern": {"to_k": 2}},
        "use_dora; expected one rank": {"use_dora": True},
        "peft_type 'LOHA'; expected LORA": {"peft_type": "LOHA"},
        "lora_alpha is missing .give alpha=": {"lora_alpha": None},
        "lora_alpha: .* greater than 0, found -1": {"lora_alpha": -1},
        "lora_alpha: .*valid number, found 'a'": {"lora_alpha": "a"},
        "lora_alpha: .*finite number": {"lora_alpha": float("inf")},
        "r: .* greater than or equal to 1, found 0": {"r": 0},
        "r: .*valid integer, found 'a'": {"r": "a"},
        "r is missing": {"r": None},
        "has r 7; expected the layout's rank": {"r": 7},
    }
    for said, change in cases.items():
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
        refused(layout, tmp_path, said)
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": None}))
    torch.testing.assert_close(load_adapter(layout, tmp_path, alpha=layout.alpha), weights)
    refused_alphas = (0.0, -1.0, float("nan"), 10**400)
    for alpha in refused_alphas:
        with pytest.raises(ValueError, match="alpha: expected"):
            load_adapter(layout, tmp_path, alpha=alpha)
    for text, said in (
        ("{", "is no JSON"),
        ("[1]", "is no dictionary"),
        (b"\xff\xfe", "is no JSON"),
        ("[" * 10**5, "is no JSON"),
    ):
        (tmp_path / "adapter_config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        refused(layout, tmp_path, f"adapter_config.json {said}")
    with (tmp_path / "adapter_config.json").open("wb") as huge:
        huge.truncate(2**30)
    refused(layout, tmp_path, "adapter_config.json has 1073741824 bytes")
    (tmp_path / "adapter_config.json").unlink()
    refused(layout, tmp_path, "expected PEFT's configuration.*put PEFT's configuration beside", FileNotFoundError)


def test_names_of_adapters_are_read_over(layout, weights, tmp_path):
    """As the authors' utilities write them: base_model.model.<module>.lora_A.identity1.weight."""
    save_adapter(layout, weights, tmp_path, "peft")
    file = tmp_path / "adapter_model.safetensors"
    named = {k.replace(".weight", ".identity1.weight"): v for k, v in load_file(file).items()}
    save_file(named, file)
    torch.testing.assert_close(load_adapter(layout, tmp_path), weights)
    save_file(named | {k.replace("identity1", "identity2"): v.clone() for k, v in named.items()}, file)
    refused(
        layout, tmp_path, "identity1.weight' and .*identity2.weight' are the same factor; expected a single adapter"
    )


@pytest.mark.parametrize("kind", ["diffusers", "kohya"])
def test_names_of_nested_modules(pipeline, tmp_path, kind):
    nested = AdapterLayout.of(pipeline.unet, fingerprint(pipeline), ("attn2.to_out.0", "ff.net.2"), 2, 5.0)
    weights = torch.randn(nested.dimension, generator=torch.Generator().manual_seed(1)) * 0.1
    save_adapter(nested, weights, tmp_path / "lora.safetensors", kind)
    torch.testing.assert_close(load_adapter(nested, tmp_path / "lora.safetensors"), weights, rtol=1e-6, atol=0)
    ours = generate(pipeline, [PROMPT], [SEED], nested, weights[None], sampling=SAMPLING)
    other = tiny_pipeline()
    other.load_lora_weights(tmp_path, weight_name="lora.safetensors")
    theirs = generate(other, [PROMPT], [SEED], sampling=SAMPLING)
    bare = generate(pipeline, [PROMPT], [SEED], sampling=SAMPLING)
    assert abs(ours.astype(int) - theirs).max() <= 1 < abs(ours.astype(int) - bare).max()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_full_disk_leaves_the_adapter_that_was_there(layout, weights, small_disk, kind):
    path = small_disk / "adapter"
    save_adapter(layout, weights, path, kind)
    fill(small_disk)
    with pytest.raises(OSError, match=r"cannot write the adapter .*No space left.*make room"):
        save_adapter(replace(layout, alpha=9 * layout.alpha), 2 * weights, path, kind)
    torch.testing.assert_close(load_adapter(layout, path), weights, rtol=1e-6, atol=0)
    assert not list(small_disk.rglob("*.partial*"))


def test_what_cannot_be_saved(layout, weights, tmp_path, unchecked):
    path = tmp_path / "lora.safetensors"
    for said, wrong, kind in (
        ("'khoya', did you mean 'kohya'", weights, "khoya"),
        (r"lora.safetensors.*NaN.*nothing was written", weights / 0, "kohya"),
        (rf"of shape \(1, {layout.dimension}\): expected \({layout.dimension},\)", weights[None], "peft"),
        ("expected .* floating-point", weights.long(), "peft"),
        ("of shape .*one model of this layout", weights[1:], "diffusers"),
        ("weights: expected a tensor of floating-point numbers, found ndarray", weights.numpy(), "diffusers"),
        (r"without its numbers \(meta\)", weights.to("meta"), "peft"),
        ("infinite numbers, in fp32 and at this alpha: nothing was written", weights * 9e38, "diffusers"),
        ("infinite numbers, in fp32 and at this alpha: nothing was written", weights.double() * 1e300, "peft"),
    ):
        with pytest.raises(ValueError, match=said):
            save_adapter(layout, wrong, path, kind)
    for said, where in (("is the name of a pickle", tmp_path / "a.bin"), ("is no path", "a\0b"), ("is no path", None)):
        with pytest.raises(ValueError, match=said):
            save_adapter(layout, weights, where)
    assert not list(tmp_path.iterdir())
    path.write_text("a file")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "peft" / "adapter_model.safetensors").mkdir(parents=True)
    for where, kind, said in (
        (path, "peft", "cannot be written .Not a directory"),
        (path / "below", "kohya", "cannot be written .Not a directory"),
        (tmp_path / "pipe", "kohya", "pipe: cannot be written .no regular file is there.; expected the path of a file"),
        (Path(), "diffusers", "cannot be written .a folder is there"),
        (tmp_path / "folder", "diffusers", "folder: cannot be written .a folder is there"),
        (tmp_path / "peft", "peft", "adapter_model.safetensors: cannot be written .a folder is there"),
        (tmp_path / ("x" * 300), "kohya", "cannot be written .File name too long"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            save_adapter(layout, weights, where, kind)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "pipe").is_fifo()  # a rename would have put a file in its place
    assert path.read_text() == "a file" and not list((tmp_path / "folder").iterdir())


def test_what_is_no_adapter_file(layout, weights, tmp_path, unchecked):
    path = tmp_path / "lora.safetensors"
    refused(layout, path, "no such file; expected a LoRA of the UNet", FileNotFoundError)
    refused(layout, tmp_path, "a folder without adapter_model.safetensors", FileNotFoundError)
    os.mkfifo(tmp_path / "pipe")
    refused(layout, tmp_path / "pipe", "is no regular file")
    refused(layout, Path("/dev/zero"), "is no regular file")
    path.touch()
    refused(layout, path, "is empty")
    path.write_bytes(b"no header at all, and long enough for one")
    refused(layout, path, "is no whole safetensors file")
    for wrong in (None, b"lora.safetensors", "a\0b", "\ud800"):
        with pytest.raises(ValueError, match="is no path; expected the path of a LoRA"):
            load_adapter(layout, wrong)
    with pytest.raises(ValueError, match="layout: expected the AdapterLayout that"):
        load_adapter("paper", path)
    (tmp_path / "lora.bin").write_bytes(b"\x80\x04N.")
    refused(layout, tmp_path / "lora.bin", "is a pickle, which may run code")
    save_adapter(layout, weights, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    refused(layout, path, "is no whole safetensors file")
    path.write_bytes(whole)
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "pytorch_lora_weights.safetensors")  # as diffusers writes it
    torch.testing.assert_close(load_adapter(layout, tmp_path / "folder"), weights, rtol=1e-6, atol=0)
    save_file({}, path)
    refused(layout, path, "has no tensors")


def test_tensors_that_the_layout_does_not_have(pipeline, layout, weights, tmp_path):
    path = tmp_path / "lora.safetensors"
    save_adapter(layout, weights, path)
    tensors = load_file(path)
    first, second, *_ = sorted(tensors)
    key = first.replace("unet.", "base_model.model.")
    cases = {
        rf"adapter tensor {key} is missing; expected the modules": {first: None},
        rf"adapter tensor {key} is missing \(and 1 more\)": {first: None, second: None},
        "adapter tensor base_model.model.conv_in.lora_A.weight is not in the layout": {
            "unet.conv_in.lora_A.weight": tensors[first].clone()
        },
        "adapter tensor of two lines is not in the layout": {"of\ntwo lines": tensors[first].clone()},
        "adapter tensor extra is not in the layout": {"extra": tensors[first].clone()},
        rf"{key}: expected shape .*found": {first: tensors[first].T.contiguous()},
        f"'{first}' holds NaN": {first: tensors[first] / 0},
        f"'{first}' is of type I64; expected one of F16": {first: tensors[first].long()},
        "is of the text encoder: weights hold adapters of the UNet alone": {"text_encoder.x.lora_A.weight": weights},
        "lora_magnitude_vector' is of another kind of adapter": {first[:-13] + "lora_magnitude_vector": weights},
        "hada_w1_a' is of another kind": {"lora_unet_x.hada_w1_a": weights},
    }
    for said, change in cases.items():
        save_file({k: v for k, v in (tensors | change).items() if v is not None}, path)
        refused(layout, path, said)
    halves = {k: v.half() for k, v in tensors.items()}
    save_file(halves, path)
    torch.testing.assert_close(load_adapter(layout, path), weights, rtol=1e-3, atol=1e-3)
    save_adapter(layout, weights, path)
    other = AdapterLayout.of(pipeline.unet, "another", layout.targets, layout.rank)
    refused(other, path, f"an adapter of base {layout.base}, expected one of another")
    refused(AdapterLayout.of(pipeline.unet, layout.base, layout.targets, rank=3), path, "expected shape .* of rank 3")
    refused(
        AdapterLayout.of(pipeline.unet, layout.base, ("attn1.to_k",)), path, "attn1.* is missing .*not in the layout"
    )


def test_a_huge_file_is_refused_by_its_header(layout, tmp_path):
    """Forty gigabytes that take no room on the disk, and would not fit in memory."""
    key, size = layout.factors[0].key, 40 * 2**30
    header = json.dumps({key: {"dtype": "F32", "shape": [1, size // 4], "data_offsets": [0, size]}}).encode()
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    refused(layout, path, "is missing .*more")


def test_kohyas_alphas(layout, weights, tmp_path):
    path = tmp_path / "kohya.safetensors"
    save_adapter(layout, weights, path, "kohya")
    tensors = load_file(path)
    alphas = [k for k in tensors if k.endswith("alpha")]
    save_file({k: v for k, v in tensors.items() if k not in alphas}, path)
    refused(layout, path, rf"lora_unet_.*alpha is missing \(and {len(alphas) - 1} more\); give alpha=")
    torch.testing.assert_close(load_adapter(layout, path, alpha=layout.alpha), weights)
    save_file(tensors | {alphas[0]: torch.tensor(0.0)}, path)
    refused(layout, path, "expected a single number above 0, found 0.0")
    save_file(tensors | {alphas[0]: torch.ones(2)}, path)
    refused(layout, path, "expected a single number above 0")
    save_file(tensors | {"lora_unet_conv_in.alpha": torch.tensor(1.0)}, path)
    refused(layout, path, "lora_unet_conv_in.alpha is of a module that is not in the layout")
    save_file(tensors | {"lora_te_text_model_encoder.lora_down.weight": torch.ones(1, 4)}, path)
    refused(layout, path, "is of the text encoder")


@pytest.mark.parametrize(("targets", "dimension", "tensors"), [("paper", 49_536, 64), ("release", 99_648, 128)])
def test_stable_diffusion_sizes(targets, dimension, tensors):
    layout = AdapterLayout.of(stable_diffusion_unet(), "sd15", targets)
    assert (layout.dimension, len(layout.factors)) == (dimension, tensors)
    keys = [factor.key for factor in layout.factors]
    assert keys == sorted(keys) and keys[0].startswith("base_model.model.down_blocks.0.attentions.0")
