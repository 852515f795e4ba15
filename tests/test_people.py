"""Sets of people: in memory, on disk, by recipe; and the listing of a user's files."""

import hashlib
import os
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydantic import BaseModel

from w2w_lib.people.folders import FolderSource
from w2w_lib.people.listing import list_files
from w2w_lib.people.people_set import People, identity_name, person_index
from w2w_lib.people.recipe import PeopleRecipe
from w2w_lib.people.rendered.person import sample_person
from w2w_lib.people.rendered.population import render_population
from w2w_lib.people.rendered.view import sample_view


def people(count: int = 3, pictures: int = 2, size: int = 16) -> People:
    """People of noise, a label and an age."""
    ids = [["NA", "001", "eve, adam"][k] if k < 3 else f"p{k}" for k in range(count)]
    images = np.random.default_rng(0).integers(0, 255, (count * pictures, size, size, 3), np.uint8)
    labels = pd.DataFrame({"Cap": np.arange(count) % 2 == 0, "age": np.arange(count) + 20}, pd.Index(ids, name="id"))
    return People(images, pd.DataFrame({"id": np.repeat(ids, pictures)}), labels)


def write_folder(path, names) -> None:
    """A picture for each name, all different."""
    for name in names:
        (path / name).mkdir(parents=True)
        colour = tuple(hashlib.sha256(name.encode()).digest()[:3])
        Image.new("RGB", (16, 16), colour).save(path / name / "0.png")


# ---------------------------------------------------------------- in memory
def test_rendered_people_are_the_populations():
    rendered = People.render("tests", 1, 2, 16)  # of one person, no process is started
    images, _ = render_population("tests", [0, 1], 2, 16, workers=1, progress=False)
    assert rendered.ids == ["tests-00000"] == [identity_name("tests", 0)] and rendered.pictures["view"].tolist() == [
        0,
        1,
    ]
    np.testing.assert_array_equal(rendered.of("tests-00000"), images[0])
    assert rendered.labels.loc["tests-00000"].to_dict() == sample_person("tests", 0).labels
    assert person_index(identity_name("tests", 100_001)) == 100_001
    for name in ("ann", "tests-", "tests-1x", "7"):
        with pytest.raises(ValueError, match="names no rendered person; expected"):
            person_index(name)
    with pytest.raises(ValueError, match="count: expected a whole number"):
        People.render("tests", 0, 2)
    with pytest.raises(ValueError, match=r"1000000000 people: their pictures take 768 GB; expected at most"):
        People.render("tests", 10**9, 1, 16)


def test_later_views_and_what_they_show():
    early, late = (People.render("tests", 1, 2, 16, first_view=first) for first in (0, 1))
    np.testing.assert_array_equal(late.images[0], early.images[1])
    view = sample_view("tests", 0, 2)
    said = f"{view.pose}, {view.light}, {view.expression}, on a {view.background} background, wearing {view.shirt}"
    assert late.contexts()["tests-00000"] == [early.contexts()["tests-00000"][1], said]
    assert people().contexts() == {}


def test_pictures_are_kept_apart():
    ids = ["ann"] * 5 + ["bob"] + ["eve"] * 2
    images = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    shown = People(images, pd.DataFrame({"id": ids}), pd.DataFrame(index=["ann", "bob", "eve"]))
    kept, apart = ([part.of(i)[:, 0, 0, 0].tolist() for i in shown.ids] for part in shown.parted(3))
    assert kept == [[0, 1, 2], [5], [6]] and apart == [[3, 4], [5], [7]]
    some = shown.only(["eve", "ann"])
    assert some.ids == ["eve", "ann"] and some.images[:, 0, 0, 0].tolist() == [6, 7, 0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="unknown identity 'adam'"):
        shown.only(["adam"])


