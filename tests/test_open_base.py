"""The door of base folders: what is opened, and what is refused in one line."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from tiny_base import tiny_pipeline

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.base import open_base
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.prompts import encode_prompts
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.models.schedule import as_ddim
from w2w_lib.workbook import paths

UNET, TEXT, VAE = (
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
)
QUICK = Sampling(steps=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def base(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "base"))


@pytest.fixture(scope="module")
def pipeline(whole):
    return open_base(whole)


@pytest.fixture(scope="module")
def layout(pipeline):
    return AdapterLayout.of(pipeline.unet, fingerprint(pipeline), "paper", rank=1, alpha=8)


def refusal(base, **settings) -> str:
    """The one line with which a base is refused."""
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        open_base(base, **settings)
    text = str(refused.value)
    assert "\n" not in text and "expected" in text
    return text


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_a_folder_is_opened_frozen_in_fp32_with_ddim(whole, pipeline):
    theirs = tiny_pipeline()
    for name in ("unet", "vae", "text_encoder"):
        ours, expected = getattr(pipeline, name), getattr(theirs, name).state_dict()
        assert all(torch.equal(tensor, expected[key]) for key, tensor in ours.state_dict().items())
        assert not ours.training and not any(p.requires_grad for p in ours.parameters())
    assert isinstance(pipeline.scheduler, DDIMScheduler)
    assert encode_prompts(pipeline, ["a photo"]).dtype == torch.float32


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("{}")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no such folder" in refusal(tmp_path / "nothing")
    assert "no such folder" in refusal(tmp_path / "dangling")
    assert "a file" in refusal(tmp_path / "file")
    assert "model_index.json: no such file" in refusal(tmp_path / "empty")
    assert "model_index.json: no such file" in refusal("")


@pytest.mark.parametrize("name", ["nobody/nothing", "a name with spaces/x", "a/b/c", "x" * 5000, "a\0b"])
def test_a_name_that_the_hub_does_not_give_is_refused(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "the Hugging Face hub does not give it" in refusal(name)


def test_a_name_that_the_hub_gives_is_opened_like_a_folder(base, monkeypatch):
    asked = []

    def hub(name: str, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        return str(base)

    monkeypatch.setattr("w2w_lib.models.base.snapshot_download", hub)
    assert fingerprint(open_base("somebody/model")) == fingerprint(tiny_pipeline())
    assert UNET in asked and not any(name.endswith((".bin", ".ckpt", ".py")) for name in asked)
    edit(base / "model_index.json", _class_name="StableDiffusionXLPipeline")
    asked.clear()
    assert "StableDiffusionXLPipeline" in refusal("somebody/model")
    assert asked == ["model_index.json"]  # no gigabytes for what is then refused


def test_unknown_types_and_devices_are_refused(whole, unchecked):
    for dtype in (torch.int8, torch.float64, "bfloat16", None):
        assert "unet_dtype" in refusal(whole, unet_dtype=dtype)
    for device in ("gpu", "cuda:99", "meta", 3.5):
        assert "device" in refusal(whole, device=device)
    assert "base model 5" in refusal(5)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("not JSON", "is no JSON"),
        ("[1, 2]", "is a list"),
        ("[" * 100_000, "is no JSON"),
        ("", "is empty"),
        ('{"_class_name": "StableDiffusionXLPipeline"}', "StableDiffusionXLPipeline"),
        ('{"_class_name": "StableDiffusionPipeline"}', "its unet is None"),
    ],
)
def test_an_index_that_is_none_is_refused(base, text, told):
    (base / "model_index.json").write_text(text)
    assert told in refusal(base)


@pytest.mark.parametrize(
    "change",
    [
        {"unet": ["diffusers", "UNet3DConditionModel"]},
        {"unet": ["mine", "UNet2DConditionModel"]},
        {"unet": "UNet2DConditionModel"},
        {"vae": ["diffusers", "VQModel"]},
        {"vae": ["evil", "PatchCodec"]},
        {"text_encoder": ["transformers", "T5EncoderModel"]},
        {"tokenizer": ["transformers", "T5Tokenizer"]},
        {"scheduler": ["diffusers", "utils"]},
        {"scheduler": ["evil", "DDIMScheduler"]},
        {"scheduler": [None, None]},
    ],
)
def test_components_of_other_classes_are_refused(base, change):
    edit(base / "model_index.json", **change)
    assert f"its {next(iter(change))} is" in refusal(base)


def test_no_code_of_the_folders_is_run(base, tmp_path, monkeypatch):
    """A pipeline, a component, a tokenizer and an attention kernel of the folder's own, each of which would tell."""
    told = tmp_path / "told"
    code = f"open({str(told)!r}, 'w').write('run')\nclass UNet2DConditionModel: pass\nclass Mine: pass\n"
    for folder in (base, base / "unet", base / "text_encoder", base / "tokenizer"):
        for name in ("pipeline.py", "evil.py", "modeling.py"):
            (folder / name).write_text(code)
    monkeypatch.chdir(base)
    edit(base / "text_encoder/config.json", auto_map={"AutoModel": "modeling.Mine"}, attn_implementation="evil/kernel")
    edit(base / "text_encoder/config.json", transformers_weights="elsewhere.safetensors", fusion_config={"x": True})
    edit(base / "tokenizer/tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling.Mine", None]})
    open_base(base)
    edit(base / "model_index.json", unet=["evil", "UNet2DConditionModel"])
    refusal(base)
    edit(base / "model_index.json", _class_name=["pipeline", "Mine"])
    refusal(base)
    assert not told.exists()


