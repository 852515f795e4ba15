"""Folders that are replaced whole, or not at all."""

import os
import shutil

import pytest

from w2w_lib.files import folders
from w2w_lib.files.folders import replace_folder, restore_folder


@pytest.fixture
def pair(tmp_path):
    """A new folder and the old one that it is to replace."""
    for name in ("new", "old"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "unet/weights").write_text(name)
    (tmp_path / "old/README.md").write_text("old")
    return tmp_path / "new", tmp_path / "old"


def tree(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_the_new_folder_is_where_the_old_one_was_and_nothing_else_is_left(pair, tmp_path):
    new, old = pair
    replace_folder(new, old)
    assert tree(tmp_path) == {"old/unet/weights": "new"}


def test_a_link_is_replaced_and_what_it_points_to_is_kept(pair, tmp_path):
    new, old = pair
    (tmp_path / "link").symlink_to(old)
    replace_folder(new, tmp_path / "link")
    assert tree(old)["unet/weights"] == "old" and tree(tmp_path / "link") == {"unet/weights": "new"}


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failure_leaves_both_folders_as_they_were(pair, tmp_path, monkeypatch, failing):
    new, old = pair
    before, rename, calls = tree(tmp_path), os.rename, []

    def fails(source, target):
        calls.append(source)
        if len(calls) == failing:
            raise OSError("the disk is gone")
        rename(source, target)

    monkeypatch.setattr(folders.os, "rename", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        replace_folder(new, old)
    assert tree(tmp_path) == before


def test_what_a_kill_left_aside_is_put_back(pair, tmp_path):
    new, old = pair
    before = tree(tmp_path)
    old.rename(tmp_path / ".old.replaced")  # killed between the two renames
    restore_folder(old)
    assert tree(tmp_path) == before
    shutil.copytree(new, tmp_path / ".old.arriving")  # killed while it was copied from another disk
    restore_folder(old)
    assert tree(tmp_path) == before
    old.rename(tmp_path / ".old.replaced")
    replace_folder(new, old)
    assert tree(tmp_path) == {"old/unet/weights": "new"}


def test_from_another_disk_it_is_copied_first(pair, tmp_path, monkeypatch):
    new, old = pair
    rename = os.rename

    def within_a_disk(source, target):
        assert source != new
        rename(source, target)

    class Elsewhere(type(new)):
        def stat(self, **how):
            facts = list(super().stat(**how))
            return os.stat_result([*facts[:2], -1, *facts[3:]]) if self == new else super().stat(**how)

    monkeypatch.setattr(folders, "Path", Elsewhere)
    monkeypatch.setattr(folders.os, "rename", within_a_disk)
    replace_folder(new, old)
    assert tree(tmp_path) == {"old/unet/weights": "new"}


def test_what_cannot_replace_a_folder_is_refused(pair, tmp_path):
    new, old = pair
    before = tree(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such folder; .*nothing was changed"):
        replace_folder(tmp_path / "nowhere", old)
    with pytest.raises(ValueError, match=r"weights: is no folder; .*nothing was changed"):
        replace_folder(new / "unet/weights", old)
    for first, second in ((old / "unet", old), (new, new / "unet"), (new, new)):
        with pytest.raises(ValueError, match="one lies in the other"):
            replace_folder(first, second)
    assert tree(tmp_path) == before
