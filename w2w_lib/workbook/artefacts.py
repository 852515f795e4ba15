"""What the stages hand to each other, opened when first used."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionPipeline

from w2w_lib.evaluation.attributes import AttributeClassifier, train_attribute_classifier, varying
from w2w_lib.files.atomic import write_text
from w2w_lib.inputs import nearest, whole_number
from w2w_lib.models.base import open_base
from w2w_lib.people.people_set import People, person_index
from w2w_lib.people.recipe import SETS, UNSEEN
from w2w_lib.people.rendered.counterfactuals import render_counterfactuals
from w2w_lib.space.directions import Direction, load_directions
from w2w_lib.space.weight_space import WeightSpace
from w2w_lib.training.weights_dataset import WeightsDataset
from w2w_lib.workbook import paths, profiles, settings


@dataclass(frozen=True)
class Artefacts:
    """The base model, people, weights, space and directions of one profile; FileNotFoundError for what is not made."""

    profile: str

    def __post_init__(self):
        settings.require(self.profile)

    @cached_property
    def pipeline(self) -> StableDiffusionPipeline:
        return open_base(profiles.base(self.profile), **profiles.opening(self.profile))

    @cached_property
    def classifier(self) -> AttributeClassifier:
        return AttributeClassifier.load(self._made(self.classifier_path, "attribute classifier"))

    @cached_property
    def own_people(self) -> bool:
        """Whether the people are the reader's own, from a folder, and not rendered."""
        return settings.load(self.profile).people.sets.source is not None

    @property
    def classifier_path(self) -> Path:
        return self._file("people", "classifier.safetensors") if self.own_people else paths.ATTRIBUTE_CLASSIFIER

    def people(self, split: str) -> People:
        """The people of a split, ``train``, ``val`` or ``heldout``, or their ``_unseen`` pictures."""
        if split not in SETS:
            raise ValueError(f"no split {split!r}{nearest(str(split), SETS)}")
        return People.load(self._made(self._file("people", split), f"{split} people"))

    def unseen(self, split: str, ids: Sequence[str], views: int) -> People:
        """Of some people of a split the first of their pictures that no model has been trained on, or all of these."""
        people = self.people(split + UNSEEN).only(list(ids))
        kept = (people.pictures.groupby("id", sort=False).cumcount() < whole_number("views", views)).to_numpy()
        return People(people.images[kept], people.pictures[kept].reset_index(drop=True), people.labels)

    def dataset(self, split: str) -> WeightsDataset:
        """The weights of a split's people."""
        return WeightsDataset.open(self._made(self._file("weights", split), f"weights of {split} people"))

    @cached_property
    def space(self) -> WeightSpace:
        return WeightSpace.load(self._made(self.space_path, "weight space"))

    @cached_property
    def directions(self) -> dict[str, Direction]:
        return load_directions(self._made(self.directions_path, "directions"))

    @property
    def space_path(self) -> Path:
        return self._file("space", "space.safetensors")

    @property
    def directions_path(self) -> Path:
        return self._file("directions", "directions.safetensors")

    def inversions_path(self, name: str) -> Path:
        return self._file("inversions", name)

    def fit_classifier(
        self, train: People, heldout: People, pictures: int
    ) -> tuple[AttributeClassifier | None, People]:
        """The attribute classifier, and people whom it was not trained on.

        Rendered people have one that was trained on others. Of the reader's own people it is trained on ``train``, in
        as many epochs as make ``pictures`` pictures; None where no label varies among them.
        """
        if not self.own_people:
            return self.classifier, train
        if not varying(train.labels, train.labels.columns):
            return None, heldout
        train_attribute_classifier(train, -(-pictures // len(train.images))).save(self.classifier_path)
        return self.classifier, heldout

    def counterfactuals(self, ids: Sequence[str], attribute: str) -> tuple[np.ndarray, np.ndarray] | None:
        """First views of held-out people, and the same with one attribute changed; None for the reader's own people.

        Both uint8 (people, height, width, 3).
        """
        if self.own_people:
            return None
        size = settings.load(self.profile).people.sets.size
        return render_counterfactuals("heldout", [person_index(i) for i in ids], attribute, size)

    def claim(self, holds: bool, what: str) -> None:
        """Assert what rendered people have to show; of the reader's own people, print it where it does not hold."""
        if self.own_people and not holds:
            print(f"not so for these people: {what}")
        else:
            assert holds, what

    def record(self, stage: str, numbers: Mapping[str, float], digits: int = 4) -> None:
        """Write a stage's metrics, rounded, for ``dvc metrics show``; print which are left out as not finite."""
        if not isinstance(numbers, Mapping):
            raise ValueError(f"metrics of stage {stage!r}: {numbers!r}, expected numbers by name")
        measured = {name: _number(stage, name, value) for name, value in numbers.items()}
        finite = {name: round(value, digits) for name, value in measured.items() if math.isfinite(value)}
        write_text(json.dumps(finite, indent=1) + "\n", paths.metrics(self.profile, stage))
        if left_out := sorted(measured.keys() - finite.keys()):
            print(f"no finite numbers, and not among the metrics: {', '.join(left_out)}")

    def _file(self, *parts: str) -> Path:
        return paths.outputs(self.profile, *parts)

    def _made(self, path: Path, what: str) -> Path:
        if not path.exists():
            raise FileNotFoundError(
                f"{paths.shown(path)}: profile {self.profile!r} has no {what} yet; "
                f"run `make reproduce PROFILE={self.profile}`"
            )
        return path


def _number(stage: str, name: str, value: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"metrics of stage {stage!r}: {name} is {value!r}, expected a number") from None
