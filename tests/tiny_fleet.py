"""Three people, class pictures and a recipe for fleets of a tiny base, and how nearly two ways of training agree."""

import pytest
import torch

from w2w_lib.training import fleet as fleet_module
from w2w_lib.training.recipe import FleetRecipe

RECIPE = FleetRecipe(
    steps=5,
    learning_rate=1e-2,
    instance_batch=2,
    prior_batch=2,
    prior_weight=0.5,
    timesteps=(200, 900),
    clip_norm=0.01,
    lr_scheduler="linear",
)


# Of what training changed, in fp32. Sums are taken in another order, and AdamW divides gradients by their own size:
# where they are nearly zero, rounding is what it divides. Seen: 5e-5, and 1.1e-3 once.
WITHIN = 5e-3


@pytest.fixture(scope="module")
def images():
    rng = torch.Generator().manual_seed(3)
    return {f"person-{i}": torch.randn(4, 4, 8, 8, generator=rng) for i in range(3)}


@pytest.fixture(scope="module")
def prior():
    return torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def roomy(monkeypatch):
    """Memory for whatever is asked."""
    monkeypatch.setattr(fleet_module, "plan", lambda workers, size, *_: (workers, size))
