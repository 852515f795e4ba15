"""The dataset of model weights on disk: N x d, appended in any order, safe against interruption.

A folder with ``header.json`` (layout, base fingerprint, recipe) and one safetensors shard for each finished group of
identities, in it a record for each row: identity, seed, fingerprint of its pictures, and a checksum over these, the
loss and the weights. A shard appears whole (written aside, then renamed) or not at all, so an interrupted run loses no
finished row; shards are read lazily through memory maps, also while others are added.

Why not one Zarr array: its rows are chunks of a grid that has to be resized, so that several writers and a kill at any
moment need a journal of their own; here the file system's rename is all there is to it. A shard also opens anywhere.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import torch
from filelock import FileLock
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from w2w_lib.files.atomic import save_tensors, write_text
from w2w_lib.lora.layout import AdapterLayout


@dataclass(frozen=True)
class WeightsDataset:
    """Weight vectors of personalised models in a folder; see the module's text for the format."""

    folder: Path
    layout: AdapterLayout
    recipe: dict

    @classmethod
    def create(cls, folder: str | Path, layout: AdapterLayout, recipe: dict) -> "WeightsDataset":
        """Open the dataset at ``folder`` to append to, or begin it; ValueError if it is of another base, layout or
        recipe."""
        folder = Path(folder)
        if (folder / "header.json").exists():
            found = cls.open(folder)
            for name, here, there in (
                ("base model", layout.base, found.layout.base),
                ("adapter layout", layout, found.layout),
                ("fine-tuning recipe", recipe, found.recipe),
            ):
                if here != there:
                    detail = f" ({there} there, {here} here)" if name != "adapter layout" else ""
                    raise ValueError(
                        f"weights dataset {folder} was made with another {name}{detail}: "
                        "move the folder away to start a new one, or use the settings it was made with"
                    )
            return found
        folder.mkdir(parents=True, exist_ok=True)
        dataset = cls(folder, layout, json.loads(json.dumps(recipe)))
        with dataset._alone():
            if not (folder / "header.json").exists():
                header = {"layout": json.loads(layout.to_json()), "recipe": recipe}
                with _disk(folder, "the header"):
                    write_text(json.dumps(header, indent=1), folder / "header.json")
                return dataset
        return cls.create(folder, layout, recipe)  # somebody else was quicker

    @classmethod
    def open(cls, folder: str | Path) -> "WeightsDataset":
        """Open a dataset to read; FileNotFoundError if the folder holds none."""
        folder = Path(folder)
        path = folder / "header.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder}: expected a weights dataset with a header.json; run the fine-tuning first"
            )
        try:
            header = json.loads(path.read_text())
            return cls(folder, AdapterLayout.from_json(json.dumps(header["layout"])), header["recipe"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not the header of a weights dataset ({error!r}); move the folder away") from None

    def append(
        self,
        ids: list[str],
        weights: Float[Tensor, "models d"],
        losses: Float[Tensor, " models"],
        pictures: Mapping[str, str] | None = None,
    ) -> None:
        """Add finished rows as one shard, with the fingerprints of the pictures that they learned.

        ValueError for a wrong shape, NaN or infinite numbers, or an identity that is there twice; OSError where the
        disk is full. Nothing is written then.
        """
        expected = (len(ids), self.layout.dimension)
        if weights.shape != expected or losses.shape != (len(ids),):
            found = f"rows of shape {tuple(weights.shape)} and losses of shape {tuple(losses.shape)}"
            raise ValueError(f"{found}: expected {expected} and {expected[:1]}")
        weights, losses = (x.detach().float().cpu() for x in (weights, losses))
        bad = [i for i, row, loss in zip(ids, weights, losses, strict=True) if not torch.isfinite(row.sum() + loss)]
        if bad:
            raise ValueError(f"weights or losses of {', '.join(bad)} hold NaN or infinite numbers: nothing was written")
        records = [{"id": i, "seed": self.recipe.get("seed"), "pictures": (pictures or {}).get(i)} for i in ids]
        for record, row, loss in zip(records, weights, losses, strict=True):
            record["sha256"] = _checksum(record, row, loss)
        name = f"shard-{quote(ids[0], safe='')[:80]}-{len(ids)}.safetensors"
        with self._alone():
            twice = {i for i in ids if ids.count(i) > 1} | (set(ids) & set(self.ids))
            if twice:
                raise ValueError(f"identities {', '.join(sorted(twice))} are in {self.folder} already")
            with _disk(self.folder, f"the weights of {len(ids)} identities"):
                save_tensors({"weights": weights, "loss": losses}, self.folder / name, {"rows": json.dumps(records)})

    def _alone(self) -> FileLock:
        """While it is held, no other process adds rows."""
        return FileLock(self.folder / ".lock")

    def _shards(self) -> Iterable[Path]:
        return sorted(self.folder.glob("shard-*.safetensors"))

    def _open_shard(self, path: Path):
        try:
            return safe_open(path, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{path}: not a whole safetensors file ({error}); delete it and resume the run") from None

    def _rows(self) -> Iterator[tuple[dict, Path, int]]:
        """Record, shard and place in it of every finished row."""
        for path in self._shards():
            with self._open_shard(path) as shard:
                records = (shard.metadata() or {}).get("rows")
            if records is None:
                raise ValueError(f"{path}: a shard without records of its rows; move it away and run again")
            yield from ((record, path, row) for row, record in enumerate(json.loads(records)))

    @property
    def ids(self) -> list[str]:
        """Identities of all finished rows, in the order of ``weights``, as the files say now."""
        return [record["id"] for record, _, _ in self._rows()]

    def pictures(self) -> dict[str, str | None]:
        """By identity, the fingerprint of the pictures that its row was trained on."""
        return {record["id"]: record["pictures"] for record, _, _ in self._rows()}

    def weights(self, ids: Iterable[str] | None = None) -> Float[Tensor, "models d"]:
        """Weight vectors of the given identities (default: all, in the order of ``ids``)."""
        places = {record["id"]: (path, row) for record, path, row in self._rows()}
        wanted = list(places if ids is None else ids)
        missing = [i for i in wanted if i not in places]
        if missing:
            raise ValueError(f"identities {', '.join(missing[:5])} are not in {self.folder}")
        in_shards, rows = {}, {}
        for i in wanted:
            path, row = places[i]
            in_shards.setdefault(path, []).append((i, row))
        for path, those in in_shards.items():
            with self._open_shard(path) as shard:
                stored = shard.get_slice("weights")
                rows |= {i: stored[row : row + 1] for i, row in those}
        return torch.cat([rows[i] for i in wanted])

    def losses(self) -> dict[str, float]:
        """Final training loss by identity."""
        losses = {}
        for path in self._shards():
            with self._open_shard(path) as shard:
                losses[path] = shard.get_tensor("loss").tolist()
        return {record["id"]: losses[path][row] for record, path, row in self._rows()}

    def verify(self) -> None:
        """Check every row and its record against the checksum; ValueError names the first that differs."""
        tensors, opened = {}, None
        for record, path, row in self._rows():
            if path != opened:
                with self._open_shard(path) as shard:
                    tensors, opened = {name: shard.get_tensor(name) for name in ("weights", "loss")}, path
            if record["sha256"] != _checksum(record, tensors["weights"][row], tensors["loss"][row]):
                raise ValueError(
                    f"{path}: row {row} ({record['id']}) differs from its checksum; delete it and resume the run"
                )


def _checksum(record: dict, row: Float[Tensor, " d"], loss: Float[Tensor, ""]) -> str:
    """SHA-256 over everything that a row says."""
    told = json.dumps([record[name] for name in ("id", "seed", "pictures")]).encode()
    return hashlib.sha256(told + loss.numpy().tobytes() + row.numpy().tobytes()).hexdigest()


@contextmanager
def _disk(folder: Path, what: str) -> Iterator[None]:
    """A full disk as one error that says what to do."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise OSError(
            f"{folder}: cannot write {what} ({error}); rows written before are safe: make room and run again"
        ) from None
