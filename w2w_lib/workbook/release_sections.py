"""The section of params.yaml for the notebook on the authors' release."""

from typing import Annotated

from pydantic import Field, model_validator

from w2w_lib.inputs import Seed
from w2w_lib.models.recipe import Sampling
from w2w_lib.space.inversion_recipes import InversionRecipe
from w2w_lib.workbook.setting_types import (
    MOST,
    Count,
    Given,
    Names,
    NotNegative,
    Prompts,
    Section,
    Strength,
    Text,
)


class Synthetic(Section):
    """The sizes of a release that the notebook makes itself, around a planted space."""

    models: Annotated[int, Field(ge=2, le=MOST)]
    columns: Count  # of V
    known: Count  # of them, components with training coefficients
    inverted: Annotated[int, Field(ge=2, le=MOST)]  # planted people whose pictures are inverted
    steps: Count  # of these inversions


class Release(Section):
    """The authors' released space, or a synthetic one where there is no ``source``."""

    source: Text | None = None  # a folder, or a name on the Hugging Face hub
    synthetic: Synthetic | None = None
    components: Count
    labels: Annotated[Names, Field(min_length=3)]  # that people are edited along
    strengths: Annotated[list[Strength], Field(min_length=2)]
    strength: Strength  # of single edits
    inject_below: Annotated[list[Count], Field(min_length=1)]
    samples: Annotated[int, Field(ge=2, le=MOST)]
    photo: Given | None = None
    mask: Given | None = None
    recipe: InversionRecipe
    priors: Annotated[list[NotNegative], Field(min_length=1)]
    prompts: Prompts
    images: Count
    sampling: Sampling
    first_seed: Seed
    seed: Seed

    @model_validator(mode="after")
    def _mask_has_a_photo(self):
        if self.mask is not None and self.photo is None:
            raise ValueError("mask without a photo: the sample photograph has its own; name the photo, or no mask")
        return self
