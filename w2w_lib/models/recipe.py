"""The settings of sampling and opening, and the word that stands for the person in every prompt."""

import re
from typing import Annotated

from pydantic import Field

from w2w_lib.inputs import checked

IDENTIFIER = "sks"  # the word that stands for the person; it means nothing to the base (Ruiz et al. 2023)
TIMESTEPS = 1000  # of Stable Diffusion's noise schedule
VARIANT = re.compile(r"[\w-]+", re.ASCII)


@checked
class Sampling:
    """How pictures are sampled: DDIM steps, classifier-free guidance, and when the adapter comes in."""

    steps: Annotated[int, Field(ge=1, le=TIMESTEPS)] = 20
    guidance: Annotated[float, Field(ge=0)] = 2.5  # up to 1: none
    inject_below: Annotated[int, Field(ge=0, le=TIMESTEPS)] = (
        TIMESTEPS  # the adapter acts on timesteps up to this one (Dravid et al. 2024, App. G: 700 to 1000)
    )
    batch_size: Annotated[int, Field(ge=1)] = 64  # at most; on a GPU, as many as its free memory holds
    negative_prompt: str = ""  # what guidance leads away from


def check_variant(variant: str | None) -> str | None:
    """A variant's name, or None; ValueError for what cannot be in a file's name."""
    if variant is not None and not (isinstance(variant, str) and VARIANT.fullmatch(variant)):
        raise ValueError(f"variant {variant!r}: expected the name of a variant of the weights, such as 'fp16', or None")
    return variant
