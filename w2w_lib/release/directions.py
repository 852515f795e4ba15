"""Attribute directions as the authors' release fits and measures them: in the units of the coefficients."""

from collections.abc import Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from w2w_lib.inputs import instance, nearest, some
from w2w_lib.space.arguments import finite_rows
from w2w_lib.space.directions import Direction
from w2w_lib.space.weight_space import WeightSpace

METHOD = "release"  # what our directions say that they were made by


def released_direction(
    space: WeightSpace, labels: pd.DataFrame, attribute: str, without: Sequence[str] = ()
) -> Float[Tensor, " pcs"]:
    """d = pinv(coefficients) y, without an intercept, for y of -1 and 1 (the release's ``get_direction``).

    It is 0 along components whose coefficients are not known. ``labels`` are False and True by model, as
    ``open_import`` has them. ``without`` removes the directions of other
    labels one after the other, d -= (d e / |e|^2) e; the result depends on their order, as in the release (our
    ``fit_directions`` solves for all of them jointly). ValueError for a label that is not there, or models without.
    """
    instance("space", space, WeightSpace)
    instance("labels", labels, pd.DataFrame)
    for name in (attribute, *without):
        if name not in labels:
            raise ValueError(f"labels: no column {name!r}{nearest(name, map(str, labels.columns))}")
    if missing := [name for name in space.ids if name not in labels.index]:
        raise ValueError(f"labels: no row for models {some(missing)} of the space")
    targets = torch.tensor(labels.loc[space.ids, [attribute, *without]].to_numpy(bool)) * 2.0 - 1
    direction, *others = torch.linalg.lstsq(space.coefficients, targets).solution.T
    for other in others:
        direction = direction - (direction @ other) / other.square().sum() * other
    return F.pad(direction, (0, len(space.components) - space.known))


def strength_of_sigma(space: WeightSpace, direction: Float[Tensor, " pcs"]) -> float:
    """The release's bare strength s of c + s d that moves a model by one standard deviation of the training models.

    It is std(coefficients d / |d|) / |d|; s / ``strength_of_sigma`` is a released strength in standard deviations.
    """
    direction = finite_rows("direction", direction, len(space.components), axes=1)
    return float((space.coefficients @ _known(space, direction)).std() / direction.square().sum())


def as_direction(space: WeightSpace, attribute: str, direction: Float[Tensor, " pcs"]) -> tuple[Direction, float]:
    """The same line as one of our directions, and how many of its units one unit of the release's strength is.

    Our unit is one standard deviation of the training models' projections. ``held_out_auc`` is NaN: the release holds
    none out.
    """
    direction = finite_rows("direction", direction, len(space.components), axes=1)
    sigma, direction, std = strength_of_sigma(space, direction), _known(space, direction), space.std[: space.known]
    score = direction * std
    axis = score / (direction.square().sum() * sigma)
    projections = (space.coefficients / std) @ axis
    ends = projections.min().item(), projections.max().item()
    vectors = direction * sigma / std, axis, score / score.norm()
    return Direction(attribute, *vectors, *ends, float("nan"), space.source, METHOD), 1 / sigma


def _known(space: WeightSpace, direction: Tensor) -> Tensor:
    """Its part along components whose coefficients are known; ValueError where it has another."""
    if direction[space.known :].any():
        raise ValueError(f"direction: moves along components after {space.known}, whose coefficients are not known")
    return direction[: space.known]
