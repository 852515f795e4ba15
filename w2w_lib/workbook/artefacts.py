"""What the notebooks hand to each other, opened when first used."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from w2w_lib.evaluation.attributes import AttributeClassifier
from w2w_lib.files.atomic import write_text
from w2w_lib.models.base import open_base
from w2w_lib.people.people_set import People
from w2w_lib.space.directions import Direction, load_directions
from w2w_lib.space.weight_space import WeightSpace
from w2w_lib.training.weights_dataset import WeightsDataset
from w2w_lib.workbook import paths, profiles


@dataclass(frozen=True)
class Artefacts:
    """The base model, people, weights, space and directions of one profile."""

    profile: str

    @cached_property
    def pipeline(self) -> StableDiffusionPipeline:
        return open_base(profiles.base(self.profile), torch.bfloat16)

    @cached_property
    def classifier(self) -> AttributeClassifier:
        return AttributeClassifier.load(self.classifier_path)

    @property
    def own_people(self) -> bool:
        """Whether the people are the reader's own, from a folder, and not of the pocket world."""
        return "source" in profiles.load(self.profile, "people")

    @property
    def classifier_path(self) -> Path:
        return self._file("people", "classifier.safetensors") if self.own_people else paths.ATTRIBUTE_CLASSIFIER

    def people(self, split: str) -> People:
        return People.load(paths.outputs(self.profile, "people", split))

    def weights(self, split: str) -> WeightsDataset:
        return WeightsDataset.open(paths.outputs(self.profile, "weights", split))

    @cached_property
    def space(self) -> WeightSpace:
        return WeightSpace.load(self.space_path)

    @cached_property
    def directions(self) -> dict[str, Direction]:
        return load_directions(self.directions_path)

    @property
    def space_path(self) -> Path:
        return self._file("space", "space.safetensors")

    @property
    def directions_path(self) -> Path:
        return self._file("directions", "directions.safetensors")

    def inversions_path(self, name: str) -> Path:
        return self._file("inversions", name)

    def record(self, stage: str, numbers: Mapping[str, float], digits: int = 4) -> None:
        """Write a stage's metrics, rounded, for ``dvc metrics show``; leave out what is not a number."""
        rounded = {name: round(float(value), digits) for name, value in numbers.items() if isfinite(value)}
        write_text(json.dumps(rounded, indent=1) + "\n", paths.metrics(self.profile, stage))

    def _file(self, *parts: str) -> Path:
        return paths.outputs(self.profile, *parts)
