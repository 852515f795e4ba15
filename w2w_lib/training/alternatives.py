"""A few people trained in another way than the fleet's: of another rank, on fewer pictures, by another recipe."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor

from w2w_lib.inputs import whole_number
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.space.gauges import with_rank
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
    """Train people with some changes: ``targets``, fields of the recipe, ``pictures`` (how many of each person's), or
    ``rank``, with B A weighted as before. ValueError as for ``fine_tuned``.
    """
    changes = dict(changes)
    if "rank" in changes:
        fleets = replace(fleets, layout=with_rank(fleets.layout, changes.pop("rank")))
    if "pictures" in changes:
        kept = whole_number("pictures", changes.pop("pictures"))
        latents = {i: own[:kept] for i, own in latents.items()}
    fleet, started = fleets.fleet(**changes), time.perf_counter()
    weights = fine_tuned(fleet, latents, fleet_size)
    return Alternative(fleet.layout, weights, (time.perf_counter() - started) / len(latents))
