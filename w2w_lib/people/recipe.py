"""The settings of a population: rendered people, or a folder of the user's own."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from w2w_lib.inputs import checked, nearest
from w2w_lib.people.pictures import SIZES

if TYPE_CHECKING:
    from w2w_lib.people.people_set import People

SPLITS = ("train", "val", "heldout")  # who spans the space; on whom settings are chosen; on whom results are reported
UNSEEN = "_unseen"  # further pictures of a split's people, that nothing is trained on
SETS = (*SPLITS, *(split + UNSEEN for split in SPLITS[1:]))


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
    there are any. Of a source, ``train`` people are taken at most. ``unseen`` further pictures of each person of
    ``val`` and ``heldout`` are only to compare with: of a source, the person's last ones, half of them at most.
    """

    train: Count
    heldout: Count
    views: Count
    size: Annotated[int, Field(ge=SIZES[0], le=SIZES[1])]  # pixels a side
    val: Count = 20
    unseen: Count = 4
    source: Given | None = None
    labels: Given | None = None

    @model_validator(mode="after")
    def _labels_have_a_source(self):
        if self.labels is not None and self.source is None:
            raise ValueError("labels without a source: rendered people have their own; name the source, or no labels")
        return self

    def load(self, split: str) -> "People":
        """One of ``SETS``: the people of a split with the pictures to train on, or with the unseen ones.

        In which split a source's identities are is drawn by their names: where a folder is added, the others stay where
        they were, but for one of each split at most. ValueError where too few are left to train on.
        """
        from w2w_lib.people.folders import FolderSource
        from w2w_lib.people.people_set import People  # imports diffusers, seconds that settings do not need

        if split not in SETS:
            raise ValueError(f"no split {split!r}{nearest(str(split), SETS)}")
        split, unseen = split.removesuffix(UNSEEN), split.endswith(UNSEEN)
        if self.source is None:
            first, views = (self.views, self.unseen) if unseen else (0, self.views)
            return People.render(split, getattr(self, split), views, self.size, first)
        source, apart = FolderSource(self.source, self.labels, self.size), self.heldout + self.val
        if len(source.ids) <= apart:
            raise ValueError(
                f"{self.source}: has {len(source.ids)} identities; expected at least {apart + 1}, as {self.heldout} "
                f"are held out and {self.val} are in val; add folders or lower these"
            )
        shuffled = sorted(source.ids, key=lambda name: hashlib.sha256(name.encode()).digest())
        ends = {"heldout": (0, self.heldout), "val": (self.heldout, apart), "train": (apart, apart + self.train)}
        people = People.read(source, sorted(shuffled[slice(*ends[split])]))
        return people if split == "train" else people.parted(self.unseen)[unseen]
