"""A user's folder of image folders, and labels for it: used rightly, or refused in a line; what was skipped is said."""

import errno
import os
import socket
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from w2w_lib.people.folders import FolderSource
from w2w_lib.people.pictures import read_square

RED, WHITE = (200, 30, 30), (255, 255, 255)


@pytest.fixture
def folder(tmp_path):
    """Ann and Bob, two pictures each, of different sizes."""
    for blue, name in enumerate(("ann", "bob")):
        (tmp_path / name).mkdir()
        for number, size in enumerate([(40, 32), (48, 64)]):
            Image.new("RGB", size, (200, 10 * number, blue)).save(tmp_path / name / f"{number}.png")
    return tmp_path


@pytest.fixture
def table(folder):
    """Write a table of labels; open the folder with it."""

    def write(content: str | bytes, name: str = "labels.csv") -> pd.DataFrame:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return FolderSource(folder, folder / name).labels

    return write


def refused(path, labels=None, size=None) -> str:
    """What is said, in one line."""
    with pytest.raises((ValueError, FileNotFoundError)) as error, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = FolderSource(path, labels, size)
        for name in source.ids:
            source.images(name)
    assert "\n" not in str(error.value) and "expected" in str(error.value)
    return str(error.value)


# ---------------------------------------------------------------- the folder
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


# ---------------------------------------------------------------- its pictures
def only(folder, name: str, save) -> FolderSource:
    """A source of one picture."""
    (folder / "zoe").mkdir()
    save(folder / "zoe" / name)
    for other in ("ann", "bob"):
        for file in (folder / other).iterdir():
            file.unlink()
        (folder / other).rmdir()
    return FolderSource(folder, size=32)


def test_transparent_pixels_are_white(folder):
    image = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    image.paste((*RED, 255), (0, 0, 32, 16))
    (pixels,) = only(folder, "a.png", image.save).images("zoe")
    np.testing.assert_array_equal(pixels[0, 0], RED)
    np.testing.assert_array_equal(pixels[-1, -1], WHITE)


def test_a_palette_may_be_transparent(folder):
    image = Image.new("P", (32, 32), 1)
    image.putpalette([0, 0, 0, *RED])
    image.paste(0, (0, 0, 32, 16))
    (pixels,) = only(folder, "a.gif", lambda path: image.save(path, transparency=0)).images("zoe")
    np.testing.assert_array_equal(pixels[[0, -1], 0], [WHITE, RED])


def test_sixteen_bits_are_scaled(folder):
    ramp = np.repeat(np.linspace(0, 65535, 32).astype(np.uint16)[None], 32, 0)
    for name in ("a.png", "b.tif"):
        Image.fromarray(ramp).save(folder / name)
        pixels = read_square(folder / name, 32)
        np.testing.assert_allclose(pixels[0, :, 0], np.linspace(0, 255, 32), atol=1)


@pytest.mark.parametrize("mode, colour, seen", [("1", 1, WHITE), ("L", 90, (90, 90, 90)), ("CMYK", (0,) * 4, WHITE)])
def test_other_modes_are_turned_into_colours(folder, mode, colour, seen):
    Image.new(mode, (32, 32), colour).save(folder / "a.tiff")
    np.testing.assert_allclose(read_square(folder / "a.tiff", 16)[8, 8], seen, atol=1)


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_without_a_range_are_refused(folder, kind):
    Image.fromarray(np.ones((32, 32), kind)).save(folder / "ann" / "a.tif")
    assert "32-bit numbers, whose range is not known" in refused(folder)


