"""A base's fingerprint is what the base is: not where it lies, how it was opened, or who asks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from tiny_base import tiny_pipeline

from w2w_lib.models.base import open_base
from w2w_lib.models.fingerprint import fingerprint


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def own(base) -> str:
    return fingerprint(open_base(base))


@pytest.fixture
def copy(base, tmp_path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "elsewhere"))


def edit(path: Path, change) -> None:
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


# ---------------------------------------------------------------- what does not matter
def test_a_copy_and_a_link_are_the_same_base(base, own, copy, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(base)
    assert fingerprint(open_base(copy)) == fingerprint(open_base(tmp_path / "link")) == own
    monkeypatch.chdir(tmp_path)
    assert fingerprint(open_base("elsewhere")) == own
    assert len(own) == 16 and int(own, 16)


def test_a_base_is_itself_however_it_is_opened(base, own):
    for dtype in (torch.bfloat16, torch.float16):
        assert fingerprint(open_base(base, dtype)) == own
    by_diffusers = StableDiffusionPipeline.from_pretrained(
        base, safety_checker=None, requires_safety_checker=False, torch_dtype=torch.bfloat16
    )
    assert fingerprint(by_diffusers) == own
    changed = open_base(base)
    changed.unet.set_attn_processor(AttnProcessor())
    changed.unet.to(memory_format=torch.channels_last)
    changed.vae.enable_slicing()
    assert fingerprint(changed) == own


def test_a_base_that_was_never_saved_is_what_its_folder_holds(own):
    assert fingerprint(tiny_pipeline()) == own


@pytest.mark.slow
def test_another_process_with_another_hash_seed_agrees(base, own):
    code = (
        "import sys; from w2w_lib.models.base import open_base; from w2w_lib.models.fingerprint import fingerprint; "
        "print(fingerprint(open_base(sys.argv[1])))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, base], env=os.environ | {"PYTHONHASHSEED": "12345"}, capture_output=True, text=True
    )
    assert told.stdout.split()[-1] == own, told.stderr


def test_an_old_configuration_is_the_same_base(copy, own):
    """Private entries, a set that was turned into a list, settings that did not exist yet, another library version."""

    def age(config: dict) -> None:
        config |= {"_use_default_values": ["dropout", "act_fn", "upcast_attention"], "_name_or_path": "/somebody/unet"}
        config["_diffusers_version"] = "0.10.2"
        for name in ("dropout", "resnet_out_scale_factor", "attention_type", "act_fn"):
            del config[name]

    edit(copy / "unet/config.json", age)
    edit(copy / "text_encoder/config.json", lambda config: config.update(_name_or_path="x", transformers_version="4.2"))
    edit(copy / "unet/config.json", lambda config: config.update(freq_shift=0.0))
    assert fingerprint(open_base(copy)) == own


def test_the_class_of_the_scheduler_does_not_matter_but_its_noise(tmp_path):
    betas, found = {"beta_start": 0.001, "beta_end": 0.02, "steps_offset": 1}, set()
    schedulers = PNDMScheduler(**betas, skip_prk_steps=True), DDIMScheduler(**betas, clip_sample=False)
    for scheduler in schedulers:
        pipeline = tiny_pipeline()
        pipeline.scheduler = scheduler
        pipeline.save_pretrained(tmp_path)
        found |= {fingerprint(pipeline), fingerprint(open_base(tmp_path))}
    assert len(found) == 1


# ---------------------------------------------------------------- what does
def test_a_copy_of_rounded_numbers_is_another_base(copy, own, tmp_path):
    half = open_base(copy)
    for module in (half.unet, half.vae, half.text_encoder):
        module.half()
    half.save_pretrained(tmp_path / "half")
    opened = open_base(tmp_path / "half")
    assert fingerprint(opened) != own
    opened.save_pretrained(tmp_path / "single")  # float32 again: the same numbers as those of float16
    assert fingerprint(open_base(tmp_path / "single")) == fingerprint(opened)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_another_weight_is_another_base(base, own, part):
    pipeline = open_base(base)
    assert fingerprint(pipeline) == own  # which must not be remembered when a weight is written to
    with torch.no_grad():
        list(getattr(pipeline, part).parameters())[-1].flatten()[0] += 0.5
    assert fingerprint(pipeline) != own


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("vae", {"scaling_factor": 0.5}),
        ("text_encoder", {"hidden_act": "gelu"}),
        ("unet", {"flip_sin_to_cos": False}),
        ("unet", {"sample_size": 16}),
        ("scheduler", {"beta_end": 0.011}),
        ("scheduler", {"beta_schedule": "linear"}),
        ("scheduler", {"rescale_betas_zero_snr": False}),
        ("scheduler", {"rescale_betas_zero_snr": False, "prediction_type": "epsilon"}),
        ("scheduler", {"trained_betas": [0.01] * 1000}),
    ],
)
def test_another_setting_is_another_base(copy, own, file, change):
    name = "scheduler_config.json" if file == "scheduler" else "config.json"
    edit(copy / file / name, lambda config: config.update(change))
    assert fingerprint(open_base(copy)) != own


def test_another_vocabulary_merges_or_length_is_another_base(copy, own):
    path = copy / "tokenizer/tokenizer.json"
    whole = path.read_text()

    def swap_words(config: dict) -> None:
        words = config["model"]["vocab"]
        words["man</w>"], words["woman</w>"] = words["woman</w>"], words["man</w>"]

    edit(path, swap_words)
    swapped = fingerprint(open_base(copy))
    path.write_text(whole)
    edit(path, lambda config: config["model"]["merges"].reverse())
    reordered = fingerprint(open_base(copy))
    path.write_text(whole)
    edit(copy / "tokenizer/tokenizer_config.json", lambda config: config.update(model_max_length=20))
    shorter = fingerprint(open_base(copy))
    assert len({own, swapped, reordered, shorter}) == 4


def test_every_pipeline_has_its_own():
    first, second = tiny_pipeline(0), tiny_pipeline(1)
    assert fingerprint(first) == fingerprint(tiny_pipeline(0)) != fingerprint(second)
    first.vae = second.vae
    assert fingerprint(first) not in (fingerprint(tiny_pipeline(0)), fingerprint(second))
