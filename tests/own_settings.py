"""A place with settings of its own, and a folder that looks like a base."""

import json
import shutil

import pytest

from w2w_lib.workbook import paths

SHIPPED = ("smoke", "pocket", "full", "sd15", "sd15-own")
WITH_PEOPLE = ("smoke", "pocket", "full", "sd15-own")
PLACES = ("PARAMS", "LOCAL", "OUTPUTS", "PIPELINE")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A copy of params.yaml in a root of its own."""
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(paths.PARAMS, root)
    for name in PLACES:
        monkeypatch.setattr(paths, name, root / getattr(paths, name).relative_to(paths.ROOT))
    monkeypatch.setattr(paths, "ROOT", root)
    return root


@pytest.fixture
def pipeline_folder(tmp_path):
    """What passes for a base model's folder."""
    (tmp_path / "my base").mkdir()
    (tmp_path / "my base/model_index.json").write_text("{}")
    return tmp_path / "my base"


def local(text: str) -> None:
    paths.LOCAL.write_text(text, encoding="utf-8")


def set_locally(profile: str, place: str, value) -> None:
    for name in reversed(place.split(".")):
        value = {name: value}
    local(json.dumps({profile: value}).replace("NaN", ".nan").replace("Infinity", ".inf"))
