"""The dataset of model weights on disk: N x d, appended in any order, safe against interruption.

A folder with ``header.json`` (layout, base fingerprint, recipe) and one safetensors shard for each finished group of
identities. A shard appears whole (written aside, then renamed) or not at all, so an interrupted run loses no finished
row, and shards are read lazily through memory maps.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from w2w_lib.layout import AdapterLayout


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
        header = {"layout": json.loads(layout.to_json()), "recipe": recipe}
        _write_text(folder / "header.json", json.dumps(header, indent=1))
        return cls(folder, layout, json.loads(json.dumps(recipe)))

    @classmethod
    def open(cls, folder: str | Path) -> "WeightsDataset":
        """Open a dataset to read; FileNotFoundError if the folder holds none."""
        folder = Path(folder)
        path = folder / "header.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder}: expected a weights dataset with a header.json; run the fine-tuning first"
            )
        header = json.loads(path.read_text())
        return cls(folder, AdapterLayout.from_json(json.dumps(header["layout"])), header["recipe"])

    def append(self, ids: list[str], theta: Float[Tensor, "models d"], losses: Float[Tensor, " models"]) -> None:
        """Add finished rows as one shard; ValueError for a wrong shape, NaN, or an identity that is already there."""
        if theta.shape != (len(ids), self.layout.dimension):
            expected = (len(ids), self.layout.dimension)
            raise ValueError(f"rows of shape {tuple(theta.shape)}: expected {expected}")
        if not torch.isfinite(theta).all():
            bad = [i for i, row in zip(ids, theta, strict=True) if not torch.isfinite(row).all()]
            raise ValueError(f"weights of {', '.join(bad)} hold NaN or infinite numbers: nothing was written")
        twice = set(ids) & set(self.read_ids())
        if twice:
            raise ValueError(f"identities {', '.join(sorted(twice))} are in {self.folder} already")
        theta = theta.detach().float().cpu().contiguous()
        tensors = {"theta": theta, "loss": losses.detach().float().cpu().contiguous()}
        checksum = hashlib.sha256(theta.numpy().tobytes()).hexdigest()
        name = f"shard-{ids[0]}-{len(ids)}.safetensors"
        partial = self.folder / f".{name}.partial"
        try:
            save_file(tensors, partial, metadata={"ids": json.dumps(ids), "sha256": checksum})
        except (SafetensorError, OSError) as error:
            partial.unlink(missing_ok=True)
            raise OSError(
                f"{self.folder}: cannot write the weights of {len(ids)} identities ({error}); rows written before are "
                "safe: make room and run again"
            ) from None
        os.replace(partial, self.folder / name)

    def _shards(self) -> Iterable[Path]:
        return sorted(self.folder.glob("shard-*.safetensors"))

    def _open_shard(self, path: Path):
        try:
            return safe_open(path, framework="pt")
        except SafetensorError as error:
            raise ValueError(f"{path}: not a whole safetensors file ({error}); delete it and resume the run") from None

    def read_ids(self) -> list[str]:
        """Identities of all finished rows, in the order of ``theta``."""
        ids = []
        for path in self._shards():
            with self._open_shard(path) as shard:
                ids += json.loads(shard.metadata()["ids"])
        return ids

    @cached_property
    def ids(self) -> list[str]:
        return self.read_ids()

    def theta(self, ids: Iterable[str] | None = None) -> Float[Tensor, "models d"]:
        """Weight vectors of the given identities (default: all, in the order of ``read_ids``)."""
        rows = {}
        wanted = None if ids is None else list(ids)
        for path in self._shards():
            with self._open_shard(path) as shard:
                stored = shard.get_slice("theta")
                for row, identity in enumerate(json.loads(shard.metadata()["ids"])):
                    if wanted is None or identity in wanted:
                        rows[identity] = stored[row : row + 1]
        missing = [i for i in wanted or [] if i not in rows]
        if missing:
            raise ValueError(f"identities {', '.join(missing[:5])} are not in {self.folder}")
        return torch.cat([rows[i] for i in (rows if wanted is None else wanted)])

    def losses(self) -> dict[str, float]:
        """Final training loss by identity."""
        losses = {}
        for path in self._shards():
            with self._open_shard(path) as shard:
                losses |= dict(zip(json.loads(shard.metadata()["ids"]), shard.get_tensor("loss").tolist(), strict=True))
        return losses

    def verify(self) -> None:
        """Check every shard against its checksum; ValueError names the first that differs."""
        for path in self._shards():
            with self._open_shard(path) as shard:
                found = hashlib.sha256(np.ascontiguousarray(shard.get_tensor("theta").numpy()).tobytes()).hexdigest()
                if found != shard.metadata()["sha256"]:
                    raise ValueError(f"{path}: checksum differs from its header; delete it and resume the run")


def _write_text(path: Path, text: str) -> None:
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(text)
    os.replace(partial, path)