@pytest.mark.parametrize(
    "name",
    [
        "unet",
        "vae",
        "text_encoder",
        "tokenizer",
        "scheduler",
        "unet/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
        UNET,
        TEXT,
        "tokenizer/tokenizer.json",
    ],
)
def test_what_is_missing_is_named(base, name):
    path = base / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert str(path.parent if name.startswith("tokenizer/") else path) in refusal(base)


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", UNET, "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "dangling", "device", "empty"])
def test_what_is_no_regular_file_is_refused_without_waiting(base, name, kind):
    path = base / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.with_name("nowhere"))
    assert str(path) in refusal(base)


def test_pickled_weights_are_refused(base):
    weights = load_file(base / UNET)
    (base / UNET).unlink()
    torch.save(weights, base / "unet/diffusion_pytorch_model.bin")
    assert "weights as diffusion_pytorch_model.bin" in refusal(base)


def test_weights_in_several_files_are_refused(base):
    (base / f"{UNET}.index.json").write_text('{"weight_map": {}}')
    assert "weights in several files" in refusal(base)


def test_truncated_weights_are_refused(base):
    for name in (UNET, TEXT):
        with open(base / name, "r+b") as file:
            file.truncate((base / name).stat().st_size - 1000)
        assert f"{name}: cannot be read" in refusal(base)
        (base / name).write_bytes(b"a picture, by mistake")
        assert f"{name}: cannot be read" in refusal(base)
        tiny_pipeline().save_pretrained(base)


def test_missing_unknown_and_reshaped_tensors_are_refused(base):
    for name in (UNET, TEXT, VAE):
        original = (base / name).read_bytes()
        key = next(iter(sorted(load_file(base / name))))

        rewrite(base / name, lambda tensors, key=key: tensors.pop(key))
        assert f"has no tensor {key.removeprefix('text_model.')}" in refusal(base)
        (base / name).write_bytes(original)
        rewrite(base / name, lambda tensors: tensors.update(extra=torch.zeros(3)))
        assert "has an unknown tensor extra" in refusal(base)
        (base / name).write_bytes(original)
        rewrite(base / name, lambda tensors, key=key: tensors.update({key: tensors[key][None]}))
        assert "has shape" in refusal(base)
        (base / name).write_bytes(original)
        # as many numbers as there should be, under another name
        rewrite(base / name, lambda tensors, key=key: tensors.update({"other": tensors.pop(key)}))
        assert "has no tensor" in refusal(base)
        (base / name).write_bytes(original)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(base, number):
    rewrite(base / UNET, lambda tensors: next(iter(tensors.values())).view(-1)[:1].fill_(number))
    assert "NaN or infinite" in refusal(base)


def test_weights_of_several_types_are_read_in_fp32(base):
    own = fingerprint(open_base(base))
    for name in (UNET, TEXT, VAE):
        rewrite(base / name, lambda tensors: tensors.update({(key := min(tensors)): tensors[key].double()}))
    assert fingerprint(pipeline := open_base(base)) == own
    assert {p.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in part.parameters()} == {
        torch.float32
    }
    rewrite(base / UNET, lambda tensors: tensors[min(tensors)].fill_(1e300))
    assert "NaN or infinite" in refusal(base)


