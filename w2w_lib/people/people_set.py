"""A set of people: their pictures, what each picture shows, and their labels; in memory and on disk."""

import hashlib
from collections.abc import Hashable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from w2w_lib.files.atomic import make_folder, replacing
from w2w_lib.files.regular import regular_file
from w2w_lib.files.tables import read_parquet
from w2w_lib.inputs import a_path, instance, some, whole_number
from w2w_lib.models.images import encode_images
from w2w_lib.people.folders import FolderSource
from w2w_lib.people.labels import as_truths, known_identity
from w2w_lib.people.rendered.person import ATTRIBUTES
from w2w_lib.people.rendered.population import render_population

_EXPECTED = "a saved set of people (images.npy, pictures.parquet, labels.parquet)"
_REMEDY = "make and save it again"


@dataclass(frozen=True)
class People:
    """Pictures (uint8, all of one size), one table row for each picture, one labels row for each identity.

    ``pictures`` has at least the column ``id``, and a column ``context`` where it is known what a picture shows beside
    the person; ``labels`` is indexed by identity and may have no columns. ValueError where these do not agree.
    """

    images: UInt8[np.ndarray, "pictures height width 3"]
    pictures: pd.DataFrame
    labels: pd.DataFrame

    def __post_init__(self):
        instance("people: images", self.images, np.ndarray)
        instance("people: the table of pictures", self.pictures, pd.DataFrame)
        instance("people: labels", self.labels, pd.DataFrame)
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[3] != 3:
            found = f"{self.images.dtype} {self.images.shape}"
            raise ValueError(f"people: images are {found}; expected uint8 (pictures, height, width, 3)")
        if not self.images.size:
            raise ValueError("people: no pictures; expected at least one")
        if "id" not in self.pictures or len(self.pictures) != len(self.images):
            columns = some(list(self.pictures.columns))
            found = f"the table of pictures has {len(self.pictures)} rows, and columns {columns}"
            raise ValueError(f"people: {found}; expected {len(self.images)} rows, and a column 'id'")
        ids = self.pictures["id"]
        if ids.ndim != 1 or ids.isna().any() or not all(isinstance(name, Hashable) for name in ids):
            raise ValueError("people: the column 'id' of the table of pictures has other things than names")
        if self.labels.index.has_duplicates:
            raise ValueError(f"people: labels twice for {some(self.labels.index[self.labels.index.duplicated()])}")
        if differing := sorted(map(str, set(ids) ^ set(self.labels.index))):
            raise ValueError(f"people: {some(differing)} have pictures or labels alone; expected both of everybody")

    @classmethod
    def render(cls, split: str, count: int, views: int, size: int = 64, first_view: int = 0) -> "People":
        """The first ``count`` people of a split of the pocket world, ``views`` of each from ``first_view`` on."""
        people = range(whole_number("count", count))
        images, table = render_population(split, people, views, size, first_view=first_view)
        table.insert(0, "id", [identity_name(split, i) for i in table["person"]])
        labels = table.drop_duplicates("id").set_index("id")[list(ATTRIBUTES)].astype(bool)
        pictures = table.drop(columns=list(ATTRIBUTES))
        return cls(images.reshape(-1, *images.shape[2:]), pictures, labels)

    @classmethod
    def read(cls, source: FolderSource, ids: list[str] | None = None) -> "People":
        """Identities (all, or those named) of a source, say a user's folder of image folders."""
        instance("source", source, FolderSource)
        if not isinstance(ids, Iterable | None):
            raise ValueError(f"ids: expected a list of names, found {ids!r}")
        ids = list(source.ids if ids is None else ids)
        parts = [source.images(i) for i in tqdm(ids, desc="read people", unit="person")]
        pictures = pd.DataFrame({"id": [i for i, own in zip(ids, parts, strict=True) for _ in own]})
        index = pd.Index(ids, name="id")
        labels = pd.DataFrame(index=index) if source.labels is None else source.labels.loc[ids].set_axis(index)
        return cls(_joined(parts), pictures, labels)

    @property
    def ids(self) -> list[str]:
        return list(self.labels.index)

    def of(self, identity: str) -> UInt8[np.ndarray, "pictures height width 3"]:
        """The pictures of one identity; ValueError for one that is not there."""
        known_identity(identity, self._rows, "this set of people")
        return self.images[self._rows[identity]]

    def parted(self, apart: int) -> tuple["People", "People"]:
        """The same people twice: without and with only the last ``apart`` pictures of each, at most half of them.

        Who has a single picture has it in both.
        """
        last, rows = whole_number("apart", apart), list(map(self._rows.get, self.ids))
        counts = [min(last, len(own) // 2) for own in rows]
        kept = [own[: len(own) - count] for own, count in zip(rows, counts, strict=True)]
        others = [own[-max(count, 1) :] for own, count in zip(rows, counts, strict=True)]
        return tuple(self._only(np.concatenate(part), self.labels) for part in (kept, others))

    def only(self, ids: list[str]) -> "People":
        """These people alone, in this order; ValueError for one that is not there."""
        for identity in ids:
            known_identity(identity, self._rows, "this set of people")
        return self._only(np.concatenate([self._rows[i] for i in ids]), self.labels.loc[list(ids)])

    def _only(self, rows: Int[np.ndarray, " pictures"], labels: pd.DataFrame) -> "People":
        return People(self.images[rows], self.pictures.iloc[rows].reset_index(drop=True), labels)

    def fingerprints(self) -> dict[str, str]:
        """By identity, a hash of its pictures."""
        return {i: hashlib.sha256(self.images[self._rows[i]].tobytes()).hexdigest()[:16] for i in self.ids}

    def contexts(self) -> dict[str, list[str]]:
        """By identity, what each picture shows beside the person; of nobody where that is not known of any."""
        if "context" not in self.pictures:
            return {}
        said = self.pictures["context"].fillna("").to_numpy(str)
        return {i: said[self._rows[i]].tolist() for i in self.ids}

    def latents(
        self, pipeline: StableDiffusionPipeline, batch_pixels: int = 2**20
    ) -> dict[str, Float[Tensor, "pictures channels height width"]]:
        """Scaled latents of every identity's pictures, encoded about ``batch_pixels`` at a time.

        ValueError for pictures whose sides are no multiples of what the base makes one latent of.
        """
        high, wide = self.images.shape[1:3]
        cell = pipeline.vae_scale_factor
        if high % cell or wide % cell:
            raise ValueError(
                f"pictures of {high}×{wide} pixels: expected sides that {cell} divides, as this base encodes "
                f"{cell}×{cell} pixels to one latent; make the pictures at another size"
            )
        count = max(1, whole_number("batch_pixels", batch_pixels) // (high * wide))
        parts = (np.array(self.images[first : first + count]) for first in range(0, len(self.images), count))
        latents = torch.cat([encode_images(pipeline, part).cpu() for part in parts])
        return {i: latents[self._rows[i]] for i in self.ids}

    def save(self, folder: str | Path) -> None:
        """Write the set as a folder, complete or not at all: where writing fails, an earlier set stays."""
        folder = make_folder(a_path(folder, _EXPECTED))
        with ExitStack() as files:  # the labels, entered first, are put in their place last
            names = ("labels.parquet", "pictures.parquet", "images.npy")
            labels, pictures, images = (files.enter_context(replacing(folder / name)) for name in names)
            np.save(images, self.images, allow_pickle=False)
            self.pictures.to_parquet(pictures)
            self.labels.to_parquet(labels)
            (folder / names[0]).unlink(missing_ok=True)  # while it is not there, neither is the set

    @classmethod
    def load(cls, folder: str | Path) -> "People":
        """Read a saved set, its pictures as a memory map.

        FileNotFoundError if the folder holds none, ValueError if its files are damaged or do not belong together.
        """
        folder = a_path(folder, _EXPECTED)
        labels = read_parquet(folder / "labels.parquet", _EXPECTED, _REMEDY)
        pictures = read_parquet(folder / "pictures.parquet", _EXPECTED, _REMEDY)
        path = regular_file(folder / "images.npy", _EXPECTED, _REMEDY)
        try:
            images = np.load(path, mmap_mode="r", allow_pickle=False)
            if not isinstance(images, np.ndarray):
                raise ValueError("an archive of several arrays")
        except Exception as error:  # damaged headers raise errors of any kind
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{path}: is no array ({reason}); expected {_EXPECTED}; {_REMEDY}") from None
        try:
            return cls(images, pictures, as_truths(labels, "labels.parquet"))
        except ValueError as error:
            raise ValueError(f"{folder}: {error}; {_REMEDY}") from None

    @cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        return self.pictures.groupby("id", sort=False).indices


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """The parts as one array; each is let go when it is copied, so that the whole is held about once."""
    if not parts:
        raise ValueError("no people to read: expected at least one identity")
    joined, first = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), np.uint8), 0
    parts.reverse()
    while parts:
        part = parts.pop()
        joined[first : first + len(part)] = part
        first += len(part)
    return joined


def identity_name(split: str, index: int) -> str:
    """The identity's name in files and tables, such as ``train-00007``."""
    return f"{split}-{index:05d}"


def person_index(identity: str) -> int:
    """The index of a rendered person's name; ValueError for another name."""
    identity = str(identity)
    digits = identity.rpartition("-")[2]
    if digits == identity or not (digits.isascii() and digits.isdigit()):
        raise ValueError(f"{identity!r} names no rendered person; expected a name such as {identity_name('train', 7)}")
    return int(digits)
