"""The sections of params.yaml as typed models: one for each stage, with the ranges of every setting."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from w2w_lib.models.sampling import Sampling
from w2w_lib.people.recipe import PeopleRecipe
from w2w_lib.people.rendered.person import ATTRIBUTES
from w2w_lib.pocket.recipe import BaseRecipe
from w2w_lib.space.direction_methods import known_method
from w2w_lib.space.inversion_recipes import InversionRecipe
from w2w_lib.training.recipe import FleetRecipe
from w2w_lib.training.text_sliders import SliderRecipe
from w2w_lib.workbook import paths

MOST = 1_000_000  # of anything: more is a slip of the keyboard
LARGEST_SEED = 2**32 - 1
WRITABLE = ("data", "outputs")  # the folders of the repository that runs write to


def _filled(text: Any) -> Any:
    if isinstance(text, str) and (not text.strip() or "\0" in text):
        raise ValueError("expected a text that is not empty")
    return text


def _inside(path: Path) -> Path:
    if ".." in path.parts or len(path.parts) < 2 or path.parts[0] not in WRITABLE:
        raise ValueError(f"expected a path in the repository's {' or '.join(WRITABLE)}, found {str(path)!r}")
    return path


def _located(recipe: PeopleRecipe) -> PeopleRecipe:
    """With paths that do not depend on where the process runs."""
    given = {name: path for name in ("source", "labels") if (path := getattr(recipe, name)) is not None}
    return replace(recipe, **{name: paths.ROOT / paths.expanded(path) for name, path in given.items()})


def _distinct(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError(f"expected each value once, found {values}")
    return values


def _rising(values: list) -> list:
    if sorted(set(values)) != values:
        raise ValueError(f"expected rising numbers, found {values}")
    return values


Count = Annotated[int, Field(ge=1, le=MOST)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Index = Annotated[int, Field(ge=0, le=MOST)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=MOST)]
Strength = Annotated[float, Field(ge=-100, le=100)]  # an edit's; further out every picture is noise
Attributes = Annotated[int, Field(ge=0, le=len(ATTRIBUTES))]  # how many
Text = Annotated[str, BeforeValidator(_filled)]
Prompts = Annotated[list[Text], Field(min_length=1)]
Rising = Annotated[list[Annotated[int, Field(ge=2, le=MOST)]], Field(min_length=2), AfterValidator(_rising)]
Names = Annotated[list[Text], Field(min_length=1), AfterValidator(_distinct)]
Written = Annotated[Path, BeforeValidator(_filled), AfterValidator(_inside)]  # relative to the repository
Given = Annotated[Path, BeforeValidator(_filled), AfterValidator(paths.expanded)]  # anywhere
Targets = Literal["paper", "release"]  # of w2w_lib.lora.layout.TARGETS
Method = Annotated[str, AfterValidator(known_method)]  # of fitting directions
NotNegative = Annotated[float, Field(ge=0, le=MOST)]
Domain = Literal[  # of w2w_lib.evaluation.domains.DOMAINS
    "line drawing", "posterised", "gray", "hue-shifted", "oil-like", "strongly lit", "half covered"
]


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

    def moved(self, folder: str) -> "BaseTraining":
        """The same training with base, classifier and work in ``folder`` of the repository; itself for an empty one."""
        if not folder:
            return self
        classifier = self.classifier.model_copy(update={"file": Path(folder, "classifier.safetensors")})
        places = {"out": Path(folder, "base"), "work": Path(folder, "work"), "classifier": classifier}
        return self.model_copy(update=places)


class Base(Section):
    """The model that a profile personalises, and how the profile trains one, if it does."""

    model: Given | None = None
    training: BaseTraining | None = None


class PeopleThresholds(Section):
    """What the people's pictures have to reach; ``visible`` counts attributes."""

    faces: Share
    verification: Share
    visible: Attributes


class PeopleStage(Section):
    sets: Annotated[PeopleRecipe, AfterValidator(_located)]
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
    strength: Strength
    milder: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)]
    people: Annotated[int, Field(ge=2, le=MOST)]
    strengths: Annotated[list[Strength], Field(min_length=1)]
    hero: Index
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
    seeds: Annotated[list[Seed], Field(min_length=2), AfterValidator(_distinct)]
    dreambooth_steps: Annotated[list[Count], Field(min_length=1), AfterValidator(_distinct)]
    paper_steps: Count
    timed: Annotated[int, Field(ge=2, le=MOST)]
    plain_steps: Annotated[list[Count], Field(min_length=1), AfterValidator(_distinct)]
    quick_steps: Annotated[list[Count], Field(min_length=1), AfterValidator(_distinct)]
    counts: Annotated[list[Count], Field(min_length=1), AfterValidator(_distinct)]
    counted: Annotated[int, Field(ge=2, le=MOST)]
    edits: Names
    strength: Strength
    prompts: Prompts
    images: Count
    pictured: Count
    smoothing: Count
    sampling: Sampling
    first_seed: Seed
    min_auc: Share


