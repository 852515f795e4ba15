"""Photographs: a known rotation is undone, the mask goes with the picture, none and several faces are refused."""

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from w2w_lib.evaluation.photos import framed, load_photo


def near(a, b) -> float:
    """Mean difference of the middle, which a rotation does not leave black."""
    middle = slice(16, 48)
    return float(np.abs(a[middle, middle].astype(int) - b[middle, middle]).mean())


def test_a_leaning_face_is_turned_upright():
    upright = framed(astronaut(), 64)
    for degrees in (25, -25):  # Pillow turns counter-clockwise
        leaning = np.asarray(Image.fromarray(astronaut()).rotate(degrees, Image.Resampling.BICUBIC, expand=True))
        found = framed(leaning, 64)
        turned = float(found.said.split("turned by ")[1].split()[0])
        assert turned == pytest.approx(-degrees, abs=8)
        assert near(found.image, upright.image) < 0.6 * near(found.image, upright.image[:, ::-1])


def test_image_and_mask_are_cut_as_one():
    photo = astronaut()
    photo[:, 256:] = (photo[:, 256:] * 0.3).astype(np.uint8)  # dark on the right, which is outside the mask
    found = framed(photo, 64, np.arange(512)[None] * np.ones((512, 1)) < 256)
    edge = int(found.mask.argmin(1).mean())  # the first column outside
    bright = found.image.astype(int).sum(2)[:, [edge - 2, edge + 2]].mean(0)
    assert 0 < edge < 64 and bright[0] > 1.5 * bright[1] and "a mask over" in found.said
    cells = found.cells(8)
    assert cells.shape == (1, 1, 8, 8) and cells.mean() == pytest.approx(found.mask.mean())
    assert framed(photo, 64).cells(8) is None


def test_files_and_refusals(tmp_path):
    Image.fromarray(astronaut()).save(tmp_path / "photo.png")
    Image.fromarray(np.full((512, 512), 255, np.uint8)).save(tmp_path / "mask.png")
    Image.new("L", (512, 512)).save(tmp_path / "empty.png")
    Image.new("L", (512, 300)).save(tmp_path / "other.png")
    found = load_photo(tmp_path / "photo.png", 64, tmp_path / "mask.png")
    assert found.image.shape == (64, 64, 3) and found.mask.mean() > 0.9
    face = Image.fromarray(astronaut()).crop((130, 0, 330, 256))
    both = Image.new("RGB", (400, 256))
    both.paste(face, (0, 0)), both.paste(face, (200, 0))
    both.save(tmp_path / "both.png")
    for arguments, error in [
        ((tmp_path / "both.png", 64), "both.png: the photograph shows 2 faces of similar size: crop it"),
        ((tmp_path / "photo.png", 64, tmp_path / "empty.png"), "photo.png: the mask has no pixel in the face's frame"),
        ((tmp_path / "photo.png", 64, tmp_path / "other.png"), r"mask of type bool and shape \(300, 512\): expected"),
    ]:
        with pytest.raises(ValueError, match=error):
            load_photo(*arguments)
