"""The door of every picture file: what it is, and its centred square at the size that is wanted."""

import math
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from w2w_lib.files.regular import regular_file
from w2w_lib.inputs import whole_number

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # no other of Pillow's decoders is tried
SUFFIXES = frozenset({".apng", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
LEAST_SIDE = 16  # pixels; nobody is recognisable in fewer
SIZES = (LEAST_SIDE, 2048)  # pixels a side that people are shown in, least and most
DRAFT_GAP = 4  # a JPEG is decoded at no less than so many times the wanted size, and resampled from there

_EXPECTED = f"a whole picture ({', '.join(FORMATS)}) of at least {LEAST_SIDE} pixels a side"
_REMEDY = "replace or remove it"


@dataclass(frozen=True)
class Picture:
    """A picture file that was looked at and not decoded."""

    path: Path
    side: int  # of its centred square, in pixels
    animated: bool  # or of several pages: its first frame is the picture


def look_at(path: str | Path) -> Picture:
    """Check a picture's header; ValueError for what is no picture, too small, or larger than Pillow's limit."""
    check_name(path := Path(path))
    with _opened(path) as image:
        # A phone's JPEG (MPO) may hold a preview beside the picture.
        animated = image.format != "MPO" and getattr(image, "is_animated", False)
        if min(image.size) < LEAST_SIDE:
            raise ValueError(f"{image.width}×{image.height} pixels")
        picture = Picture(path, min(image.size), animated)
        image.verify()
    return picture


def read_square(path: str | Path, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The upright centred square of a picture, resampled to ``size`` pixels a side.

    Transparent pixels are laid on white, 16-bit grey is scaled to 8 bits, and of several frames the first is taken. A
    JPEG is reduced while it is decoded. ValueError for a damaged file and for numbers without a known range.
    """
    size = whole_number("size", size, *SIZES)
    with _opened(path) as image:
        least = DRAFT_GAP * size / min(image.size)
        image.draft(None, (math.ceil(least * image.width), math.ceil(least * image.height)))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = _as_rgb(image.crop((left, top, left + side, top + side)))
        return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))


def read_picture(path: str | Path, longest: int) -> UInt8[np.ndarray, "height width 3"]:
    """The upright picture, its longer side reduced to at most ``longest`` pixels; otherwise as ``read_square``."""
    longest = whole_number("longest", longest, LEAST_SIDE)
    with _opened(path) as image:
        image.draft(None, (longest, longest))
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        picture = _as_rgb(image)
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        return np.asarray(picture)


def check_name(path: Path) -> None:
    """ValueError for a name with control characters, line breaks or bytes that are not UTF-8."""
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in path.name):
        raise ValueError(
            f"{path.name!r} in {str(path.parent)!r}: the name has control characters or bytes that are not UTF-8; "
            "expected printable text; rename it"
        )


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """An opened picture; whatever goes wrong while it is open is a ValueError of one line that names the file."""
    path = regular_file(path, _EXPECTED, _REMEDY)
    try:
        with Image.open(path, formats=FORMATS) as image:
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"{image.width}×{image.height} pixels, more than {Image.MAX_IMAGE_PIXELS}")
            yield image
    except Exception as error:  # decoders raise errors of any kind on damaged files
        raise ValueError(f"{path}: is unusable ({_reason(error)}); expected {_EXPECTED}; {_REMEDY}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "of another format, or damaged"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}: 32-bit numbers, whose range is not known")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")
