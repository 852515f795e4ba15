"""The settings of a population: rendered people, or a folder of the user's own."""

import hashlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from w2w_lib.inputs import checked, nearest
from w2w_lib.people.folders import FolderSource
from w2w_lib.people.people_set import People
from w2w_lib.people.pictures import SIZES

SPLITS = ("train", "heldout")


def _filled(path: Any) -> Any:
    if isinstance(path, str) and (not path.strip() or "\0" in path):
        raise ValueError("expected a path")
    return path


Count = Annotated[int, Field(ge=1, le=1_000_000)]
Given = Annotated[Path, BeforeValidator(_filled)]


@checked
class PeopleRecipe:
    """How many people of each split, how many pictures of each, and where they come from.

    Without a ``source`` they are rendered. A source is a folder with one folder of pictures for each identity (see
    ``FolderSource``; all of these pictures are used, whatever ``views`` is), with ``labels``, a CSV or Parquet file, if
    there are any. Of a source, ``train`` people are taken at most.
    """

    train: Count
    heldout: Count
    views: Count
    size: Annotated[int, Field(ge=SIZES[0], le=SIZES[1])]  # pixels a side
    source: Given | None = None
    labels: Given | None = None

    @model_validator(mode="after")
    def _labels_have_a_source(self):
        if self.labels is not None and self.source is None:
            raise ValueError("labels without a source: rendered people have their own; name the source, or no labels")
        return self

    def load(self, split: str) -> People:
        """People of one split, ``train`` or ``heldout``.

        Which of a source's identities are held out is drawn by their names: where a folder is added, the others stay
        where they were, but for one at most. ValueError where too few are left to train on.
        """
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}{nearest(str(split), SPLITS)}")
        if self.source is None:
            return People.render(split, getattr(self, split), self.views, self.size)
        source = FolderSource(self.source, self.labels, self.size)
        if len(source.ids) <= self.heldout:
            raise ValueError(
                f"{self.source}: has {len(source.ids)} identities; expected at least {self.heldout + 1}, as "
                f"{self.heldout} are held out; add folders or lower heldout"
            )
        shuffled = sorted(source.ids, key=lambda name: hashlib.sha256(name.encode()).digest())
        chosen = shuffled[: self.heldout] if split == "heldout" else shuffled[self.heldout :][: self.train]
        return People.read(source, sorted(chosen))
