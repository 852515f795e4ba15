"""Profiles: data with the same sections everywhere, and errors that say what to do."""

import os
import shutil
import subprocess

import pytest
from ruamel.yaml import YAML

from w2w_lib.models.sampling import Sampling
from w2w_lib.space.inversion import InversionRecipe
from w2w_lib.training.recipe import FleetRecipe
from w2w_lib.workbook import paths, profiles


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A copy of params.yaml in a root of its own."""
    shutil.copy(paths.PARAMS, tmp_path)
    monkeypatch.setattr(paths, "PARAMS", tmp_path / paths.PARAMS.name)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    """What passes for a base model's folder."""
    (tmp_path / "my base").mkdir()
    (tmp_path / "my base/model_index.json").write_text("{}")
    return tmp_path / "my base"


def test_every_profile_has_the_same_sections():
    params = YAML(typ="safe").load(paths.PARAMS)
    sections = {name: set(params[name]) for name in ("smoke", "pocket", "sd15")}
    assert sections["smoke"] == sections["pocket"] == sections["sd15"]
    for section in sections["smoke"] - {"base"}:
        keys = {name: set(params[name][section]) for name in ("smoke", "pocket", "sd15")}
        assert keys["smoke"] == keys["pocket"] == keys["sd15"], section
    for name in ("smoke", "pocket", "sd15"):
        FleetRecipe(**params[name]["finetune"]["recipe"])
        InversionRecipe(**params[name]["invert"]["recipe"])
        for section in ("space", "edit", "invert"):
            Sampling(**params[name][section]["sampling"])


def test_numbers_are_numbers_in_every_spelling(elsewhere):
    paths.PARAMS.write_text("profiles: {}\nmine:\n  finetune: {learning_rate: 1e-4}\n")
    assert profiles.load("mine", "finetune") == {"learning_rate": 0.0001}


def test_unknown_profile_and_section_are_named():
    with pytest.raises(ValueError, match=r"unknown profile 'huge'.*smoke, pocket, sd15"):
        profiles.load("huge", "finetune")
    with pytest.raises(ValueError, match=r"'smoke' has no section 'finetuen'.*finetune"):
        profiles.load("smoke", "finetuen")


def test_the_profile_key_itself_is_no_profile():
    with pytest.raises(ValueError, match="unknown profile 'profiles'"):
        profiles.load("profiles", "smoke")


def test_enrolling_adds_a_profile_once_and_keeps_comments(elsewhere, folder):
    before = paths.PARAMS.read_text()
    profiles.enrol("sd15", str(folder))
    after = paths.PARAMS.read_text()
    assert YAML(typ="safe").load(after)["profiles"]["sd15"] == {"base": "data/base/sd15"}
    assert after.replace("  sd15: {base: data/base/sd15}\n", "") == before
    assert profiles.base("sd15").samefile(folder)
    profiles.enrol("sd15")
    profiles.enrol("sd15", str(folder))
    assert paths.PARAMS.read_text() == after


@pytest.mark.parametrize("source", [None, "/no/such/folder", "not-a-hub-id"])
def test_a_missing_base_is_named_and_changes_nothing(elsewhere, source):
    before = paths.PARAMS.read_text()
    with pytest.raises(FileNotFoundError, match=source or r"data/base/sd15.*BASE="):
        profiles.enrol("sd15", source)
    assert paths.PARAMS.read_text() == before


def test_a_folder_that_is_no_pipeline_is_refused(elsewhere, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model_index\.json"):
        profiles.enrol("sd15", str(tmp_path))
    assert not (paths.ROOT / "data").exists()


def test_a_file_is_no_base(elsewhere, tmp_path):
    (tmp_path / "realistic.safetensors").touch()
    with pytest.raises(ValueError, match=r"realistic\.safetensors is a file, expected a folder: .*from_single_file"):
        profiles.enrol("sd15", str(tmp_path / "realistic.safetensors"))


def test_the_shipped_base_is_not_overwritten(elsewhere, folder):
    shipped = elsewhere / "data/base/pocket"
    shutil.copytree(folder, shipped)
    with pytest.raises(ValueError, match="data/base/pocket already holds a base model"):
        profiles.enrol("pocket", str(folder))
    assert not shipped.is_symlink()


@pytest.mark.skipif(not shutil.which(os.environ.get("UV", "uv")), reason="make needs uv")
def test_make_refuses_an_unknown_profile_in_one_line():
    done = subprocess.run(
        ["make", "reproduce", "PROFILE=huge"], cwd=paths.ROOT, capture_output=True, text=True, timeout=120
    )
    errors = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0 and len(errors) == 1
    assert errors[0].startswith("error: unknown profile 'huge'")
