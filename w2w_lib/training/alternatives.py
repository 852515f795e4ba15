"""A few people trained in another way than the fleet's: of another rank, on fewer pictures, by another recipe."""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.training.few_pictures import fine_tuned
from w2w_lib.training.loop import Latents
from w2w_lib.training.variants import FleetVariants


class Alternative(NamedTuple):
    """Adapters of some people, their layout, and the seconds that each took in one fleet of all of them."""

    layout: AdapterLayout
    weights: Float[Tensor, "people d"]
    seconds: float


def train_alternative(
    fleets: FleetVariants, latents: Latents, changes: Mapping[str, Any], fleet_size: int = 32
) -> Alternative:
    """Train people with some of the changes that ``FleetVariants.fleet`` takes; ValueError as for ``fine_tuned``."""
    latents = {i: own[: changes.get("views")] for i, own in latents.items()}
    fleet, started = fleets.fleet(**changes), time.perf_counter()
    weights = fine_tuned(fleet, latents, fleet_size)
    return Alternative(fleet.layout, weights, (time.perf_counter() - started) / len(latents))
