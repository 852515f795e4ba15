"""Identities with their pictures and labels, rendered or read from a folder, behind one interface."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from w2w_lib.people.folders import FolderSource
from w2w_lib.people.rendered.population import RenderedSource

SPLITS = ("base", "train", "heldout", "judge")  # names that `open_source` renders; any other name is a path


@runtime_checkable
class IdentitySource(Protocol):
    """Anything with identities: their names, their pictures and perhaps their labels (indexed by name)."""

    ids: list[str]
    labels: pd.DataFrame | None

    def images(self, id: str) -> np.ndarray:
        """All pictures of an identity, uint8 (views, height, width, 3)."""
        ...


# ---------------------------------------------------------------- rendered


# ---------------------------------------------------------------- a user's folder


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
