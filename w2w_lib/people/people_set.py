"""A set of people on disk: their pictures, what each picture shows, and their labels."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from w2w_lib.files.atomic import replacing
from w2w_lib.models.images import encode_images, to_pixels
from w2w_lib.people.rendered.person import ATTRIBUTES
from w2w_lib.people.rendered.population import render_population
from w2w_lib.people.sources import IdentitySource, open_source
from w2w_lib.workbook import paths


@dataclass(frozen=True)
class People:
    """Pictures (uint8, all of one size), one table row for each picture, one labels row for each identity.

    ``pictures`` has at least the column ``id``; ``labels`` is indexed by identity and may have no columns.
    """

    images: UInt8[np.ndarray, "pictures height width 3"]
    pictures: pd.DataFrame
    labels: pd.DataFrame

    @classmethod
    def render(cls, split: str, count: int, views: int, size: int = 64) -> "People":
        """The first ``count`` people of a split of the pocket world."""
        images, table = render_population(split, range(count), views, size)
        table.insert(0, "id", [identity_name(split, i) for i in table["person"]])
        labels = table.drop_duplicates("id").set_index("id")[list(ATTRIBUTES)].astype(bool)
        pictures = table.drop(columns=list(ATTRIBUTES))
        return cls(images.reshape(-1, *images.shape[2:]), pictures, labels)

    @classmethod
    def read(cls, source: IdentitySource, ids: list[str] | None = None) -> "People":
        """Identities (all, or those named) of a source, say a user's folder of image folders."""
        ids = list(source.ids if ids is None else ids)
        images = {i: source.images(i) for i in tqdm(ids, desc="read people", unit="person")}
        pictures = pd.DataFrame({"id": [i for i, own in images.items() for _ in own]})
        index = pd.Index(ids, name="id")
        labels = pd.DataFrame(index=index) if source.labels is None else source.labels.loc[ids].set_axis(index)
        return cls(np.concatenate(list(images.values())), pictures, labels)

    @property
    def ids(self) -> list[str]:
        return list(self.labels.index)

    def of(self, identity: str) -> UInt8[np.ndarray, "pictures height width 3"]:
        """The pictures of one identity."""
        return self.images[(self.pictures["id"] == identity).to_numpy()]

    def fingerprints(self) -> dict[str, str]:
        """By identity, a hash of its pictures."""
        return {i: hashlib.sha256(self.of(i).tobytes()).hexdigest()[:16] for i in self.ids}

    def latents(
        self, pipeline: StableDiffusionPipeline, batch_pixels: int = 2**20
    ) -> dict[str, Float[Tensor, "pictures channels height width"]]:
        """Scaled latents of every identity's pictures, encoded about ``batch_pixels`` at a time."""
        count = max(1, batch_pixels // self.images[0, :, :, 0].size)
        parts = (to_pixels(self.images[first : first + count]) for first in range(0, len(self.images), count))
        latents = torch.cat([encode_images(pipeline, part).cpu() for part in parts])
        rows = self.pictures.groupby("id", sort=False).indices
        return {i: latents[rows[i]] for i in self.ids}

    def save(self, folder: str | Path) -> None:
        """Write the set as a folder, complete or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "labels.parquet").unlink(missing_ok=True)  # while it is not there, neither is the set
        with replacing(folder / "images.npy") as partial:
            np.save(partial, self.images, allow_pickle=False)
        self.pictures.to_parquet(folder / "pictures.parquet")
        with replacing(folder / "labels.parquet") as partial:
            self.labels.to_parquet(partial)

    @classmethod
    def load(cls, folder: str | Path) -> "People":
        """Read a saved set; FileNotFoundError if the folder holds none."""
        folder = Path(folder)
        if not (folder / "labels.parquet").is_file():
            raise FileNotFoundError(f"{folder}: expected a saved set of people; run notebook 01 first")
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        return cls(images, pd.read_parquet(folder / "pictures.parquet"), pd.read_parquet(folder / "labels.parquet"))


def load_people(settings: dict, split: str) -> People:
    """People of one split (``train`` or ``heldout``) as a profile's ``population`` section describes them.

    They are rendered, or read from the folder of image folders that the section names as its ``source`` (with
    ``labels``, a CSV or Parquet file), of which ``heldout`` identities, drawn by their names, are kept apart: where
    a folder is added, the others stay where they were, but for one at most.
    """
    if "source" not in settings:
        return People.render(split, settings[split], settings["views"], settings["size"])
    labels = settings.get("labels")
    source = open_source(paths.ROOT / settings["source"], labels and paths.ROOT / labels, size=settings["size"])
    needed = settings["heldout"] + 1
    if len(source.ids) < needed:
        raise ValueError(
            f"{settings['source']}: {len(source.ids)} identities, expected at least {needed} "
            f"({settings['heldout']} are held out); add folders or lower `heldout` in params.yaml"
        )
    shuffled = sorted(source.ids, key=lambda name: hashlib.sha256(name.encode()).digest())
    kept_apart, rest = shuffled[: settings["heldout"]], shuffled[settings["heldout"] :]
    chosen = kept_apart if split == "heldout" else rest[: settings["train"]]
    return People.read(source, sorted(chosen))


def identity_name(split: str, index: int) -> str:
    """The identity's name in files and tables, such as ``train-00007``."""
    return f"{split}-{index:05d}"


def person_index(identity: str) -> int:
    """The index of a rendered person's name."""
    return int(identity.rsplit("-", 1)[1])
