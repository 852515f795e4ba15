"""Identities with their pictures and labels, rendered or read from a folder, behind one interface."""

import multiprocessing
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from .anatomy import load_anatomy
from .captions import caption_full
from .person import ATTRIBUTES, sample_person
from .render import render
from .view import sample_view

SPLITS = ("base", "train", "heldout", "judge")  # names that `open_source` renders; any other name is a path
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
_THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@runtime_checkable
class IdentitySource(Protocol):
    """Anything with identities: their names, their pictures and perhaps their labels (indexed by name)."""

    ids: list[str]
    labels: pd.DataFrame | None

    def images(self, id: str) -> np.ndarray:
        """All pictures of an identity, uint8 (views, height, width, 3)."""
        ...


# ---------------------------------------------------------------- rendered
def render_population(
    split: str,
    indices: Iterable[int],
    views: int,
    size: int = 64,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Images uint8 (people, views, size, size, 3) and a table of one row per picture.

    The result does not depend on the number of processes, `workers`: one for each core if it is not given.
    """
    indices = [int(index) for index in indices]
    images = np.empty((len(indices), views, size, size, 3), np.uint8)
    rows: list[dict] = []
    if indices:
        load_anatomy()  # build the assets once, before any worker asks for them
    bar = tqdm(total=len(indices), desc=f"Rendering {split}", unit="person", disable=not progress)
    with bar:
        for position, (pictures, described) in enumerate(_render_all(split, indices, views, size, workers)):
            images[position] = pictures
            rows += described
            bar.update()
    return images, pd.DataFrame(rows)


def _render_all(split: str, indices: Sequence[int], views: int, size: int, workers: int | None):
    tasks = [(split, index, views, size) for index in indices]
    workers = min(workers or os.cpu_count() or 1, len(tasks))
    if workers <= 1:
        yield from map(_render_identity, tasks)
        return
    before = {name: os.environ.get(name) for name in _THREAD_LIMITS}
    os.environ.update(dict.fromkeys(_THREAD_LIMITS, "1"))  # inherited by the workers
    try:
        pool = multiprocessing.get_context("spawn").Pool(workers)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    with pool:
        yield from pool.imap(_render_identity, tasks, chunksize=max(1, min(16, len(tasks) // (4 * workers))))


def _render_identity(task: tuple[str, int, int, int]) -> tuple[np.ndarray, list[dict]]:
    split, index, count, size = task
    person = sample_person(split, index)
    labels = person.labels
    pictures = np.empty((count, size, size, 3), np.uint8)
    rows = []
    for number in range(count):
        view = sample_view(split, index, number)
        pictures[number] = render(person, view, size)
        fields = {**asdict(view), "pose": view.pose, "light": view.light}
        rows.append({"person": index, "view": number, "caption_full": caption_full(person, view), **fields, **labels})
    return pictures, rows


class RenderedSource:
    """People `0 ... people - 1` of a split, rendered when asked for."""

    def __init__(self, split: str, people: int = 100, views: int = 8, size: int = 64):
        self.split, self.views, self.size = split, views, size
        self.ids = [str(index) for index in range(people)]
        persons = [sample_person(split, index) for index in range(people)]
        self.labels: pd.DataFrame | None = pd.DataFrame(
            [person.labels for person in persons],
            index=pd.Index(self.ids, name="id"),
            columns=list(ATTRIBUTES),
        )

    def images(self, id: str) -> np.ndarray:
        """Pictures of one person, uint8 (views, size, size, 3)."""
        _check_known(id, self.ids, f"split {self.split!r}")
        person = sample_person(self.split, int(id))
        views = (sample_view(self.split, person.index, number) for number in range(self.views))
        return np.stack([render(person, view, self.size) for view in views])


# ---------------------------------------------------------------- a user's folder
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


def _check_known(id: str, ids: Sequence[str], where: str) -> None:
    if id not in ids:
        raise ValueError(f"Unknown identity {id!r} in {where}: expected one of {_some(ids)}")


def _some(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


_DAMAGE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)


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


def _read_labels(labels: str | Path | pd.DataFrame, ids: Sequence[str]) -> pd.DataFrame:
    """Labels of exactly `ids`, in their order, indexed by the table's first column (or its "id" column)."""
    if isinstance(labels, pd.DataFrame):
        table, name = labels.copy(), "the labels table"
    else:
        path = Path(labels)
        name = f"labels file {path}"
        if not path.is_file():
            raise ValueError(f"No {name}: expected a CSV or Parquet file keyed by folder name; check the path")
        if path.suffix.lower() not in (".csv", ".parquet"):
            raise ValueError(f"Unknown type of {name}: expected .csv or .parquet; convert it")
        try:
            table = _read_table(path)
        except (ValueError, OSError) as error:  # parser errors of pandas and pyarrow are ValueErrors
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"Cannot read {name}: expected a table of labels ({reason}); write it again") from error
    table.index = table.index.astype(str)
    twice = sorted(set(table.index[table.index.duplicated()]))
    if twice:
        raise ValueError(f"{name} has several rows for: {_some(twice)}; expected one row per folder, remove the others")
    missing = [id for id in ids if id not in table.index]
    if missing:
        raise ValueError(
            f"{name} has no row for: {_some(missing)}; expected one row per folder name in its first column, add them"
        )
    return table.loc[list(ids)].apply(_as_truth)


def _as_truth(column: pd.Series) -> pd.Series:
    """A label of 0 and 1, or of -1 and 1 as in CelebA, as False and True; any other column as it is."""
    values = set(column)
    return column > 0 if values <= {0, 1} or values <= {-1, 1} else column


def _read_table(path: Path) -> pd.DataFrame:
    if path.suffix.lower() == ".csv":
        first = pd.read_csv(path, nrows=0).columns
        key = "id" if "id" in first else first[0]
        return pd.read_csv(path, dtype={key: str}).set_index(key)
    table = pd.read_parquet(path)
    if isinstance(table.index, pd.RangeIndex):
        table = table.set_index("id" if "id" in table.columns else table.columns[0])
    return table


def open_source(
    path_or_split: str | Path,
    labels: str | Path | pd.DataFrame | None = None,
    *,
    people: int = 100,
    views: int = 8,
    size: int | None = None,
) -> IdentitySource:
    """Identities of a folder of image folders, or of a rendered split (one of `SPLITS`)."""
    text = str(path_or_split)
    if text in SPLITS and not isinstance(path_or_split, Path):
        if labels is not None:
            raise ValueError(f"Split {text!r} knows its labels: expected no others; leave them out or give a path")
        return RenderedSource(text, people, views, size or 64)
    folder = Path(text).expanduser()
    if not folder.exists():
        raise ValueError(
            f"No folder at {folder}: expected a folder with one folder of images per identity, "
            f"or a rendered split ({', '.join(SPLITS)}); check the path"
        )
    return FolderSource(folder, labels, size)
