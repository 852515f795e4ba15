"""The dataset of model weights on disk: N x d, appended in any order, safe against interruption.

A folder with

- ``header.json``: layout, base fingerprint, recipe, precision and the code that trains, all that decides a row;
- ``initial.safetensors``: the starting vector of all rows;
- ``shard-<sixteen hexadecimal digits of its records' hash>.safetensors`` for each finished group of identities: its
  weights, and for each row a record of identity, loss, seconds, fingerprint of its pictures and a checksum.

A shard appears whole (written aside, then renamed) or not at all, so an interrupted run loses no finished row. One run
writes at a time; anybody may read meanwhile, through memory maps. Rows are in the order of their identities' names.

Why not one Zarr array: its rows are chunks of a grid that has to be resized, so that a kill at any moment needs a
journal of its own; here the file system's rename is all there is to it. A shard also opens anywhere.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch
from filelock import FileLock
from jaxtyping import Float
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor

from w2w_lib.files.atomic import make_folder, save_tensors, write_text
from w2w_lib.files.regular import regular_file
from w2w_lib.files.tensors import finite, floating, read_tensors
from w2w_lib.inputs import explain, instance, some, texts, whole_number
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.training.provenance import Header, checksum
from w2w_lib.training.run_lock import LOCK, WAIT, holding
from w2w_lib.training.shards import Row, Shards, require_ids, require_known

HEADER, INITIAL = "header.json", "initial.safetensors"
ANEW = "move the folder away to train these people again"
SAME_START = 0.05  # relative distance: other machines and precisions round to 0.004 of it, another sign is 0.1 and more


class WeightsDataset:
    """Weight vectors of personalised models in a folder; see the module's text for the format."""

    def __init__(self, folder: str | Path, header: Header, layout: AdapterLayout):
        self.folder, self.header, self.layout = Path(folder), header, layout
        self._shards = Shards(self.folder, layout.dimension, header.digest())
        self._lock = FileLock(self.folder / LOCK)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        layout: AdapterLayout,
        recipe: dict,
        initial: Float[Tensor, " d"],
        dtype: torch.dtype = torch.float32,
    ) -> "WeightsDataset":
        """Open the dataset at ``folder`` to append to, or begin it; ``initial`` is the starting vector of all rows.

        ``recipe`` is all else that decides them, as JSON has it, and ``dtype`` what the UNet computes in. ValueError
        for a folder whose rows were made with another base, layout, recipe, start, precision or training code.
        """
        instance("layout", layout, AdapterLayout)
        initial = floating("initial", initial).detach().float().cpu()
        if initial.shape != (layout.dimension,) or not finite(initial):
            found = f"shape {tuple(initial.shape)}" if finite(initial) else "NaN or infinite numbers"
            raise ValueError(f"initial: found {found}, expected {layout.dimension} finite numbers")
        header = Header.of(layout, recipe, initial, dtype)
        folder = make_folder(folder)
        if not (folder / HEADER).exists():
            with holding(FileLock(folder / LOCK)), _disk(folder, "the header"):
                if not (folder / HEADER).exists():
                    save_tensors({"initial": initial}, folder / INITIAL)
                    write_text(header.model_dump_json(indent=1), folder / HEADER)
        dataset = cls.open(folder)
        dataset.require(layout, recipe, initial, dtype)
        return dataset

    @classmethod
    def open(cls, folder: str | Path) -> "WeightsDataset":
        """Open a dataset to read; FileNotFoundError if the folder holds none, ValueError for another header."""
        expected = "the header of a weights dataset"
        instance("folder", folder, (str, Path))
        path = regular_file(Path(folder) / HEADER, expected, "run the fine-tuning first")
        try:
            header = Header.model_validate(json.loads(path.read_bytes()))
            return cls(folder, header, AdapterLayout.from_json(json.dumps(header.layout)))
        except ValidationError as error:
            what = explain(error, "header", Header.model_fields)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            what = repr(error)
        raise ValueError(f"{path}: {what}; expected {expected}; {ANEW}")

    @property
    def recipe(self) -> dict:
        """The settings that all rows were made with."""
        return self.header.recipe

    @cached_property
    def initial(self) -> Float[Tensor, " d"]:
        """The starting vector of all rows."""
        path, expected = self.folder / INITIAL, "the starting vector of this weights dataset"
        initial = read_tensors(path, expected, ANEW, {"initial": str(self.layout.dimension)})[0]["initial"]
        if checksum(initial) != self.header.initial:
            raise ValueError(f"{path}: differs from the header's checksum; expected {expected}; {ANEW}")
        return initial

    def require(self, layout: AdapterLayout, recipe: dict, initial: Float[Tensor, " d"], dtype: torch.dtype) -> None:
        """ValueError names what is not as these rows were made: base, layout, recipe, start, precision or code."""
        here, there = Header.of(layout, recipe, initial, dtype), self.header
        settings = [k for k in {**there.recipe, **here.recipe} if there.recipe.get(k) != here.recipe.get(k)]
        values = ", ".join(f"{k}: {there.recipe.get(k)} there, {here.recipe.get(k)} here" for k in settings)
        same_layout = replace(layout, base=self.layout.base) == self.layout
        others = {
            f"base model ({self.layout.base} there, {layout.base} here)": layout.base != self.layout.base,
            "adapter layout": not same_layout,
            f"fine-tuning recipe ({values})": bool(settings),
            "starting vector": same_layout and not _alike(initial.detach().float().cpu(), self.initial),
            f"precision ({there.dtype} there, {here.dtype} here)": here.dtype != there.dtype,
            "training code": here.code != there.code,
        }
        if found := [name for name, differs in others.items() if differs]:
            raise ValueError(
                f"weights dataset {self.folder} was made with another {' and another '.join(found)}: {ANEW}, or use "
                "what it was made with"
            )

    @contextmanager
    def lock(self, timeout: float = WAIT) -> Iterator[None]:
        """Within the block no other process adds rows; TimeoutError after ``timeout`` seconds names who does."""
        regular_file(self.folder / HEADER, "the header of a weights dataset", "open the dataset where it is now")
        with holding(self._lock, timeout) as outermost:
            if outermost:
                self._shards.refresh()
            yield

    def append(
        self,
        ids: list[str],
        weights: Float[Tensor, "models d"],
        losses: Float[Tensor, " models"],
        pictures: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> None:
        """Add finished rows as one shard, with the fingerprints of the pictures that they learned, and the seconds of
        each.

        ValueError for a wrong shape, NaN or infinite numbers, or an identity that is there twice; OSError where the
        disk is full. Nothing is written then.
        """
        ids = require_ids(ids)
        instance("pictures", pictures or {}, Mapping)
        weights, losses = floating("weights", weights), floating("losses", losses)
        expected = (len(ids), self.layout.dimension)
        if not ids or weights.shape != expected or losses.shape != expected[:1]:
            found = f"rows of shape {tuple(weights.shape)} and losses of shape {tuple(losses.shape)}"
            raise ValueError(f"{found}: expected {expected} and {expected[:1]}, at least one of them")
        weights, losses = (x.detach().float().cpu() for x in (weights, losses))
        bad = [i for i, row, loss in zip(ids, weights, losses, strict=True) if not (finite(row) and finite(loss))]
        if bad:
            raise ValueError(f"weights or losses of {some(bad)} hold NaN or infinite numbers: nothing was written")
        learned = pictures or {}
        rows = [
            Row.of(i, row, loss, learned.get(i), seconds)
            for i, row, loss in zip(ids, weights, losses.tolist(), strict=True)
        ]
        with self.lock():
            if twice := [i for i in ids if i in self._shards.places]:
                raise ValueError(f"{some(twice)}: in {self.folder} already; nothing was written")
            with _disk(self.folder, f"the weights of {len(ids)} identities"):
                self._shards.add(rows, weights)

    @property
    def ids(self) -> list[str]:
        """Identities of all finished rows, sorted, as the files say now: the order of ``weights``."""
        self._shards.refresh()
        return sorted(self._shards.places)

    def require_only(self, ids: Iterable[str]) -> None:
        """ValueError where there are rows of other identities than these."""
        if others := sorted(set(self.ids) - set(texts("ids", ids))):
            raise ValueError(
                f"{self.folder}: holds {some(others)}, who are not among these people; move the folder away, or use "
                "the people it was begun with"
            )

    def weights(self, ids: Iterable[str] | None = None) -> Float[Tensor, "models d"]:
        """Weight vectors of the given identities (default: all, in the order of ``ids``)."""
        known = self.ids
        wanted = known if ids is None else texts("ids", ids)
        require_known(wanted, self._shards.places, self.folder)
        return self._shards.read(wanted)

    def batches(self, rows: int = 1024) -> Iterator[tuple[list[str], Float[Tensor, "models d"]]]:
        """Identities and weights of at most so many rows at a time, in the order of ``ids``."""
        ids, rows = self.ids, whole_number("rows", rows)
        for first in range(0, len(ids), rows):
            some_ids = ids[first : first + rows]
            yield some_ids, self._shards.read(some_ids)

    def losses(self) -> dict[str, float]:
        """Final training loss by identity."""
        return {i: self._shards.row(i).loss for i in self.ids}

    def pictures(self) -> dict[str, str | None]:
        """By identity, the fingerprint of the pictures that its row was trained on."""
        return {i: self._shards.row(i).pictures for i in self.ids}

    def seconds(self) -> dict[str, float]:
        """By identity, the seconds that its training took: those of its group over the people in it."""
        timed = {i: self._shards.row(i).seconds for i in self.ids}
        return {i: seconds for i, seconds in timed.items() if seconds is not None}

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that identify these rows and what they were made with."""
        rows = [self.header.digest(), *(f"{i} {self._shards.row(i).sha256}" for i in self.ids)]
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]

    def verify(self) -> None:
        """Read everything and check it against the checksums; ValueError names the first that differs."""
        _ = self.initial  # checks its own
        self._shards.refresh()
        self._shards.verify()


def _alike(initial: Float[Tensor, " d"], stored: Float[Tensor, " d"]) -> bool:
    return bool((initial - stored).norm() <= SAME_START * stored.norm())


@contextmanager
def _disk(folder: Path, what: str) -> Iterator[None]:
    """A full disk as one error that says what to do."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise OSError(
            f"{folder}: cannot write {what} ({error}); rows written before are safe: make room and run again"
        ) from None