def test_a_picture_lies_as_its_camera_said(folder):
    upright = Image.new("RGB", (40, 32), WHITE)
    upright.paste(RED, (0, 0, 40, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    upright.rotate(90, expand=True).save(folder / "a.png", exif=exif)
    pixels = read_square(folder / "a.png", 32)
    np.testing.assert_array_equal(pixels[[0, -1], 16], [RED, WHITE])


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.apng", "a.tiff"])
def test_of_moving_pictures_the_first_is_taken(folder, name):
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, WHITE)]
    suffix = {"a.apng": "PNG"}.get(name)
    options = {"lossless": True} if name == "a.webp" else {}
    frames[0].save(folder / "ann" / name, suffix, save_all=True, append_images=frames[1:], **options)
    with pytest.warns(UserWarning, match="its first frame is used"):
        source = FolderSource(folder, size=32)
    assert source.remarks == [f"ann/{name}: its first frame is used"]
    np.testing.assert_allclose(source.images("ann")[-1][16, 16], RED, atol=3)


def test_a_wrong_suffix_of_a_picture_is_no_matter(folder):
    Image.new("RGB", (32, 32), RED).save(folder / "ann" / "a.png", "JPEG")
    assert len(FolderSource(folder).images("ann")) == 3


def test_tiny_pictures_are_enlarged_with_a_word_or_refused(folder):
    with pytest.warns(UserWarning, match=r"ann/0\.png: enlarged from 32 pixels to 65"):
        source = FolderSource(folder, size=65)
    assert source.images("ann").shape == (2, 65, 65, 3) and len(source.remarks) == 2
    assert FolderSource(folder, size=64).remarks == []
    Image.new("RGB", (1, 1)).save(folder / "ann" / "dot.png")
    assert "dot.png: is unusable (1×1 pixels); expected" in refused(folder)


def test_bombs_are_refused(folder, monkeypatch):
    Image.new("L", (300, 200)).save(folder / "ann" / "big.png")
    for limit in (50_000, 20_000):  # Pillow warns, Pillow refuses
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        said = refused(folder)
        assert "big.png: is unusable" in said and ("300×200 pixels" in said or "60000 pixels" in said)


def test_a_photograph_that_is_reduced_while_it_is_decoded_looks_as_if_it_were_not(tmp_path):
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).resize((1500, 1000), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "photo.jpg", quality=95)
    whole = Image.open(tmp_path / "photo.jpg").crop((250, 0, 1250, 1000)).resize((64, 64), Image.Resampling.LANCZOS)
    difference = read_square(tmp_path / "photo.jpg", 64).astype(int) - np.asarray(whole)
    assert np.abs(difference).mean() < 0.5


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has other units elsewhere")
def test_photographs_are_never_held_whole(tmp_path):
    """Twelve of 24 megapixels for 64 pixels take less memory than one of them has (72 MB)."""
    (tmp_path / "zoe").mkdir()
    Image.new("RGB", (6000, 4000), RED).save(tmp_path / "zoe" / "0.jpg")
    for number in range(1, 12):
        os.link(tmp_path / "zoe" / "0.jpg", tmp_path / "zoe" / f"{number}.jpg")
    code = (
        "import resource, sys; from w2w_lib.people.folders import FolderSource\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); images = FolderSource(sys.argv[1], size=64).images('zoe'); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40_000  # kB


def damage(folder, kind: str) -> None:
    path = folder / "ann" / f"{kind}.png"
    whole = (folder / "ann" / "0.png").read_bytes()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(path))
    elif kind == "cut jpeg":
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path, "JPEG")
        path.write_bytes(path.read_bytes()[:-800])
    else:
        content = {"empty": b"", "text": b"no image", "cut": whole[:-30], "flipped": whole[:50] + b"\xff" + whole[51:]}
        path.write_bytes((content | {"script": b"%!PS-Adobe-3.0 EPSF-3.0\n"})[kind])


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "empty", "text", "cut", "flipped", "cut jpeg", "script"])
@pytest.mark.timeout(20)
def test_what_cannot_be_read_is_refused_by_name(folder, kind):
    damage(folder, kind)
    assert f"{kind}.png: is" in refused(folder)


