"""Controls: what a space, a sample or an edit has to be better than."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from w2w_lib.files.tensors import floating
from w2w_lib.inputs import finite_number, instance, whole_number
from w2w_lib.space.arguments import finite_rows, generator, known_seed, parts
from w2w_lib.space.directions import Direction
from w2w_lib.space.weight_space import WeightSpace


def independent_columns(weights: Float[Tensor, "models d"], seed: int) -> Float[Tensor, "models d"]:
    """Every column shuffled on its own: the same numbers, what they had in common gone (Horn 1965)."""
    rows = finite_rows("weights", weights, floating("weights", weights).shape[-1:].numel(), axes=2).detach()
    return torch.from_numpy(np.random.default_rng(known_seed(seed)).permuted(rows.numpy(), axis=0))


def held_out_share(space: WeightSpace, weights: Float[Tensor, "models d"]) -> float:
    """Share of the squared distance to the mean that survives projecting and coming back."""
    weights = finite_rows("weights", weights, space.layout.dimension, axes=2)
    kept = whole = 0.0
    for part in parts(weights):
        deviations = space.deviations(part)
        kept += float((deviations @ space.components.T).square().sum())
        whole += float(deviations.square().sum())
    if not whole:
        raise ValueError("weights: every row is the space's mean, found no distance to share; expected other models")
    finite_number("squared distance of the weights to the mean", whole)
    return kept / whole


def outside(space: WeightSpace, weights: Float[Tensor, "models d"], seed: int) -> Float[Tensor, "models d"]:
    """For every model a random one as far from the mean, in a direction orthogonal to all components."""
    weights = finite_rows("weights", weights, space.layout.dimension, axes=2)
    if len(space.components) >= space.layout.dimension:
        raise ValueError(f"a space of all {space.layout.dimension} dimensions has no outside: truncate it")
    noise = torch.randn(weights.shape, generator=generator(seed))
    noise -= noise @ space.components.T @ space.components
    if space.scale is not None:
        noise *= space.scale
    noise *= ((weights - space.mean_model).norm(dim=1) / noise.norm(dim=1))[:, None]
    return noise.add_(space.mean_model)


def random_direction(space: WeightSpace, components: int, seed: int) -> Direction:
    """A direction without meaning among the first ``components``, the control for every edit."""
    count = whole_number("components", components, 1, len(space.components))
    vector = torch.randn(count, generator=generator(seed))
    vector /= vector.norm()
    free = Direction("random", vector, vector, vector, 0.0, 0.0, 0.5, space.source, "random")
    projections = free.projection(space, space.coefficients)
    return replace(free, lowest=projections.min().item(), highest=projections.max().item())


def random_step(space: WeightSpace, direction: Direction, seed: int) -> Float[Tensor, " d"]:
    """A step as long as the direction's own, within the same components, towards nothing in particular."""
    instance("direction", direction, Direction)
    step = direction.step(space)
    control = random_direction(space, len(direction.vector), seed).step(space)
    return control * step.norm() / control.norm()
