"""DreamBooth of people of whom there are few pictures, in memory, for a comparison."""

import torch
from jaxtyping import Float
from torch import Tensor

from w2w_lib.inputs import whole_number
from w2w_lib.training.fleet import Fleet
from w2w_lib.training.loop import Latents


def fine_tuned(fleet: Fleet, latents: Latents, at_once: int = 32) -> Float[Tensor, "models d"]:
    """Weights of a model for each person, in their order, trained ``at_once`` at a time and kept nowhere.

    ValueError as for ``Fleet.train``, and where weights become NaN or infinite.
    """
    ids, at_once = list(latents), whole_number("at_once", at_once)
    groups = [ids[first : first + at_once] for first in range(0, len(ids), at_once)] or [[]]
    with fleet.session() as train:
        weights = torch.cat([train({i: latents[i] for i in group})[0] for group in groups])
    if lost := [i for i, row in zip(ids, weights, strict=True) if not row.isfinite().all()]:
        raise ValueError(f"the weights of {lost[0]!r} became NaN or infinite: lower the learning rate")
    return weights