def test_what_may_not_be_read_is_refused_by_name(folder, monkeypatch):
    def denied(*args, **kwargs):  # as root, who runs tests in containers, may read everything
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(Image, "open", denied)
        assert "0.png: is unusable (Permission denied)" in refused(folder)
    monkeypatch.setattr(type(folder), "iterdir", denied)
    assert "cannot be listed (Permission denied)" in refused(folder)


# ---------------------------------------------------------------- labels
@pytest.mark.filterwarnings("ignore::UserWarning")  # tested below
def test_labels_are_truths_in_every_spelling(table):
    labels = table("id,Male,Young,Cap,Hat,age\nbob,1,-1,TRUE,0.0,50\nann,0,1,false,1.0,30\n")
    expected = {"Male": [False, True], "Young": [True, False], "Cap": [False, True], "Hat": [True, False]}
    pd.testing.assert_frame_equal(
        labels, pd.DataFrame(expected | {"age": [30.0, 50.0]}, pd.Index(["ann", "bob"], name="id"))
    )


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_delimiters_and_a_byte_order_mark_are_understood(table, mark):
    text = f'name{mark}Male\r\n"ann"{mark} 1\r\n\r\nbob{mark}0\r\n'
    assert list(table(text.encode("utf-8-sig"))["Male"]) == [True, False]
    text = f'name{mark}"a,b;c,d;e"{mark}Male\nann{mark}1{mark}1\nbob{mark}0{mark}0\n'
    assert list(table(text)["Male"]) == [True, False]


@pytest.mark.filterwarnings("ignore::UserWarning")  # tested below
def test_a_tsv_and_a_parquet_of_any_form_are_read(folder, table):
    assert list(table("name\tMale\nann\t1\nbob\t0\n", "labels.TSV")["Male"]) == [True, False]
    frame = pd.DataFrame({"Male": [True, False], "Young": [0.0, 1.0]}, index=["bob", "ann"])
    by_column = frame.reset_index(names="name")
    as_objects = by_column.astype(object)
    for labels in (frame, by_column, as_objects, frame.astype("boolean"), by_column.astype({"name": "category"})):
        labels.to_parquet(folder / "labels.parquet")
        for given in (folder / "labels.parquet", labels):
            read = FolderSource(folder, given).labels
            assert list(read["Male"]) == [False, True] and list(read["Young"]) == [True, False]
            assert set(read.dtypes) == {np.dtype(bool)} and list(read.index) == ["ann", "bob"]


def test_rows_of_nobody_and_columns_that_are_no_labels_are_said(folder):
    (folder / "labels.csv").write_text("id,Male,age,note\nann,1,30,\neve,0,2,x\nbob,0,50,likes 1 and 0\n")
    with pytest.warns(UserWarning, match="rows for people without a folder: eve"):
        source = FolderSource(folder, folder / "labels.csv")
    assert source.remarks[1].endswith("columns that are no labels: age, note")
    assert list(source.labels["age"]) == [30, 50] and source.labels["Male"].dtype == bool