def test_of_somebody_who_is_not_there(unchecked):
    with pytest.raises(ValueError, match=r"unknown identity '01' .*did you mean '001'\?"):
        people().of("01")
    with pytest.raises(ValueError, match=r"unknown identity \['001'\] .*did you mean '001'"):
        people().of(["001"])


def test_fingerprints_are_of_the_pixels():
    shown = people()
    prints = shown.fingerprints()
    assert len(set(prints.values())) == 3 and all(len(value) == 16 for value in prints.values())
    order = [5, 0, 3, 1, 4, 2]  # pictures of several people in turn
    order.sort(key=lambda row: row % 2)
    mixed = People(shown.images[order], shown.pictures.iloc[order], shown.labels)
    assert mixed.fingerprints() == prints


def test_what_does_not_belong_together_is_refused(unchecked):
    good = people()
    wrong = {
        "images are float32": (good.images.astype(np.float32), good.pictures, good.labels),
        "images are uint8 \\(6, 16, 16, 1\\)": (good.images[..., :1], good.pictures, good.labels),
        "no pictures": (good.images[:0], good.pictures[:0], good.labels[:0]),
        "has 5 rows": (good.images, good.pictures[:5], good.labels),
        "and columns who": (good.images, good.pictures.rename(columns={"id": "who"}), good.labels),
        "001 have pictures or labels alone": (good.images, good.pictures, good.labels.drop("001")),
        "labels twice for NA": (good.images, good.pictures, pd.concat([good.labels, good.labels[:1]])),
        "images: expected ndarray, found list": (list(good.images), good.pictures, good.labels),
        "labels: expected DataFrame, found None": (good.images, good.pictures, None),
        "other things than names": (good.images, good.pictures.assign(id=[*"aabbc", None]), good.labels),
    }
    for said, parts in wrong.items():
        with pytest.raises(ValueError, match=said):
            People(*parts)


def test_pictures_that_the_base_cannot_encode_are_refused(unchecked):
    """A stand-in for a base that encodes 8 × 8 pixels to their mean."""

    def encode(images):
        mean = torch.nn.functional.avg_pool2d(images, 8)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: mean))

    pipeline = SimpleNamespace(
        vae_scale_factor=8, vae=SimpleNamespace(encode=encode, device="cpu", dtype=torch.float32)
    )
    pipeline.vae.config = SimpleNamespace(scaling_factor=0.5)
    shown = people()
    means = shown.latents(pipeline, batch_pixels=600)["001"]
    expected = shown.of("001").reshape(2, 2, 8, 2, 8, 3).mean((2, 4)) / 127.5 - 1
    np.testing.assert_allclose(means.permute(0, 2, 3, 1), expected / 2, atol=1e-5)
    with pytest.raises(ValueError, match="pictures of 20×20 pixels: expected sides that 8 divides"):
        people(size=20).latents(pipeline)


