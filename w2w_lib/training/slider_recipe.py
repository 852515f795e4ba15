"""The settings of training text sliders."""

from typing import Annotated

from pydantic import Field

from w2w_lib.inputs import Seed, checked
from w2w_lib.models.recipe import TIMESTEPS
from w2w_lib.training.recipe import Count, NotNegative, Positive, Schedule


@checked
class SliderRecipe:
    """Settings of training, the same for every slider; ValueError for what cannot be followed."""

    steps: Count = 100
    batch: Count = 4
    eta: Positive = 4.0  # how many times the contrast is added, as in Gandikota et al. 2023
    learning_rate: Positive = 2e-3  # of A
    lr_ratio: Positive = 16.0  # of B's learning rate over A's (LoRA+, Hayou et al. 2024)
    lr_scheduler: Schedule = "linear"
    weight_decay: NotNegative = 0.01
    pool_seeds: Count = 16  # pictures that the base denoises once, to train on all the stages of ...
    pool_steps: Annotated[int, Field(ge=1, le=TIMESTEPS)] = 20  # ... in so many steps of DDIM ...
    guidance: NotNegative = 2.5  # ... with classifier-free guidance; up to 1: none
    at_once: Count = 64  # rows of a batch through the base where nothing is trained: a matter of memory alone
    seed: Seed = 0
