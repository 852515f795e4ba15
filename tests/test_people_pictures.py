"""Pictures as users have them: used rightly, or refused by name."""

import errno
import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from people_folder import RED, WHITE, refused
from PIL import Image

from w2w_lib.people.folders import FolderSource
from w2w_lib.people.pictures import read_square


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
