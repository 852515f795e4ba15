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


def open_source(
    path_or_split: str | Path,
    labels: str | Path | pd.DataFrame | None = None,
    *,
    people: int = 100,
    views: int = 8,
    size: int | None = None,
) -> IdentitySource:
    """Identities of a folder of image folders, or of a rendered split (one of `SPLITS`, as text)."""
    if path_or_split not in SPLITS:
        return FolderSource(path_or_split, labels, size)
    if labels is not None:
        raise ValueError(f"split {path_or_split!r} has labels; expected no others; leave them out or give a path")
    return RenderedSource(path_or_split, people, views, 64 if size is None else size)
