"""Controls: what a space, a sample or an edit has to be better than."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from w2w_lib.space.directions import Direction
from w2w_lib.space.weight_space import WeightSpace


def independent_columns(weights: Float[Tensor, "models d"], seed: int) -> Float[Tensor, "models d"]:
    """Every column shuffled on its own: the same numbers, what they had in common gone (Horn 1965)."""
    order = torch.rand(weights.shape, generator=torch.Generator().manual_seed(seed)).argsort(0)
    return weights.gather(0, order)


def held_out_share(space: WeightSpace, weights: Float[Tensor, "models d"]) -> float:
    """Share of the squared distance to the mean that survives projecting and coming back."""
    centred = (weights if space.scale is None else weights / space.scale) - space.mean
    return float(space.project(weights).square().sum() / centred.square().sum())


def outside(space: WeightSpace, weights: Float[Tensor, "models d"], seed: int) -> Float[Tensor, "models d"]:
    """For every model a random one as far from the mean, in a direction orthogonal to all components."""
    mean = space.unproject(torch.zeros(len(space.components)))
    noise = torch.randn(weights.shape, generator=torch.Generator().manual_seed(seed))
    noise = noise - noise @ space.components.T @ space.components
    if space.scale is not None:
        noise = noise * space.scale
    return mean + noise * ((weights - mean).norm(dim=1) / noise.norm(dim=1))[:, None]


def random_direction(space: WeightSpace, components: int, seed: int) -> Direction:
    """A direction without meaning, the control for every edit."""
    vector = torch.randn(components, generator=torch.Generator().manual_seed(seed))
    free = Direction("random", vector / vector.norm(), 0.0, 0.0, 0.5)
    projections = free.projection(space, space.coefficients)
    return replace(free, lowest=projections.min().item(), highest=projections.max().item())


def random_step(space: WeightSpace, direction: Direction, seed: int) -> Float[Tensor, " d"]:
    """A step as long as the direction's own, within the same components, towards nothing in particular."""
    control = random_direction(space, len(direction.vector), seed).step(space)
    return control * direction.step(space).norm() / control.norm()
