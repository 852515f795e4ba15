"""The settings of fine-tuning, the same for every identity."""

from dataclasses import asdict
from typing import Annotated, Literal

from pydantic import Field

from w2w_lib.inputs import Seed, checked
from w2w_lib.lora.recipe import Initialisation

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Timestep = Annotated[int, Field(ge=0, le=1000)]
# Of diffusers' names, those that need no further setting; "linear" ends at 0.
Schedule = Literal["constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "constant_with_warmup"]

InstancePrompt = Literal["plain", "context"]
Density = Literal["uniform", "logit_normal"]  # of the timesteps that are drawn


@checked
class FleetRecipe:
    """DreamBooth's settings (Ruiz et al. 2023), the same for every identity; ValueError for what cannot be followed."""

    steps: Count = 150
    learning_rate: Positive = 1e-2
    lr_ratio: Positive = 1.0  # of B's learning rate over A's, which is learning_rate (LoRA+, Hayou et al. 2024)
    instance_batch: Count = 3
    prior_batch: Annotated[int, Field(ge=0)] = 1
    prior_weight: NotNegative = 1.0  # lambda of Dravid et al. 2024, eq. 2
    weight_decay: NotNegative = 0.01
    clip_norm: Positive = 1.0
    instance_prompt: InstancePrompt = "plain"  # "context" also names what a picture shows beside the person
    timesteps: tuple[Timestep, Timestep] = (0, 1000)  # the first one, and the one after the last
    timestep_density: Density = "uniform"  # see w2w_lib.models.denoising.draw_rows
    logit_mean: float = 0.0  # of a logit-normal density
    min_snr: NotNegative = 0.0  # gamma of Hang et al. 2023; 0: every timestep weighs the same
    lr_scheduler: Schedule = "constant"
    initialisation: Initialisation = "random"  # see w2w_lib.lora.initialisation
    seed: Seed = 0

    def __post_init__(self):
        if self.prior_weight and not self.prior_batch:
            raise ValueError("FleetRecipe: prior_batch is 0, expected at least 1 where prior_weight is not 0")
        first, end = self.timesteps
        if first >= end:
            raise ValueError(f"FleetRecipe: timesteps {first} to {end}, expected a first one and a later end")

    def to_dict(self) -> dict:
        """The settings as JSON has them."""
        return asdict(self) | {"timesteps": list(self.timesteps)}
