"""The frozen base: the door of its folders, and of what is painted with it."""

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from tiny_base import tiny_pipeline

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.base import open_base
from w2w_lib.models.denoising import denoising_loss, draw
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.images import decode, encode_images, to_pixels
from w2w_lib.models.prompts import encode_prompts
from w2w_lib.models.sampling import Sampling, generate, seed_noise
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


# ---------------------------------------------------------------- the door of base folders
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


# ---------------------------------------------------------------- prompts
def test_a_prompt_that_is_too_long_says_what_was_cut(pipeline):
    words = ["man"] * 74 + ["smiling", "woman", "person"]
    with pytest.warns(
        UserWarning, match="79 tokens, of which the text encoder reads 77: 'woman person' was cut"
    ) as told:
        states = encode_prompts(pipeline, [" ".join(words)] * 2)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short = encode_prompts(pipeline, [" ".join(words[:75]), "", "a photo"])
    torch.testing.assert_close(states[0], short[0])


@pytest.mark.parametrize("prompts", [[], "person", ["person", None], [5], None, ["\ud800"]])
def test_prompts_that_are_none_are_refused(pipeline, prompts, unchecked):
    with pytest.raises(ValueError, match="expected"):
        encode_prompts(pipeline, prompts)
    with pytest.raises(ValueError, match="expected"):
        generate(pipeline, prompts, [0])


# ---------------------------------------------------------------- pictures
def test_pictures_come_back_from_pixels(pipeline):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    pixels = to_pixels(pictures)
    assert pixels.min() >= -1 and pixels.max() <= 1
    assert encode_images(pipeline, pixels).shape == (2, 4, 8, 8)
    assert decode(pipeline, encode_images(pipeline, pixels)).shape == (2, 16, 16, 3)


@pytest.mark.parametrize(
    "pictures",
    [
        np.zeros((2, 16, 16, 4), np.uint8),
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((2, 16, 16, 3)),
        np.zeros((2, 16, 16, 3), np.uint16),
        np.zeros((2, 3, 16, 16), np.uint8),
        "a picture",
        [np.zeros((16, 16, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)],
    ],
)
def test_pictures_of_another_form_are_refused(pictures, unchecked):
    with pytest.raises(ValueError, match=r"expected \(batch, height, width, 3\) of uint8"):
        to_pixels(pictures)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.zeros(1, 4, 16, 16), "expected"),
        (torch.zeros(0, 3, 16, 16), "at least one"),
        (torch.zeros(3, 16, 16), "expected"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "floating-point"),
        (torch.zeros(1, 3, 15, 16), "multiples of 2"),
        (torch.zeros(1).expand(1, 3, 2**16, 2**16), "up to 1024 squared"),
        (torch.zeros(1, 3, 16, 16, device="meta"), r"\(meta\): expected"),
        (torch.zeros(1, 3, 16, 16).to_sparse(), r"\(sparse_coo\): expected"),
        (torch.full((1, 3, 16, 16), 255.0), "-1 to 1"),
        (torch.full((1, 3, 16, 16), torch.nan), "-1 to 1"),
    ],
)
def test_images_that_the_base_cannot_encode_are_refused(pipeline, images, told, unchecked):
    with pytest.raises(ValueError, match=told):
        encode_images(pipeline, images)


def test_latents_that_are_no_numbers_make_no_picture(pipeline, unchecked):
    with pytest.raises(ValueError, match="NaN or infinite"):
        decode(pipeline, torch.full((1, 4, 8, 8), torch.nan))
    with pytest.raises(ValueError, match="pictures of NaN or infinite"):
        decode(pipeline, torch.full((1, 4, 8, 8), 3e38))
    with pytest.raises(ValueError, match=r"expected \(batch, 4, height, width\)"):
        decode(pipeline, torch.zeros(1, 3, 8, 8))


# ---------------------------------------------------------------- sampling
@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 1001},
        {"steps": 2.5},
        {"guidance": -1},
        {"guidance": float("nan")},
        {"guidance": float("inf")},
        {"inject_below": 1001},
        {"inject_below": -1},
        {"batch_size": 0},
        {"stepz": 3},
    ],
)
def test_sampling_has_ranges(wrong):
    with pytest.raises(ValueError, match=f"Sampling: .*{next(iter(wrong))}"):
        Sampling(**wrong)


