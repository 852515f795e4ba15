"""A folder with one folder of pictures for each identity."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError

from w2w_lib.people.labels import _check_known, _read_labels

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


_DAMAGE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class FolderSource:
    """A folder with one folder of pictures per identity, optionally with labels keyed by folder name."""

    def __init__(self, path: str | Path, labels: str | Path | pd.DataFrame | None = None, size: int | None = None):
        self.path, self.size = Path(path), size
        if not self.path.is_dir():
            raise ValueError(
                f"No folder at {self.path}: expected a folder with one folder of images per identity; check the path"
            )
        folders = sorted(entry for entry in self.path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if not folders:
            raise ValueError(
                f"No identity folders in {self.path}: expected one folder of images per identity; create them"
            )
        self._files: dict[str, list[Path]] = {}
        for folder in folders:
            files = sorted(file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
            if not files:
                raise ValueError(
                    f"No images in identity folder {folder}: expected at least one of "
                    f"{', '.join(sorted(IMAGE_SUFFIXES))}; add images or remove the folder"
                )
            for file in files:
                _check_image(file)
            self._files[folder.name] = files
        self.ids = list(self._files)
        self.labels: pd.DataFrame | None = None if labels is None else _read_labels(labels, self.ids)

    def images(self, id: str) -> np.ndarray:
        """Pictures of one identity, cropped to centred squares of one size, uint8 (views, size, size, 3)."""
        _check_known(id, self.ids, str(self.path))
        squares = [_read_square(file) for file in self._files[id]]
        size = self.size or min(square.width for square in squares)
        return np.stack([np.asarray(square.resize((size, size), Image.Resampling.LANCZOS)) for square in squares])


def _damaged(file: Path) -> ValueError:
    return ValueError(f"Cannot read image {file}: expected a whole image file; replace or remove it")


def _check_image(file: Path) -> None:
    """Raise if the file is no image or its checks fail, without decoding it."""
    try:
        with Image.open(file) as image:
            image.verify()
    except _DAMAGE as error:
        raise _damaged(file) from error


def _read_square(file: Path) -> Image.Image:
    """The upright centred square of an image."""
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
    except _DAMAGE as error:
        raise _damaged(file) from error
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
