"""Controls: what a space, a sample or an edit has to be better than."""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from w2w_lib.files.tensors import floating
from w2w_lib.inputs import finite_number, instance, known_seed, whole_number
from w2w_lib.space.arguments import finite_rows, generator, parts
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


def beyond(space: WeightSpace, coefficients: Float[Tensor, "models kept"], seed: int) -> Float[Tensor, "models pcs"]:
    """For every model a random one as far from the mean, that differs from it in the components beyond those kept.

    ``space`` has more components than the models have coefficients. The first are at the training models' mean, the
    others drawn from N(mu_k, sigma_k) and stretched to the model's own distance.
    """
    kept = floating("coefficients", coefficients).shape[-1:].numel()
    coefficients = finite_rows("coefficients", coefficients, kept, axes=2)
    if kept >= len(space.components):
        raise ValueError(f"space of {len(space.components)} components, of which {kept} are kept: expected more")
    mean = space.coefficients.mean(0)
    drawn = space.sample(len(coefficients), seed) - mean
    drawn[:, :kept] = 0
    distance = (coefficients - mean[:kept]).norm(dim=1, keepdim=True)
    return mean + drawn * distance / drawn.norm(dim=1, keepdim=True)


def rotated(coefficients: Float[Tensor, "models pcs"], seed: int) -> Float[Tensor, "models pcs"]:
    """The same vectors, all turned by one random rotation: as long, in the same span, each component's spread mixed."""
    width = floating("coefficients", coefficients).shape[-1:].numel()
    coefficients = finite_rows("coefficients", coefficients, width, axes=2)
    noise = torch.randn(width, width, generator=generator(seed), dtype=torch.float64)
    axes, upper = torch.linalg.qr(noise)
    return coefficients @ (axes * upper.diagonal().sign()).float()  # Haar-distributed (Mezzadri 2007)


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
