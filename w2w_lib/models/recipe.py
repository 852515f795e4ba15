"""The settings of sampling, and the word that stands for the person in every prompt."""

from typing import Annotated

from pydantic import Field

from w2w_lib.inputs import checked

IDENTIFIER = "sks"  # the word that stands for the person; it means nothing to the base (Ruiz et al. 2023)
TIMESTEPS = 1000  # of Stable Diffusion's noise schedule


@checked
class Sampling:
    """How pictures are sampled: DDIM steps, classifier-free guidance, and when the adapter comes in."""

    steps: Annotated[int, Field(ge=1, le=TIMESTEPS)] = 20
    guidance: Annotated[float, Field(ge=0)] = 2.5  # up to 1: none
    inject_below: Annotated[int, Field(ge=0, le=TIMESTEPS)] = (
        TIMESTEPS  # the adapter acts on timesteps up to this one (Dravid et al. 2024, App. G: 700 to 1000)
    )
    batch_size: Annotated[int, Field(ge=1)] = 64
