"""The settings of inversion."""

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from w2w_lib.inputs import Seed, checked


@checked
class InversionRecipe:
    """Settings of the optimisation; coefficients are in standard deviations of the training models."""

    steps: PositiveInt = 200
    learning_rate: PositiveFloat = 0.1
    batch: PositiveInt = 8  # noised copies of each picture in a step ...
    at_once: PositiveInt = 64  # ... of so many pictures at a time, which is a matter of memory alone
    prior: NonNegativeFloat = 1e-3  # weight of the squared coefficients: a pull towards the mean person
    timesteps: tuple[int, int] = (0, 1000)
    seed: Seed = 0

    def __post_init__(self):
        if not 0 <= self.timesteps[0] < self.timesteps[1]:
            raise ValueError(f"timesteps: expected a first one and a later end, found {self.timesteps}")