class Judge(Section):
    """How edits are judged; ``clip`` is a folder or a cached hub id, None for the pocket world's dual encoder."""

    attributes: Names
    people: Annotated[int, Field(ge=2, le=MOST)]
    validation: Annotated[int, Field(ge=2, le=MOST)]
    swept: Annotated[int, Field(ge=2, le=MOST)]
    oracles: Annotated[int, Field(ge=2, le=MOST)]
    composed: Annotated[int, Field(ge=2, le=MOST)]
    prompts: Prompts
    images: Annotated[int, Field(ge=2, le=MOST)]
    sampling: Sampling
    first_seed: Seed
    methods: Annotated[list[Method], Field(min_length=1), AfterValidator(_distinct)]
    reported: Annotated[list[Method], Field(min_length=1), AfterValidator(_distinct)]
    components: Annotated[list[Count], Field(min_length=1), AfterValidator(_distinct)]
    shares: Annotated[list[Positive], Field(min_length=2), AfterValidator(_distinct)]
    slider: SliderRecipe
    slider_shares: Annotated[list[Positive], Field(min_length=1), AfterValidator(_distinct)]
    least_effect: Strength
    hero: Index
    pictured: Names
    compose: Annotated[list[Names], Field(min_length=1)]
    delayed: Text
    inject_below: Annotated[list[Count], Field(min_length=1)]
    face_embedder: Literal["dlib", "facenet"] = "dlib"
    face_weights: Given | None = None
    clip: Text | None = None
    effect_above: Strength
    seed: Seed


class Numbers(Section):
    """Numbers of people in a space, each one painted or inverted into, and of components of the largest one."""

    sizes: Rising
    counts: Rising
    fixed: Count  # components, whatever the number of people


class ProjectedScale(Numbers):
    repeats: Count


class InvertedScale(Numbers):
    recipe: InversionRecipe


class EditedScale(Numbers):
    attributes: Names
    people: Annotated[int, Field(ge=2, le=MOST)]
    lengths: Annotated[list[Positive], Field(min_length=1)]  # of the training people's mean distance from the mean
    effect: Positive  # at which spills are compared, in standard deviations of the logit


class SampledScale(Numbers):
    models: Annotated[int, Field(ge=4, le=MOST)]
    images: Annotated[int, Field(ge=2, le=MOST)]
    kinds: Count
    leading: Count
    width: Positive
    faces: Annotated[int, Field(ge=4, le=MOST)]


class InterpolatedScale(Section):
    pairs: Annotated[int, Field(ge=2, le=MOST)]
    shares: Annotated[list[Share], Field(min_length=3)]
    images: Annotated[int, Field(ge=2, le=MOST)]
    slack: Share
    pictured: Count


class ComponentSliders(Section):
    components: Count
    strengths: Annotated[list[Strength], Field(min_length=2)]
    people: Annotated[int, Field(ge=2, le=MOST)]


class Scale(Section):
    sizes: Rising
    repeats: Annotated[int, Field(ge=2, le=MOST)]
    fixed: Count
    models_per_component: Count
    correlated: Share
    pairs: Annotated[list[tuple[Text, Text]], Field(min_length=1)]
    people: Annotated[int, Field(ge=2, le=MOST)]
    views: Count
    prompts: Prompts
    images: Count
    projected: ProjectedScale
    inverted: InvertedScale
    edited: EditedScale
    sampled: SampledScale
    alternatives: dict[Text, dict[str, Any]]
    interpolated: InterpolatedScale
    sliders: ComponentSliders
    kurtosis_within: Positive
    times_as_many: Annotated[float, Field(gt=1, le=MOST)]
    sampling: Sampling
    first_seed: Seed
    seed: Seed


class Domains(Section):
    people: Annotated[int, Field(ge=2, le=MOST)]
    val: Annotated[int, Field(ge=2, le=MOST)]
    unseen: Count
    domains: Annotated[list[Domain], Field(min_length=1), AfterValidator(_distinct)]
    components: Count
    recipe: InversionRecipe
    priors: Annotated[list[NotNegative], Field(min_length=1), AfterValidator(_distinct)]
    photo_recipe: InversionRecipe
    photo_priors: Annotated[list[NotNegative], Field(min_length=1), AfterValidator(_distinct)]
    dreambooth_steps: Count
    attribute: Text
    wearers: Annotated[int, Field(ge=2, le=MOST)]
    edits: Names
    strength: Strength
    prompts: Prompts
    images: Count
    pictured: Count
    sampling: Sampling
    first_seed: Seed
    seed: Seed


class Profile(Section):
    """All settings of one profile, a section for each stage."""

    base: Base
    people: PeopleStage
    finetune: Finetune
    space: Space
    edit: Edit
    invert: Invert
    judge: Judge
    scale: Scale
    domains: Domains