def test_sampling_takes_its_settings_in_order():
    ours = Sampling(10, 3, 700, 8)
    assert (ours.steps, ours.guidance, ours.inject_below, ours.batch_size) == (10, 3.0, 700, 8)


def test_seeds_and_bases_that_are_none_are_refused(pipeline, unchecked):
    for seeds in ([], b"01", 5):
        with pytest.raises(ValueError, match=r"seeds .*expected"):
            seed_noise(pipeline, seeds)
    flow = tiny_pipeline()
    flow.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no betas"):
        fingerprint(flow)
    flow.vae = None
    for wrong in (None, "data/base/pocket", pipeline.text_encoder, flow):
        for use in (fingerprint, lambda base: encode_images(base, np.zeros((1, 16, 16, 3), np.uint8))):
            with pytest.raises(ValueError, match=rf"of type {type(wrong).__name__}: has no .*; expected a base"):
                use(wrong)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, float("nan"), float("inf"), "1", None, True])
def test_seeds_that_are_none_are_refused(pipeline, seed, unchecked):
    with pytest.raises(ValueError, match="seed"):
        seed_noise(pipeline, [seed])
    with pytest.raises(ValueError, match="seed"):
        generate(pipeline, ["person"], [seed], sampling=QUICK)


def test_seeds_of_any_kind_are_one_stream(pipeline, unchecked):
    expected = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(2))
    for seeds in ([2], range(2, 3), np.array([2]), [np.int64(2)], torch.tensor([2])):
        assert torch.equal(seed_noise(pipeline, seeds), expected[None])
    seed_noise(pipeline, [0, 2**63 - 1])


def test_lengths_must_agree(pipeline, layout):
    with pytest.raises(ValueError, match="1 prompts, 2 seeds"):
        generate(pipeline, ["person"], [0, 1])
    with pytest.raises(ValueError, match=r"weights of shape \(2, "):
        generate(pipeline, ["person"], [0], layout, torch.zeros(2, layout.dimension))


def test_adapters_of_another_layout_or_base_are_refused(pipeline, layout):
    weights = torch.zeros(1, layout.dimension)
    with pytest.raises(ValueError, match=f"expected \\(1, {layout.dimension}\\)"):
        generate(pipeline, ["person"], [0], layout, weights[:, 1:])
    with pytest.raises(ValueError, match="layout None"):
        generate(pipeline, ["person"], [0], weights=weights)
    other = tiny_pipeline(seed=1)
    with pytest.raises(ValueError, match=f"of base {layout.base}, and this base is {fingerprint(other)}"):
        generate(other, ["person"], [0], layout, weights)
    with pytest.raises(ValueError, match=f"of base {layout.base}"):
        generate(other, ["person"], [0], layout, early=weights)


def test_numbers_of_adapters_and_strengths_are_finite(pipeline, layout, unchecked):
    weights = torch.zeros(2, layout.dimension)
    weights[1, 3] = torch.nan
    for given in ({"weights": weights}, {"weights": torch.zeros_like(weights), "early": weights}):
        with pytest.raises(ValueError, match="of picture 1: NaN or infinite"):
            generate(pipeline, ["person"] * 2, [0, 1], layout, **given)
    fine = torch.zeros_like(weights)
    for strength in (
        float("nan"),
        float("inf"),
        torch.tensor([1.0, torch.nan]),
        torch.ones(3),
        "much",
        None,
        10**400,
        [1j, 1j],
    ):
        with pytest.raises(ValueError, match="strength"):
            generate(pipeline, ["person"] * 2, [0, 1], layout, fine, strength)


@pytest.mark.parametrize(
    "wrong", [{"weights": [[0.0]]}, {"weights": np.zeros((1, 8))}, {"sampling": {"steps": 2}}, {"sampling": 5}]
)
def test_arguments_of_other_types_are_refused(pipeline, layout, wrong, unchecked):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        generate(pipeline, ["person"], [0], layout, **wrong)
    with pytest.raises(ValueError, match="seeds"):
        generate(pipeline, ["person"], {0: 1})


