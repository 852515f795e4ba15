"""The door of base folders: which are opened, and which are refused in one line."""

import os
import shutil

import pytest
import torch
from base_folder import QUICK, TEXT, UNET, VAE, edit, refusal, rewrite
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_base import tiny_pipeline

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.base import open_base
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.precision import best_dtype
from w2w_lib.models.prompts import encode_prompts
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.workbook import paths


@pytest.fixture(scope="module")
def pipeline(whole):
    return open_base(whole)


@pytest.fixture(scope="module")
def layout(pipeline):
    return AdapterLayout.of(pipeline.unet, fingerprint(pipeline), "paper", rank=1, alpha=8)


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


def test_a_variant_is_read_where_it_is_there(base):
    """Truth: what diffusers reads of the same folder."""
    plain = load_file(base / UNET)
    halves = {name: tensor.half() for name, tensor in plain.items()}
    save_file(halves, base / UNET.replace(".safetensors", ".fp16.safetensors"), {"format": "pt"})
    theirs = UNet2DConditionModel.from_pretrained(base / "unet", variant="fp16", torch_dtype=torch.float32).state_dict()
    opened = open_base(base, variant="fp16")
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in opened.unet.state_dict().items())
    assert not all(torch.equal(theirs[name], tensor) for name, tensor in plain.items())
    (base / UNET).unlink()  # then it is the only one, and to be named
    assert 'variant="fp16"' in refusal(base)
    open_base(base, variant="fp16")


def test_the_type_is_chosen_by_what_the_device_is_fast_in(whole, monkeypatch):
    for named, dtype in (((), torch.float32), (("avx512_f",), torch.float32), (("avx512_bf16",), torch.bfloat16)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=named: dict.fromkeys(found, True))
        assert best_dtype(torch.device("cpu")) == dtype == next(open_base(whole, None).unet.parameters()).dtype
    for capability, dtype in (((7, 5), torch.float16), ((8, 6), torch.bfloat16), ((9, 0), torch.bfloat16)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert best_dtype(torch.device("cuda")) == dtype


@pytest.mark.parametrize("name", ["nobody/nothing", "a name with spaces/x", "a/b/c", "x" * 5000, "a\0b"])
def test_a_name_that_the_hub_does_not_give_is_refused(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "the Hugging Face hub does not give it" in refusal(name)


def test_a_name_that_the_hub_gives_is_opened_like_a_folder(base, monkeypatch):
    asked, revisions = [], []

    def hub(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.extend(allow_patterns)
        revisions.append(revision)
        return str(base)

    monkeypatch.setattr("w2w_lib.models.base.snapshot_download", hub)
    assert fingerprint(open_base("somebody/model")) == fingerprint(tiny_pipeline())
    assert UNET in asked and not any(name.endswith((".bin", ".ckpt", ".py")) for name in asked)
    asked.clear()
    open_base("somebody/model", variant="fp16", revision="v2")
    of_variant = UNET.replace(".safetensors", ".fp16.safetensors")
    assert of_variant in asked and set(revisions) == {None, "v2"}
    edit(base / "model_index.json", _class_name="StableDiffusionXLPipeline")
    asked.clear()
    assert "StableDiffusionXLPipeline" in refusal("somebody/model")
    assert asked == ["model_index.json"]  # no gigabytes for what is then refused


def test_unknown_types_and_devices_are_refused(whole, unchecked):
    for dtype in (torch.int8, torch.float64, "bfloat16"):
        assert "unet_dtype" in refusal(whole, unet_dtype=dtype)
    for device in ("gpu", "cuda:99", "meta", 3.5):
        assert "device" in refusal(whole, device=device)
    for variant in ("", "fp16/../x", 16):
        assert "variant" in refusal(whole, variant=variant)
    assert "is a folder" in refusal(whole, revision="v2")
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
    assert generate(former, ["sks person"], [0], sampling=QUICK).shape == (1, 128, 128, 3)


def test_more_steps_than_timesteps_are_refused(base):
    edit(base / "scheduler/scheduler_config.json", num_train_timesteps=100)
    with pytest.raises(ValueError, match="101 steps: expected at most 100"):
        generate(open_base(base), ["person"], [0], sampling=Sampling(steps=101))