# ---------------------------------------------------------------- on disk
def test_a_set_of_people_comes_back_from_disk_or_is_not_there(tmp_path, monkeypatch):
    saved = people()
    saved.save(tmp_path)
    again = People.load(tmp_path)
    np.testing.assert_array_equal(again.images, saved.images)
    pd.testing.assert_frame_equal(again.labels, saved.labels)
    pd.testing.assert_frame_equal(again.pictures, saved.pictures)
    assert again.fingerprints() == saved.fingerprints()
    assert {file.name for file in tmp_path.iterdir()} == {"images.npy", "pictures.parquet", "labels.parquet"}

    def full(table, path):
        raise OSError("No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError, match="No space left"):
        people(2).save(tmp_path)
    assert People.load(tmp_path).fingerprints() == saved.fingerprints()
    with pytest.raises(OSError, match="No space left"):
        people(2).save(tmp_path / "new")
    with pytest.raises(FileNotFoundError, match=r"labels\.parquet: no such file; expected a saved set of people"):
        People.load(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def test_people_without_labels_come_back(tmp_path):
    write_folder(tmp_path / "own", ["ann", "bob"])
    read = People.read(FolderSource(tmp_path / "own"))
    read.save(tmp_path / "set")
    again = People.load(tmp_path / "set")
    assert again.ids == ["ann", "bob"] and again.labels.shape == (2, 0)
    np.testing.assert_array_equal(again.of("bob"), read.of("bob"))
    with pytest.raises(ValueError, match="no people to read"):
        People.read(FolderSource(tmp_path / "own"), [])
    with pytest.raises(ValueError, match="unknown identity 'eve'"):
        People.read(FolderSource(tmp_path / "own"), ["eve"])


def test_a_set_has_a_folder_and_comes_from_a_source(tmp_path, unchecked):
    (tmp_path / "file").write_text("mine")
    for path, said in (("file", "cannot be made"), ("file/set", "cannot be made"), ("\0", "is no path")):
        with pytest.raises(ValueError, match=said):
            people().save(tmp_path / path)
    for wrong in (None, b"set", np.zeros((99, 99)), "~nobody-of-this-name/set"):
        with pytest.raises(ValueError, match="is no path; expected the path of a saved set of people") as error:
            People.load(wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="source: expected FolderSource, found '"):
        People.read(str(tmp_path))


def spoil(folder, kind: str) -> None:
    good, images = people(), folder / "images.npy"
    if kind == "pipe":
        images.unlink()
        os.mkfifo(images)
    elif kind == "pickle":
        np.save(images, np.array([{}], dtype=object), allow_pickle=True)
    elif kind == "archive":
        with images.open("wb") as file:
            np.savez(file, a=good.images)
    elif kind == "cut archive":
        images.write_bytes(b"PK\3\4" + bytes(50))
    elif kind == "less than nothing":
        images.write_bytes(images.read_bytes().replace(b"(6, 16", b"(-6,16"))
    elif kind == "cut":
        images.write_bytes(images.read_bytes()[:-100])
    elif kind == "text":
        images.write_text("pictures")
    elif kind == "floats":
        np.save(images, good.images.astype(np.float32))
    elif kind == "fewer":
        np.save(images, good.images[:4])
    elif kind == "no table":
        (folder / "pictures.parquet").write_bytes(b"PAR1")
    elif kind == "others":
        good.labels.rename({"001": "002"}).to_parquet(folder / "labels.parquet")
    elif kind == "no label":
        good.labels.astype({"Cap": object}).replace({"Cap": {True: None}}).to_parquet(folder / "labels.parquet")
    elif kind == "0, 1, 2":
        good.labels.assign(Cap=[0, 1, 2]).to_parquet(folder / "labels.parquet")


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "kind, said",
    [
        ("pipe", r"images\.npy: is no regular file"),
        ("pickle", r"images\.npy: is no array"),
        ("archive", r"images\.npy: is no array"),
        ("cut archive", r"images\.npy: is no array"),
        ("less than nothing", r"images\.npy: is no array"),
        ("cut", r"images\.npy: is no array"),
        ("text", r"images\.npy: is no array"),
        ("floats", "images are float32"),
        ("fewer", "the table of pictures has 6 rows"),
        ("no table", r"pictures\.parquet: is no whole Parquet file"),
        ("others", "001, 002 have pictures or labels alone"),
        ("no label", "column 'Cap', row 'NA' has no value"),
        ("0, 1, 2", "column 'Cap', row 'eve, adam' has "),
    ],
)
def test_spoilt_sets_are_refused_in_a_line(tmp_path, kind, said, unchecked):
    people().save(tmp_path)
    spoil(tmp_path, kind)
    with pytest.raises(ValueError, match=said) as error:
        People.load(tmp_path)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- by recipe
def test_a_recipe_renders():
    recipe = PeopleRecipe(train=1, heldout=1, views=1, size=16)
    np.testing.assert_array_equal(recipe.load("train").images, People.render("train", 1, 1, 16).images)
    assert recipe.load("heldout").ids == recipe.load("heldout_unseen").ids == ["heldout-00000"]
    np.testing.assert_array_equal(recipe.load("val_unseen").images, People.render("val", 20, 4, 16, 1).images)
    with pytest.raises(ValueError, match="no split 'helout', did you mean 'heldout'"):
        recipe.load("helout")


def test_a_folder_more_changes_the_held_out_people_by_one_at_most(tmp_path):
    recipe = PeopleRecipe(train=100, heldout=4, views=1, size=16, source=tmp_path, val=2)

    def heldout(names):
        write_folder(tmp_path, names)
        train, val, apart = (recipe.load(split).ids for split in ("train", "val", "heldout"))
        assert len(apart) == 4 and len(val) == 2
        assert sorted([*train, *val, *apart]) == sorted(path.name for path in tmp_path.iterdir())
        return set(apart)

    with pytest.raises(ValueError, match="has 4 identities; expected at least 7, as 4 are held out and 2 are in val"):
        heldout([f"o{k}" for k in range(4)])
    kept = [heldout([f"p{k}" for k in range(12)])] + [heldout([f"newcomer-{k}"]) for k in range(8)]
    assert all(len(before - after) <= 1 for before, after in pairwise(kept)) and kept[0] != kept[-1]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"train": 0}, "train: .* greater than or equal to 1"),
        ({"heldout": -1}, "heldout: "),
        ({"views": 1.5}, "views: "),
        ({"size": 8}, "size: .* greater than or equal to 16"),
        ({"size": float("nan")}, "size: "),
        ({"labels": "labels.csv"}, "labels without a source"),
        ({"suorce": "own"}, "no setting 'suorce', did you mean 'source'"),
        ({"source": 3}, "source: "),
        ({"source": " "}, "source: expected a path"),
    ],
)
def test_wrong_recipes_are_refused_in_a_line(change, said, unchecked):
    with pytest.raises(ValueError, match=said) as error:
        PeopleRecipe(**{"train": 2, "heldout": 1, "views": 1, "size": 16} | change)
    assert "\n" not in str(error.value)


