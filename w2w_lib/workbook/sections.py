"""The sections of params.yaml as typed models: one for each stage, with the ranges of every setting."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from w2w_lib.inputs import Seed
from w2w_lib.models.recipe import Sampling, check_variant
from w2w_lib.people.recipe import PeopleRecipe
from w2w_lib.pocket.recipe import BaseRecipe
from w2w_lib.space.inversion_recipes import InversionRecipe
from w2w_lib.training.recipe import FleetRecipe
from w2w_lib.workbook.release_sections import Release
from w2w_lib.workbook.setting_types import (
    MOST,
    Attributes,
    Count,
    Given,
    Names,
    Positive,
    Prompts,
    Section,
    Share,
    Strength,
    Targets,
    Text,
    Written,
    distinct,
    located,
)
from w2w_lib.workbook.study_sections import Domains, Judge, Scale

# A profile has the sections of all of these stages, or of none.
WITH_PEOPLE = ("people", "finetune", "space", "edit", "invert", "judge", "scale", "domains")


class BaseThresholds(Section):
    """What the base has to reach; ``prompted`` counts attributes."""

    faces: Share
    codec: Share
    prompted: Attributes
    precision: Share
    recall: Share


class BaseEvaluation(Section):
    people: Count
    pictures: Count  # with each attribute, and as many without
    sampling: Sampling
    thresholds: BaseThresholds


class ClassifierTraining(Section):
    """The attribute classifier: where it lies, and how it is trained where it does not."""

    file: Written
    people: Count
    epochs: Count


class BaseTraining(Section):
    """A base that is trained here, into the folder ``out``."""

    out: Written
    work: Written
    compiled: bool
    recipe: BaseRecipe = Field(default_factory=BaseRecipe)
    classifier: ClassifierTraining
    evaluate: BaseEvaluation

    def moved(self, folder: str) -> "BaseTraining":
        """The same training with base, classifier and work in ``folder`` of the repository; itself for an empty one."""
        if not folder:
            return self
        classifier = self.classifier.model_copy(update={"file": Path(folder, "classifier.safetensors")})
        places = {"out": Path(folder, "base"), "work": Path(folder, "work"), "classifier": classifier}
        return self.model_copy(update=places)


class Base(Section):
    """The model that a profile personalises, how it is opened, and how the profile trains one, if it does."""

    model: Given | None = None
    variant: Annotated[str, AfterValidator(check_variant)] | None = None  # of its weights, such as fp16
    revision: Text | None = None  # of the hub
    dtype: Literal["bfloat16", "float16", "float32"] | None = None  # that the UNet computes in; by default the device's
    needs_gpu: bool = False
    training: BaseTraining | None = None


class PeopleThresholds(Section):
    """What the people's pictures have to reach; ``visible`` counts attributes."""

    faces: Share
    verification: Share
    visible: Attributes


class PeopleStage(Section):
    sets: Annotated[PeopleRecipe, AfterValidator(located)]
    own: bool = False  # people from a folder, which local.yaml names as sets.source
    evaluated_views: Count
    classifier_pictures: Count = 80_000  # that the classifier of one's own people sees: two minutes
    thresholds: PeopleThresholds


class Changes(Section):
    """What a variant may change beside the recipe."""

    targets: Targets | None = None
    rank: Count | None = None
    views: Count | None = None


class FinetuneEvaluation(Section):
    check_steps: Count
    check_within: Share
    timed_steps: Annotated[int, Field(ge=2, le=MOST)]
    timed_sizes: Annotated[list[Count], Field(min_length=1)]
    watched: Count
    watched_at: Annotated[list[Count], Field(min_length=1)]
    class_images: Count
    people: Annotated[int, Field(ge=2, le=MOST)]
    prompts: Prompts
    images: Count
    pictured: Annotated[int, Field(ge=2, le=MOST)]
    sampling: Sampling
    first_seed: Seed
    again: dict[Text, dict[str, Any]]
    sweep_people: Annotated[int, Field(ge=2, le=MOST)]
    sweep_images: Count
    sweep: dict[Text, dict[str, Any]]
    min_auc: Share
    chance_within: Share