@pytest.mark.parametrize(
    "content, said",
    [
        ("id,Male\nann,1\n", "no row for bob"),
        ("id,Male\nann,1\nann,0\nbob,1\n", "several rows for ann"),
        ("id,Male\nann,1\nbob,2\n", "column 'Male', row 'bob' has '2'; expected 0 or 1"),
        ("id,Male\nann,1\nbob,\n", "column 'Male', row 'bob' has no value"),
        ("id,Male\nann,1\nbob,NaN\n", "column 'Male', row 'bob' has"),
        ("id,Male\nann,yes\nbob,1\n", "column 'Male', row 'ann' has 'yes'"),
        ("id,Male\nann,0.5\nbob,1\n", "column 'Male', row 'ann' has '0.5'"),
        ("id,Male\nann,inf\nbob,1\n", "column 'Male', row 'ann' has 'inf'"),
        ("id,Male\nann,-1\nbob,0\n", "column 'Male' has -1 and 0"),
        ("id,Male\nann,\nbob,\n", "column 'Male', row 'ann' has no value"),
        ("id,Male\nann,yes\nbob,no\n", "no column of labels"),
        ("id,Male,Male\nann,1,0\nbob,0,1\n", "column 'Male' has the name of another column"),
        ("id,Male, Male\nann,1,0\nbob,0,1\n", "column 'Male' has the name of another column"),
        ("id,id\nann,1\nbob,0\n", "column 'id' has the name of another column"),
        ("id,\nann,1\nbob,0\n", "column '' has no name of one line"),
        ('id,"a\nb"\nann,1\nbob,0\n', "no name of one line"),
        ("id,Male\nann,1\n,0\nbob,0\n", "1 rows have no name"),
        ("id|Male\nann|1\nbob|0\n", "has one column"),
        ("id\nann\nbob\n", "has one column"),
        ("id,Ma\u2028le\nann,1\nbob,0\n", "no name of one line"),
        ("<html>" + "a b " * 50_000, "is damaged"),
        ("id,Male\nann,1,1\nbob,0\n", "line 2 has 3 cells, not 2"),
        ('id,Male\nann,1\nbob,"0\n', "is damaged"),
        ("", "is empty"),
        ("\n\n", "has no rows"),
        ("id,Male\n", "no row for ann, bob"),
        ("id,Mâle\nann,1\nbob,0\n".encode("latin-1"), "is not UTF-8 \\(byte 4\\)"),
        ("id,Male\nann,1\nbob,0\n".encode("utf-16"), "is not UTF-8"),
        ("id,Male\nann,1\nbob,0\n".encode("utf-16-le"), "is no text"),
    ],
)
def test_wrong_tables_are_refused_in_a_line(folder, table, content, said):
    with pytest.raises(ValueError, match=said) as error:
        table(content)
    assert "\n" not in str(error.value) and "expected" in str(error.value)


@pytest.mark.timeout(20)
def test_what_is_no_table_is_refused(folder, table, tmp_path_factory, unchecked):
    away = tmp_path_factory.mktemp("labels")
    for path in (away / "labels.csv", away / "labels.parquet"):
        assert "no such file" in refused(folder, path)
        os.mkfifo(path)
        assert "is no regular file" in refused(folder, path)
        path.unlink()
        path.mkdir()
        assert "is a folder" in refused(folder, path)
    for wrong in (b"no table", b"PAR1PAR1", b"\x80\x04K\x01."):
        with pytest.raises(ValueError, match=r"labels\.parquet: is no whole Parquet file \(.*expected"):
            table(wrong, "labels.parquet")
    for wrong in ({"ann": 1}, pd.Series({"ann": 1, "bob": 0}), b"labels.csv", "labels\0.csv"):
        assert "is no path; expected the path of a CSV or Parquet file" in refused(folder, wrong)
    with pytest.raises(ValueError, match="is of an unknown kind"):
        table("id,Male\n", "labels.xlsx")


def test_wrong_parquets_are_refused(folder):
    names = pd.Index(["ann", "bob"])
    wrong = {
        "has no value": pd.DataFrame({"Male": [True, None]}, names, dtype=object),
        "row 'ann' has ": pd.DataFrame({"Male": [b"x", 1]}, names, dtype=object),
        "1 rows have no name": pd.DataFrame({"id": ["ann", "bob", None], "Male": [1, 0, 1]}),
        "no row for ann, bob": pd.DataFrame({"id": [1, 2], "Male": [1, 0]}),
        "no columns of labels by name": pd.DataFrame({"Male": [1, 0]}, pd.MultiIndex.from_tuples([("a", 1), ("b", 2)])),
        "has no name of one line": pd.DataFrame({"id": ["ann", "bob"], 3: [1, 0]}),
    }
    for said, labels in wrong.items():
        assert said in refused(folder, labels), said