def test_a_tensor_under_both_its_names_is_refused(base):
    name = "final_layer_norm.bias"
    rewrite(base / TEXT, lambda tensors: tensors.update({f"text_model.{name}": torch.ones(16), name: torch.zeros(16)}))
    assert f"has tensors {name} and text_model.{name}, which are the same one" in refusal(base)


def test_weights_that_overflow_in_half_precision_are_refused(base):
    rewrite(base / UNET, lambda tensors: tensors["conv_in.bias"].fill_(1e6))
    open_base(base, torch.bfloat16)
    assert "'conv_in.bias' holds NaN or infinite numbers (as torch.float16)" in refusal(base, unet_dtype=torch.float16)


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("unet", {"_class_name": "UNet1DModel"}, "UNet1DModel"),
        ("unet", {"in_channels": 9}, "conv_in.weight"),
        ("unet", {"layers_per_block": 10**9}, "layers_per_block 1000000000"),
        ("unet", {"block_out_channels": [10**6, 10**6]}, "has shape"),
        ("unet", {"block_out_channels": "wide"}, "expected settings of a UNet2DConditionModel"),
        ("unet", {"norm_num_groups": 0}, "expected settings of a UNet2DConditionModel"),
        ("unet", {"sample_size": None}, "sample_size"),
        ("unet", {"sample_size": 10**6}, "sample_size"),
        ("unet", {"sample_size": [8, 8]}, "sample_size"),
        ("unet", {"sample_size": 7}, "expected a multiple of 8 pixels"),
        ("unet", {"sample_size": 8.0}, "unet/config.json: "),
        ("unet", {"norm_num_groups": -8}, "unet/config.json: Expected num groups"),
        ("unet", {"norm_eps": None}, "unet/config.json: "),
        ("unet", {"mid_block_scale_factor": float("nan")}, "mid_block_scale_factor: expected a number, found nan"),
        ("unet", {"freq_shift": "0"}, "freq_shift: expected a number, found '0'"),
        ("unet", {"flip_sin_to_cos": "false"}, "flip_sin_to_cos: expected true or false, found 'false'"),
        ("unet", {"_diffusers_version": None}, "expected"),
        ("vae", {"norm_num_groups": -4}, "vae/config.json: Expected num groups"),
        ("text_encoder", {"num_attention_heads": -2}, "text_encoder/config.json: "),
        ("text_encoder", {"layer_norm_eps": None}, "text_encoder/config.json: "),
        ("unet", {"quantization_config": {"quant_method": "bitsandbytes"}}, "quantized"),
        ("vae", {"scaling_factor": 0}, "scaling_factor"),
        ("vae", {"scaling_factor": None}, "scaling_factor"),
        ("text_encoder", {"model_type": "t5"}, "t5"),
        ("text_encoder", {"hidden_act": "no such thing"}, "expected settings of a CLIPTextModel"),
        ("text_encoder", {"num_hidden_layers": 10**9}, "num_hidden_layers 1000000000"),
        ("text_encoder", {"vocab_size": 10**9}, "has shape"),
    ],
)
def test_settings_that_do_not_fit_the_weights_are_refused(base, name, changes, told, unchecked):
    edit(base / name / "config.json", **changes)
    assert told in refusal(base)


def test_components_that_do_not_fit_one_another_are_refused(base, tmp_path):
    def saved(**settings) -> Path:
        parts, unet = tiny_pipeline(), tiny_pipeline().unet
        public = {name: value for name, value in unet.config.items() if not name.startswith("_")}
        parts.unet = type(unet).from_config(public | settings)
        parts.save_pretrained(base)
        return base

    assert "inpainting" in refusal(saved(in_channels=9))
    assert "8 channels into the UNet, 4 latent channels" in refusal(saved(in_channels=8, out_channels=8))
    assert "8 channels out of the UNet, 4 channels into it" in refusal(saved(out_channels=8))
    assert "24 text width of the UNet, 16 width of the text encoder" in refusal(saved(cross_attention_dim=24))
    assert "num_class_embeds" in refusal(saved(num_class_embeds=3))
    open_base(saved())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prediction_type": "sample"}, "prediction_type 'sample'"),
        ({"prediction_type": "flow_prediction"}, "prediction_type 'flow_prediction'"),
        ({"prediction_type": "epsilon"}, "pure noise"),  # with zero terminal SNR
        ({"trained_betas": [0.1] * 7}, "7 betas for 1000 timesteps"),
        ({"trained_betas": [1.5] * 1000, "rescale_betas_zero_snr": False}, "expected numbers between 0 and 1"),
        ({"beta_schedule": "none of them"}, "none of them"),
        ({"num_train_timesteps": 0}, "num_train_timesteps"),
        ({"timestep_spacing": "even"}, "even"),
        ({"thresholding": True, "dynamic_thresholding_ratio": 7}, "quantile"),
        ({"clip_sample": "no"}, "clip_sample: expected true or false, found 'no'"),
        ({"trained_betas": [0.0] * 1000, "rescale_betas_zero_snr": False}, "NaN or infinite numbers of finite ones"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps"),
        ({"beta_end": "much"}, "scheduler_config.json"),
    ],
)
def test_schedules_that_do_not_fit_are_refused(base, changes, told):
    edit(base / "scheduler/scheduler_config.json", **changes)
    assert told in refusal(base)


