"""The sections of params.yaml for the notebooks that judge the method: edits, scale, other domains."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from w2w_lib.inputs import Seed
from w2w_lib.models.recipe import Sampling
from w2w_lib.space.inversion_recipes import InversionRecipe
from w2w_lib.training.slider_recipe import SliderRecipe
from w2w_lib.workbook.setting_types import (
    MOST,
    Count,
    Domain,
    Given,
    Method,
    Names,
    NotNegative,
    Positive,
    Prompts,
    Rising,
    Section,
    Share,
    Strength,
    Text,
    distinct,
)


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
    methods: Annotated[list[Method], Field(min_length=1), AfterValidator(distinct)]
    reported: Annotated[list[Method], Field(min_length=1), AfterValidator(distinct)]
    components: Annotated[list[Count], Field(min_length=1), AfterValidator(distinct)]
    shares: Annotated[list[Positive], Field(min_length=2), AfterValidator(distinct)]
    slider: SliderRecipe
    slider_shares: Annotated[list[Positive], Field(min_length=1), AfterValidator(distinct)]
    least_effect: Strength
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
    repeats: Count  # random orders of the people


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
    domains: Annotated[list[Domain], Field(min_length=1), AfterValidator(distinct)]
    components: Count
    recipe: InversionRecipe
    priors: Annotated[list[NotNegative], Field(min_length=1), AfterValidator(distinct)]
    photo_recipe: InversionRecipe
    photo_priors: Annotated[list[NotNegative], Field(min_length=1), AfterValidator(distinct)]
    dreambooth_steps: Annotated[list[Count], Field(min_length=1), AfterValidator(distinct)]
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