class Finetune(Section):
    targets: Targets
    rank: Count
    alpha: Positive
    recipe: FleetRecipe
    fleet_size: Count
    workers: Count | None
    compiled: bool
    checkpointing: bool
    prior_images: Count
    evaluate: FinetuneEvaluation


class Space(Section):
    """Numbers of components are compared on ``val`` people; ``gallery`` is of held-out ones."""

    counts: Annotated[list[Count], Field(min_length=1)]
    leading: Count
    val: Annotated[int, Field(ge=2, le=MOST)]
    heldout: Annotated[int, Field(ge=2, le=MOST)]
    gallery: Annotated[int, Field(ge=2, le=MOST)]
    samples: Annotated[int, Field(ge=2, le=MOST)]
    prompts: Prompts
    images: Annotated[int, Field(ge=2, le=MOST)]
    pictured: Count
    sampling: Sampling
    first_seed: Seed
    min_auc: Share
    seed: Seed


class Edit(Section):
    attributes: Names
    components: Count
    strength: Strength
    milder: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)]
    people: Annotated[int, Field(ge=2, le=MOST)]
    strengths: Annotated[list[Strength], Field(min_length=1)]
    counterfactual: Text
    compose: Annotated[dict[Text, Strength], Field(min_length=1)]
    columns: Count
    inject_below: Annotated[list[Count], Field(min_length=1)]
    prompts: Prompts
    pictured: Count
    sampling: Sampling
    first_seed: Seed
    works_above: Share
    control_below: Share
    min_directions: Attributes
    min_auc: Share
    seed: Seed


class Invert(Section):
    people: Annotated[int, Field(ge=2, le=MOST)]
    val: Annotated[int, Field(ge=2, le=MOST)]
    unseen: Count
    given: Count
    components: Count
    recipe: InversionRecipe
    quick: InversionRecipe
    start_views: Count
    seeds: Annotated[list[Seed], Field(min_length=2), AfterValidator(distinct)]
    dreambooth_steps: Annotated[list[Count], Field(min_length=1), AfterValidator(distinct)]
    paper_steps: Count
    timed: Annotated[int, Field(ge=2, le=MOST)]
    plain_steps: Annotated[list[Count], Field(min_length=1), AfterValidator(distinct)]
    quick_steps: Annotated[list[Count], Field(min_length=1), AfterValidator(distinct)]
    counts: Annotated[list[Count], Field(min_length=1), AfterValidator(distinct)]
    counted: Annotated[int, Field(ge=2, le=MOST)]
    edits: Names
    strength: Strength
    scales: Annotated[list[Positive], Field(min_length=1), AfterValidator(distinct)]
    prompts: Prompts
    images: Count
    pictured: Count
    smoothing: Count
    sampling: Sampling
    first_seed: Seed
    min_auc: Share


class Profile(Section):
    """All settings of one profile, a section for each stage.

    A profile has the sections of all stages with people, or ``release``, or both. ValueError for one that it lacks.
    """

    base: Base
    people: PeopleStage | None = None
    finetune: Finetune | None = None
    space: Space | None = None
    edit: Edit | None = None
    invert: Invert | None = None
    judge: Judge | None = None
    scale: Scale | None = None
    domains: Domains | None = None
    release: Release | None = None

    @model_validator(mode="after")
    def _whole(self):
        if missing := [name for name in WITH_PEOPLE if not self.has(name)]:
            if len(missing) < len(WITH_PEOPLE):
                there = ", ".join(name for name in WITH_PEOPLE if self.has(name))
                raise ValueError(f"{', '.join(missing)}: missing beside {there}; expected all of them, or none")
            if not self.has("release"):
                raise ValueError("no stages: expected the sections people to domains, or release, or both")
        return self

    def has(self, stage: str) -> bool:
        """Whether there is a section of this name."""
        return self.__dict__.get(stage) is not None

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if found is None and name in (*WITH_PEOPLE, "release"):
            there = [stage for stage in type(self).model_fields if self.has(stage)]
            raise ValueError(f"this profile has no section {name}: it has {', '.join(there)}")
        return found
