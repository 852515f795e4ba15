"""The tiny base in a folder, and what a test does to one."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_base import tiny_pipeline

from w2w_lib.models.base import open_base
from w2w_lib.models.sampling import Sampling

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