def test_more_steps_than_timesteps_are_refused(base):
    edit(base / "scheduler/scheduler_config.json", num_train_timesteps=100)
    with pytest.raises(ValueError, match="101 steps: expected at most 100"):
        generate(open_base(base), ["person"], [0], sampling=Sampling(steps=101))


def test_a_picture_does_not_depend_on_its_batch(pipeline, layout):
    weights = 0.3 * torch.randn(3, layout.dimension, generator=torch.Generator().manual_seed(0))
    prompts, seeds, strengths = ["a man", "a photo of a person", "woman"], [5, 6, 7], torch.tensor([1.0, 0.5, 2.0])
    together = generate(pipeline, prompts, seeds, layout, weights, strengths, QUICK)
    by_two = generate(pipeline, prompts, seeds, layout, weights, strengths, Sampling(steps=2, batch_size=2))
    alone = [
        generate(pipeline, [p], [s], layout, w[None], x.item(), QUICK)[0]
        for p, s, w, x in zip(prompts, seeds, weights, strengths, strict=True)
    ]
    for others in (by_two, np.stack(alone)):
        assert np.abs(together.astype(int) - others).max() <= 1  # of 255: batches of two sizes round differently
    assert np.abs(together[0].astype(int) - together[1]).max() > 20


# ---------------------------------------------------------------- the objective
@pytest.mark.parametrize("between", [(5, 5), (-1, 3), (0.5, 3), (3, 1), (0, float("nan")), 7, (1, 2, 3), None])
def test_ranges_of_timesteps_that_are_none_are_refused(between, unchecked):
    with pytest.raises(ValueError, match="timestep"):
        draw(torch.Generator(), torch.zeros(1, 4, 8, 8), 1, between)


def test_draws_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no images"):
        draw(torch.Generator(), torch.zeros(0, 4, 8, 8), 1, (0, 10))
    with pytest.raises(ValueError, match="count"):
        draw(torch.Generator(), torch.zeros(1, 4, 8, 8), 0, (0, 10))


def loss(pipeline, scheduler=None, timestep=10, mask=None):
    latents = torch.zeros(2, 4, 8, 8)
    text = encode_prompts(pipeline, ["person"] * 2)
    timesteps = torch.tensor([0, timestep])
    return denoising_loss(pipeline.unet, scheduler or pipeline.scheduler, latents, latents + 1, timesteps, text, mask)


def test_objectives_that_are_none_are_refused(pipeline, unchecked):
    with pytest.raises(ValueError, match="prediction_type 'sample'"):
        loss(pipeline, DDIMScheduler(prediction_type="sample"))
    for timestep in (-1, 1000):
        with pytest.raises(ValueError, match="expected whole numbers from 0 to 999"):
            loss(pipeline, timestep=timestep)


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (torch.zeros(2, 1, 8, 8), "above 0"),
        (torch.cat([torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)]), "above 0"),
        (torch.full((2, 1, 8, 8), torch.nan), "finite"),
        (torch.full((2, 1, 8, 8), torch.inf), "finite"),
        (torch.full((2, 1, 8, 8), -1.0), "at least 0"),
        (torch.ones(2, 1, 16, 16), "one number for each latent cell"),
        (torch.ones(2, 4, 8, 8), "one number for each latent cell"),
        (torch.ones(1, 1, 8, 8), "one number for each latent cell"),
    ],
)
def test_masks_that_are_none_are_refused(pipeline, mask, told, unchecked):
    with pytest.raises(ValueError, match=told):
        loss(pipeline, mask=mask)


def test_a_mask_is_divided_by_its_area(pipeline):
    mask = torch.ones(2, 1, 8, 8)
    torch.testing.assert_close(loss(pipeline, mask=mask), loss(pipeline))
    torch.testing.assert_close(loss(pipeline, mask=7 * mask), loss(pipeline))