def test_a_recipe_is_part_of_larger_settings():
    class Section(BaseModel):
        sets: PeopleRecipe

    sets = {"train": 2, "heldout": 1, "views": 1, "size": 16, "source": "own"}
    assert Section(sets=sets).sets == PeopleRecipe(**sets)


# ---------------------------------------------------------------- the listing
def test_the_listing_changes_with_the_files_behind_links(tmp_path):
    home, away, labels = tmp_path / "own", tmp_path / "away", tmp_path / "labels.csv"
    write_folder(away, ["ann", "bob"])
    home.mkdir()
    (home / "ann").symlink_to(away / "ann")
    (home / "eve").mkdir()
    (home / "eve" / "0.png").symlink_to(away / "bob" / "0.png")
    (home / "eve" / "up").symlink_to(home)
    (home / "eve" / "gone").symlink_to(away / "nobody")
    os.mkfifo(home / "pipe")
    os.mkdir(os.path.join(os.fsencode(home), b"caf\xe9\n"))
    labels.write_text("id,Cap\n")
    seen = [list_files(home, labels)]
    assert seen[0] == list_files(home, labels) and seen[0].count("\n") == len(seen[0].splitlines()) == 10
    seen[0].encode()

    def changed() -> bool:
        seen.append(list_files(home, labels))
        return seen[-1] != seen[-2]

    Image.new("RGB", (16, 17)).save(away / "ann" / "0.png")
    assert changed()
    os.utime(away / "bob" / "0.png", ns=(0, 0))
    assert changed()
    Image.new("RGB", (16, 16)).save(away / "ann" / "1.png")
    assert changed()
    labels.write_text("id,Hat\n")
    os.utime(labels, ns=(0, 1))
    assert changed() and not changed()
    labels.unlink()
    assert changed() and "labels.csv' FileNotFoundError" in seen[-1]
