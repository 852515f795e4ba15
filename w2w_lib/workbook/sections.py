"""The sections of params.yaml as typed models: one for each stage, with the ranges of every setting."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from w2w_lib.models.sampling import Sampling
from w2w_lib.people.rendered.person import ATTRIBUTES
from w2w_lib.pocket.recipe import BaseRecipe
from w2w_lib.space.inversion import InversionRecipe
from w2w_lib.training.recipe import FleetRecipe

MOST = 1_000_000  # of anything: more is a slip of the keyboard
WRITABLE = ("data", "outputs")  # the folders of the repository that runs write to


def _filled(text: Any) -> Any:
    if isinstance(text, str) and (not text.strip() or "\0" in text):
        raise ValueError("expected a text that is not empty")
    return text


def _inside(path: Path) -> Path:
    if ".." in path.parts or len(path.parts) < 2 or path.parts[0] not in WRITABLE:
        raise ValueError(f"expected a path in the repository's {' or '.join(WRITABLE)}, found {str(path)!r}")
    return path


def _distinct(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError(f"expected each value once, found {values}")
    return values


Count = Annotated[int, Field(ge=1, le=MOST)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Index = Annotated[int, Field(ge=0, le=MOST)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Attributes = Annotated[int, Field(ge=0, le=len(ATTRIBUTES))]  # how many
Text = Annotated[str, BeforeValidator(_filled)]
Prompts = Annotated[list[Text], Field(min_length=1)]
Names = Annotated[list[Text], Field(min_length=1), AfterValidator(_distinct)]
Written = Annotated[Path, BeforeValidator(_filled), AfterValidator(_inside)]  # relative to the repository
Given = Annotated[Path, BeforeValidator(_filled), AfterValidator(Path.expanduser)]  # anywhere
Targets = Literal["paper", "release"]  # of w2w_lib.lora.layout.TARGETS


class Section(BaseModel):
    """Settings that do not change, and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


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


class Base(Section):
    """The model that a profile personalises, and how the profile trains one, if it does."""

    model: Given | None = None
    training: BaseTraining | None = None


class PeopleThresholds(Section):
    """What the people's pictures have to reach; ``visible`` counts attributes."""

    faces: Share
    verification: Share
    visible: Attributes


class PeopleSets(Section):
    """Rendered people, or one's own from a folder."""

    train: Count
    heldout: Count
    views: Count
    size: Count  # pixels
    source: Given | None = None
    labels: Given | None = None


class PeopleStage(Section):
    sets: PeopleSets
    evaluated_views: Count
    classifier_pictures: Count = 80_000  # that the classifier of one's own people sees: two minutes
    thresholds: PeopleThresholds


class FinetuneEvaluation(Section):
    check_steps: Count
    check_within: Share
    timed_steps: Annotated[int, Field(ge=2, le=MOST)]
    timed_sizes: Annotated[list[Count], Field(min_length=1)]
    watched: Count
    watched_at: Annotated[list[Count], Field(min_length=1)]
    class_images: Count
    people: Annotated[int, Field(ge=2, le=MOST)]
    views: Count
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

    def changed(self, targets: Targets | None = None, **changes) -> tuple[str, FleetRecipe]:
        """Target layers and recipe with some of them changed; ValueError for a change that there cannot be."""
        return targets or self.targets, FleetRecipe(**asdict(self.recipe) | changes)


class Space(Section):
    components: Count
    leading: Count
    counts: Annotated[list[Count], Field(min_length=1)]
    heldout: Annotated[int, Field(ge=2, le=MOST)]
    samples: Annotated[int, Field(ge=2, le=MOST)]
    prompts: Prompts
    images: Count
    pictured: Count
    sampling: Sampling
    first_seed: Seed
    min_auc: Share
    seed: Seed


class Edit(Section):
    attributes: Names
    components: Count
    strength: float
    people: Annotated[int, Field(ge=2, le=MOST)]
    strengths: Annotated[list[float], Field(min_length=1)]
    hero: Index
    counterfactual: Text
    compose: dict[Text, float]
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
    components: Count
    recipe: InversionRecipe
    photo_recipe: InversionRecipe
    edits: Names
    strength: float
    prompts: Prompts
    images: Count
    views: Count
    pictured: Count
    smoothing: Count
    sampling: Sampling
    first_seed: Seed
    min_auc: Share


class Profile(Section):
    """All settings of one profile, a section for each stage."""

    base: Base
    people: PeopleStage
    finetune: Finetune
    space: Space
    edit: Edit
    invert: Invert