def test_a_flow_matching_scheduler_is_refused(base):
    FlowMatchEulerDiscreteScheduler().save_pretrained(base / "scheduler")
    edit(base / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])
    assert "FlowMatchEulerDiscreteScheduler has no betas" in refusal(base)
    with pytest.raises(ValueError, match="has no betas"):
        as_ddim(FlowMatchEulerDiscreteScheduler())


def test_tokenizers_that_do_not_fit_are_refused(base, unchecked):
    path = base / "tokenizer/tokenizer.json"
    whole = path.read_text()
    edit(base / "tokenizer/tokenizer_config.json", model_max_length=1000)
    assert "model_max_length: expected a whole number of at least 3 and at most 77, found 1000" in refusal(base)
    for length in (0, 2, -1, "77", 7.5):
        edit(base / "tokenizer/tokenizer_config.json", model_max_length=length)
        assert "model_max_length: expected" in refusal(base)
    edit(base / "tokenizer/tokenizer_config.json", model_max_length=77, padding_side="left")  # paints other pictures
    assert "pads and cuts prompts on the left, right; expected right alone" in refusal(base)
    edit(base / "tokenizer/tokenizer_config.json", padding_side="right", model_input_names=["input_ids"])
    assert "expected the files of a CLIPTokenizer" in refusal(base)
    (base / "tokenizer/tokenizer_config.json").unlink()  # without it a tokenizer has no longest prompt
    assert "model_max_length" in refusal(base)
    path.write_text("{}")
    assert "expected the files of a CLIPTokenizer" in refusal(base)
    config = json.loads(whole)
    config["model"]["vocab"]["quux</w>"] = 5000
    path.write_text(json.dumps(config))
    edit_config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (base / "tokenizer/tokenizer_config.json").write_text(json.dumps(edit_config))
    assert "a token of number 5000" in refusal(base)


def test_names_of_other_versions_are_known(base):
    """transformers 4 wrote text_model. before each name, and a constant; diffusers called attention otherwise."""
    tensors = {f"text_model.{name.removeprefix('text_model.')}": t for name, t in load_file(base / TEXT).items()}
    save_file(tensors | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, base / TEXT)
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: dict) -> None:
        for name in [name for name in tensors if "attentions" in name]:
            new = name
            for now, then in former.items():
                new = new.replace(f".{now}.", f".{then}.")
            tensors[new] = tensors.pop(name)

    rewrite(base / VAE, rename)
    assert any(".proj_attn." in name for name in load_file(base / VAE))
    assert fingerprint(open_base(base)) == fingerprint(tiny_pipeline())


def test_the_shipped_base_is_opened_under_the_former_name_of_its_codec(tmp_path, unchecked):
    pocket = paths.ROOT / "data/base/pocket"
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        (tmp_path / part).symlink_to(pocket / part)
    shutil.copy(pocket / "model_index.json", tmp_path)
    edit(tmp_path / "model_index.json", vae=["w2w_lib.codec", "PatchCodec"])
    former = open_base(tmp_path, torch.bfloat16)
    assert fingerprint(former) == fingerprint(open_base(pocket))
    assert generate(former, ["sks person"], [0], sampling=QUICK).shape == (1, 64, 64, 3)


def test_more_steps_than_timesteps_are_refused(base):
    edit(base / "scheduler/scheduler_config.json", num_train_timesteps=100)
    with pytest.raises(ValueError, match="101 steps: expected at most 100"):
        generate(open_base(base), ["person"], [0], sampling=Sampling(steps=101))
