"""A small synthetic release on a narrow base, its import, and a copy of it to damage."""

import shutil
from pathlib import Path

import pytest

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.release.importing import import_release
from w2w_lib.release.random_base import random_stable_diffusion
from w2w_lib.release.synthetic import write_release

KNOWN, COMPONENTS, MODELS = 20, 12, 300


@pytest.fixture(scope="module")
def narrow_base():
    return random_stable_diffusion()


@pytest.fixture(scope="module")
def narrow_layout(narrow_base):
    return AdapterLayout.of(narrow_base.unet, fingerprint(narrow_base), "release", 1, 27.0)


@pytest.fixture(scope="module")
def release(narrow_layout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "theirs"
    return folder, write_release(folder, narrow_layout, MODELS, 40, KNOWN, with_weights=True)


@pytest.fixture(scope="module")
def imported(release, narrow_base, tmp_path_factory):
    return import_release(
        release[0], tmp_path_factory.mktemp("out") / "ours", COMPONENTS, narrow_base, show=lambda text: None
    )


@pytest.fixture
def theirs(release, tmp_path, quick_disk) -> Path:
    """A copy to damage, without the weights."""
    ignored = shutil.ignore_patterns("weights_datasets")
    return Path(shutil.copytree(release[0], tmp_path / "theirs", ignore=ignored))
