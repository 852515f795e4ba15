"""A folder of people: what is read, skipped, said and refused."""

import os
import warnings

import numpy as np
import pandas as pd
import pytest
from people_folder import RED, refused
from PIL import Image

from w2w_lib.people.folders import FolderSource


def test_a_folder_is_read_quietly(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = FolderSource(folder)
    assert source.ids == ["ann", "bob"] and source.remarks == [] and source.labels is None and source.size == 32
    assert source.images("ann").shape == (2, 32, 32, 3) and source.images("ann").dtype == np.uint8
    assert FolderSource(folder, size=16).images("bob").shape == (2, 16, 16, 3)
    with pytest.raises(ValueError, match=r"unknown identity 'an' in .*did you mean 'ann'"):
        source.images("an")


def test_one_person_with_one_picture_will_do(tmp_path):
    (tmp_path / "solo").mkdir()
    Image.new("RGB", (16, 16), RED).save(tmp_path / "solo" / "a.JPG")
    assert FolderSource(tmp_path).images("solo").shape == (1, 16, 16, 3)


def test_what_is_no_folder_of_folders_is_refused(folder, unchecked):
    assert "no such folder" in refused(folder / "nowhere")
    assert "is no folder" in refused(folder / "ann" / "0.png")
    (folder / "cat").mkdir()
    assert "no identity folders" in refused(folder / "cat")
    assert "cat: no pictures in this identity's folder" in refused(folder)
    (folder / "cat" / "notes.txt").write_text("a cat")
    assert "cat: no pictures in this identity's folder" in refused(folder)
    (folder / "cat" / "0.png").write_bytes((folder / "ann" / "0.png").read_bytes())
    for size in (0, -1, 1.5, float("nan"), "64", 20_000):
        assert "size: expected a whole number" in refused(folder, size=size)


def test_what_is_skipped_is_said(folder):
    (folder / ".DS_Store").write_bytes(b"\0")
    (folder / ".git").mkdir()
    (folder / "notes.txt").write_text("about them")
    (folder / "ann" / ".hidden.png").write_bytes(b"")
    (folder / "ann" / "notes.txt").write_text("about her")
    (folder / "ann" / "IMG_1.HEIC").write_bytes(b"not read")
    (folder / "ann" / "more").mkdir()
    (folder / "ann" / "up").symlink_to(folder)  # a loop
    (folder / "ann" / "gone.png").symlink_to(folder / "nothing.png")
    (folder / "gone").symlink_to(folder / "nobody")
    (folder / "round").symlink_to("round")
    os.mkfifo(folder / "pipe")
    with pytest.warns(UserWarning, match=r"\.DS_Store: skipped, hidden.* and 7 more$"):
        source = FolderSource(folder)
    assert source.ids == ["ann", "bob"] and len(source.images("ann")) == 2
    said = dict(remark.split(": skipped, ") for remark in source.remarks)
    assert said == {
        ".DS_Store": "hidden",
        ".git": "hidden",
        "gone": "a broken link",
        "notes.txt": "no folder",
        "pipe": "no folder",
        "round": "a broken link",
        "ann/.hidden.png": "hidden",
        "ann/IMG_1.HEIC": "no suffix of a picture",
        "ann/gone.png": "a broken link",
        "ann/more": "a folder in an identity's folder",
        "ann/notes.txt": "no suffix of a picture",
        "ann/up": "a folder in an identity's folder",
    }


def test_links_are_followed(folder, tmp_path_factory):
    home = tmp_path_factory.mktemp("people")
    (home / "ann").symlink_to(folder / "ann")
    (home / "eve").mkdir()
    (home / "eve" / "0.png").symlink_to(folder / "bob" / "0.png")
    source = FolderSource(home)
    assert source.ids == ["ann", "eve"] and source.remarks == []
    np.testing.assert_array_equal(source.images("eve"), FolderSource(folder).images("bob")[:1])


@pytest.mark.parametrize("name", ["NA", "nan", "null", "001", "a,b", 'a "b"', " a b ", "👩‍👧 é", "x" * 250, "1e3"])
def test_odd_names_are_names(tmp_path, name):
    (tmp_path / name).mkdir()
    Image.new("RGB", (16, 16), RED).save(tmp_path / name / "0.png")
    pd.DataFrame({"id": [name], "Young": [1]}).to_csv(tmp_path / "labels.csv", index=False)
    source = FolderSource(tmp_path, tmp_path / "labels.csv")
    assert source.ids == [name] == list(source.labels.index) and source.remarks == [] and source.labels["Young"].all()


@pytest.mark.parametrize("name", ["two\nlines", "tab\t", b"caf\xe9", "esc\x1b[31m"])
def test_names_that_cannot_be_printed_are_refused(folder, name):
    name = name if isinstance(name, bytes) else name.encode()
    os.mkdir(os.path.join(os.fsencode(folder), name))
    said = [refused(folder)]
    os.rmdir(os.path.join(os.fsencode(folder), name))
    os.rename(folder / "ann" / "0.png", os.path.join(os.fsencode(folder / "ann"), name + b".png"))
    said.append(refused(folder))
    assert all("control characters or bytes that are not UTF-8" in line for line in said)
    assert all(line.encode().decode().isprintable() for line in said)


def test_names_and_pictures_that_are_the_same_are_said(folder):
    (folder / "Ann").mkdir()
    (folder / "Ann" / "7.png").write_bytes((folder / "bob" / "0.png").read_bytes())
    with pytest.warns(UserWarning, match="ann: another identity than Ann"):
        remarks = FolderSource(folder).remarks
    assert remarks == ["ann: another identity than Ann", "bob/0.png: the same picture as Ann/7.png"]
