"""The shards of a weights dataset: files of finished rows, named by their content, each looked at once."""

import hashlib
import json
import os
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from w2w_lib.files.atomic import save_tensors
from w2w_lib.files.regular import regular_file
from w2w_lib.files.tensors import finite
from w2w_lib.inputs import explain, some, texts
from w2w_lib.training.provenance import checksum

EXPECTED, REMEDY = "a shard of this weights dataset", "move it away and run again to train its people anew"


@dataclass(frozen=True, slots=True)
class Row:
    """What a shard records of one of its rows; the checksum is over everything but the seconds."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    id: str
    loss: float
    pictures: str | None  # fingerprint of what was learned
    seconds: Annotated[float, Field(ge=0)] | None  # that training took
    sha256: str

    @classmethod
    def of(cls, identity: str, weights: Float[Tensor, " d"], loss: float, pictures: str | None, seconds: float | None):
        """The record of these weights; ValueError for pictures or seconds that cannot be recorded."""
        row = cls(identity, loss, pictures, seconds, "")
        try:
            _records_of(_json([row]))
        except TypeError as error:
            raise ValueError(f"{identity}: {error}; expected pictures as text and seconds as a number") from None
        except ValidationError as error:
            raise ValueError(explain(error, identity)) from None
        return replace(row, sha256=_row_checksum(identity, loss, pictures, weights))


_ROWS = TypeAdapter(list[Row])


class Shards:
    """The shards of one folder, with rows of ``dimension`` numbers that belong to one ``dataset`` (a header's digest).

    ``refresh`` lists the folder and reads the records of shards that are new or changed, so that looking a row up does
    not read any file. ValueError names a shard that is broken or foreign, or that repeats an identity.
    """

    def __init__(self, folder: Path, dimension: int, dataset: str):
        self.folder, self.dimension, self.dataset = folder, dimension, dataset
        self._states: dict[str, tuple[int, int]] = {}  # size and time of change of every shard
        self._rows: dict[str, list[Row]] = {}
        self.places: dict[str, tuple[str, int]] = {}  # shard of each identity, and row in it

    def refresh(self) -> None:
        """Know what the folder holds now."""
        states = {}
        for entry in os.scandir(self.folder):
            if entry.name.startswith("shard-") and entry.name.endswith(".safetensors"):
                state = entry.stat(follow_symlinks=False)
                states[entry.name] = state.st_size, state.st_mtime_ns
        if states == self._states:
            return
        unchanged = {name for name, state in states.items() if self._states.get(name) == state}
        rows = {name: self._rows[name] if name in unchanged else self._records(name) for name in sorted(states)}
        self.places = self._places(rows)
        self._states, self._rows = states, rows

    def row(self, identity: str) -> Row:
        """The record of one identity."""
        shard, place = self.places[identity]
        return self._rows[shard][place]

    def read(self, ids: Iterable[str]) -> Float[Tensor, "models d"]:
        """Weights of these identities, each read from its place in the file."""
        ids, wanted = list(ids), {}
        for position, identity in enumerate(ids):
            shard, place = self.places[identity]
            wanted.setdefault(shard, []).append((place, position))
        weights = torch.empty(len(ids), self.dimension)
        for shard, pairs in wanted.items():
            places, positions = (list(column) for column in zip(*sorted(pairs), strict=True))
            weights[positions] = self._weights(shard)[places]
        return weights

    def add(self, rows: list[Row], weights: Float[Tensor, "models d"]) -> None:
        """Write one shard; only for the writer who holds the dataset's lock, and who has made sure of the rows."""
        name, metadata = _name(rows), {"rows": _json(rows), "dataset": self.dataset}
        save_tensors({"weights": weights}, self.folder / name, metadata)
        state = (self.folder / name).lstat()
        self._states[name] = state.st_size, state.st_mtime_ns
        self._rows[name] = rows
        self.places |= {row.id: (name, place) for place, row in enumerate(rows)}

    def verify(self) -> None:
        """Read all numbers and check them against the records; ValueError names the first that differs."""
        for name, rows in self._rows.items():
            if name != _name(rows):
                raise self._refuse(name, f"its records are those of {_name(rows)}")
            weights = self._weights(name)
            for place, (row, vector) in enumerate(zip(rows, weights, strict=True)):
                if not finite(vector):
                    raise self._refuse(name, f"row {place} ({row.id}) holds NaN or infinite numbers")
                if row.sha256 != _row_checksum(row.id, row.loss, row.pictures, vector):
                    raise self._refuse(name, f"row {place} ({row.id}) differs from its checksum")

    def _refuse(self, name: str, what: str) -> ValueError:
        return ValueError(f"{self.folder / name}: {what}; expected {EXPECTED}; {REMEDY}")

    def _records(self, name: str) -> list[Row]:
        path = regular_file(self.folder / name, EXPECTED, REMEDY)
        try:
            with safe_open(path, framework="pt") as shard:
                slices = {tensor: shard.get_slice(tensor) for tensor in shard.keys()}
                form = {tensor: (part.get_dtype(), *part.get_shape()) for tensor, part in slices.items()}
                metadata = shard.metadata() or {}
            rows = _records_of(metadata.get("rows", ""))
            for row in rows:
                _require_id(row.id)
        except SafetensorError as error:
            raise self._refuse(name, f"is no whole safetensors file ({error})") from None
        except ValidationError as error:
            raise self._refuse(name, explain(error, "records")) from None
        except ValueError as error:
            raise self._refuse(name, str(error)) from None
        if form != {"weights": ("F32", len(rows), self.dimension)}:
            found = ", ".join(f"{tensor} {list(shape)}" for tensor, shape in sorted(form.items()))
            raise self._refuse(name, f"holds {found or 'nothing'}, not weights [F32, {len(rows)}, {self.dimension}]")
        if metadata.get("dataset") != self.dataset:
            raise self._refuse(name, "belongs to another weights dataset")
        return rows

    def _places(self, rows: Mapping[str, list[Row]]) -> dict[str, tuple[str, int]]:
        places = {}
        for name, records in rows.items():
            for place, row in enumerate(records):
                if row.id in places:
                    raise self._refuse(name, f"repeats {row.id} of {places[row.id][0]}")
                places[row.id] = name, place
        return places

    def _weights(self, name: str) -> Float[Tensor, "models d"]:
        """All rows of a shard, mapped into memory: what is not looked at is not read."""
        try:
            with safe_open(regular_file(self.folder / name, EXPECTED, REMEDY), framework="pt") as shard:
                return shard.get_tensor("weights")
        except SafetensorError as error:
            raise self._refuse(name, f"is no whole safetensors file ({error})") from None


def _require_id(identity: str) -> None:
    if not identity or any(unicodedata.category(character) in ("Cc", "Cs") for character in identity):
        raise ValueError(f"identity {identity!r}: expected a non-empty text without control characters")


def require_ids(ids: Iterable[str]) -> list[str]:
    """Identities; ValueError for one that cannot be told apart, written or printed in one line, or is there twice."""
    ids, seen = texts("ids", ids), set()
    for identity in ids:
        _require_id(identity)
        if identity in seen:
            raise ValueError(f"identity {identity!r} is there twice: expected each once")
        seen.add(identity)
    return ids


def require_known(ids: Iterable[str], known: Mapping[str, object], folder: Path) -> None:
    """ValueError names identities that have no row."""
    if missing := [identity for identity in ids if identity not in known]:
        raise ValueError(f"{some(missing)}: not in {folder}; expected some of its {len(known)} identities")


def _records_of(text: str) -> list[Row]:
    """What ``_json`` wrote; ValidationError for anything else."""
    return _ROWS.validate_json(text, strict=True)


def _json(rows: list[Row]) -> str:
    return json.dumps([asdict(row) for row in rows])


def _name(rows: list[Row]) -> str:
    return f"shard-{hashlib.sha256(_json(rows).encode()).hexdigest()[:16]}.safetensors"


def _row_checksum(identity: str, loss: float, pictures: str | None, weights: Float[Tensor, " d"]) -> str:
    return checksum(weights, json.dumps([identity, loss, pictures]))
