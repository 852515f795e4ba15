"""A folder with one folder of pictures for each identity."""

import hashlib
import os
import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from w2w_lib.inputs import a_path, some, whole_number
from w2w_lib.people.labels import known_identity, read_labels
from w2w_lib.people.pictures import SIZES, SUFFIXES, Picture, check_name, look_at, read_square

UPSCALED = 2  # pictures that are enlarged more than so many times are named


class FolderSource:
    """A folder with one folder of pictures per identity, optionally with labels keyed by folder name.

    Every picture's header is checked here, and decoded in ``images``. Links are followed. ``remarks`` says what was
    skipped (files that are no pictures, hidden ones, folders in folders, broken links) and what was used although it
    may not be meant (first frames, enlarged pictures, equal pictures and names, labels of nobody); a warning gives the
    first few. ``size`` is by default the side of the smallest picture, but at most the largest of ``SIZES``.
    """

    def __init__(self, path: str | Path, labels: str | Path | pd.DataFrame | None = None, size: int | None = None):
        self.path, self.remarks = a_path(path, "a folder with one folder of pictures for each identity"), []
        _check_root(self.path)
        folders = self._identity_folders(labels)
        self._pictures: dict[str, list[Picture]] = {folder.name: self._pictures_in(folder) for folder in folders}
        self.ids = list(self._pictures)
        pictures = [picture for own in self._pictures.values() for picture in own]
        smallest = min(SIZES[1], *(picture.side for picture in pictures))
        self.size = smallest if size is None else whole_number("size", size, *SIZES)
        self.labels: pd.DataFrame | None = None
        if labels is not None:
            self.labels, said = read_labels(labels, self.ids)
            self.remarks += said
        self.remarks += _alike_names(self.ids)
        self.remarks += [f"{self._shown(a)}: the same picture as {self._shown(b)}" for a, b in _equal_files(pictures)]
        for picture in pictures:
            if picture.animated:
                self.remarks.append(f"{self._shown(picture.path)}: its first frame is used")
            if picture.side * UPSCALED < self.size:
                self.remarks.append(f"{self._shown(picture.path)}: enlarged from {picture.side} pixels to {self.size}")
        if self.remarks:
            warnings.warn(f"{self.path}: {some(self.remarks)}", stacklevel=2)

    def images(self, id: str) -> UInt8[np.ndarray, "views size size 3"]:
        """Pictures of one identity, cropped to centred squares of one size; only the resized ones are kept."""
        known_identity(id, self._pictures, str(self.path))
        return np.stack([read_square(picture.path, self.size) for picture in self._pictures[id]])

    def _identity_folders(self, labels: str | Path | pd.DataFrame | None) -> list[Path]:
        folders, skipped = _sorted_out(self.path, lambda entry: "" if os.path.isdir(entry) else "no folder")
        if isinstance(labels, (str, Path)):
            skipped = {entry: why for entry, why in skipped.items() if not _same_file(entry, Path(labels).expanduser())}
        self._say(skipped)
        for folder in folders:
            check_name(folder)
        if not folders:
            raise ValueError(
                f"{self.path}: no identity folders; expected a folder of pictures for each identity; create them"
            )
        return folders

    def _pictures_in(self, folder: Path) -> list[Picture]:
        files, skipped = _sorted_out(folder, _no_picture)
        self._say(skipped)
        if not files:
            raise ValueError(
                f"{folder}: no pictures in this identity's folder; expected at least one of "
                f"{', '.join(sorted(SUFFIXES))}; add pictures or remove the folder"
            )
        return [look_at(file) for file in files]

    def _say(self, skipped: dict[Path, str]) -> None:
        self.remarks += [f"{self._shown(entry)}: skipped, {why}" for entry, why in skipped.items()]

    def _shown(self, path: Path) -> str:
        text = str(path.relative_to(self.path))
        return text if text.isprintable() else repr(text)


def _check_root(root: Path) -> None:
    expected = "expected a folder with one folder of pictures for each identity; check the path"
    if not os.path.lexists(root):
        raise FileNotFoundError(f"{root}: no such folder; {expected}")
    if not os.path.isdir(root):
        raise ValueError(f"{root}: is no folder; {expected}")


def _sorted_out(folder: Path, unwanted: Callable[[Path], str]) -> tuple[list[Path], dict[Path, str]]:
    """What to use of a folder, and why the rest is skipped."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be listed ({error.strerror}); expected a folder that may be read; change its permissions"
        ) from None
    reasons = {entry: _hidden_or_broken(entry) or unwanted(entry) for entry in entries}
    return [entry for entry in entries if not reasons[entry]], {entry: why for entry, why in reasons.items() if why}


def _hidden_or_broken(entry: Path) -> str:
    return "hidden" if entry.name.startswith(".") else "" if os.path.exists(entry) else "a broken link"


def _no_picture(entry: Path) -> str:
    if os.path.isdir(entry):
        return "a folder in an identity's folder"
    return "" if entry.suffix.lower() in SUFFIXES else "no suffix of a picture"


def _same_file(first: Path, second: Path) -> bool:
    return os.path.exists(first) and os.path.exists(second) and os.path.samefile(first, second)


def _alike_names(names: Iterable[str]) -> Iterator[str]:
    """Remarks on names that differ in capitals or in how accents are encoded alone."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            yield f"{name}: another identity than {other}"


def _equal_files(pictures: Iterable[Picture]) -> Iterator[tuple[Path, Path]]:
    """Files whose bytes are those of an earlier one, each with that one; only files of one length are read."""
    of_length: dict[int, list[Path]] = defaultdict(list)
    for picture in pictures:
        of_length[picture.path.stat().st_size].append(picture.path)
    for paths in of_length.values():
        first: dict[bytes, Path] = {}
        for path in paths if len(paths) > 1 else []:
            with path.open("rb") as file:
                other = first.setdefault(hashlib.file_digest(file, "sha256").digest(), path)
            if other != path:
                yield path, other
