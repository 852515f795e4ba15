"""The settings of an inversion, and the recipes that have a name."""

from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from w2w_lib.inputs import Seed, checked, nearest


@checked
class InversionRecipe:
    """Settings of the optimisation; ValueError for what cannot be followed.

    ``units`` are what Adam moves: standard deviations of the training models' coefficients, or the raw coefficients.
    """

    steps: PositiveInt = 200
    learning_rate: PositiveFloat = 0.1
    batch: PositiveInt = 8  # noised copies of each person's pictures in a step ...
    at_once: PositiveInt = 64  # ... of so many people at a time, which is a matter of memory alone
    prior: NonNegativeFloat = 1e-3  # weight of the squared coefficients: a pull towards the mean person
    weight_decay: NonNegativeFloat = 0.0  # Adam's, in the same units
    units: Literal["deviations", "raw"] = "deviations"
    schedule: Literal["cosine", "constant"] = "cosine"  # of the learning rate
    timesteps: tuple[int, int] = (0, 1000)
    seed: Seed = 0

    def __post_init__(self):
        if not 0 <= self.timesteps[0] < self.timesteps[1]:
            raise ValueError(f"timesteps: expected a first one and a later end, found {self.timesteps}")


RECIPES = {
    "ours": InversionRecipe(),
    # Dravid et al. 2024, App. C; the authors' code: one noised copy in a step, no other pull.
    "paper": InversionRecipe(
        steps=400, learning_rate=0.1, batch=1, prior=0.0, weight_decay=1e-10, units="raw", schedule="constant"
    ),
}


def recipe_named(name: str) -> InversionRecipe:
    """One of ``RECIPES``; ValueError for another name."""
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}{nearest(str(name), RECIPES)}")
    return RECIPES[name]
