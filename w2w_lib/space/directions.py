"""Directions in w2w space that change one attribute of a person and keep the rest."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isnan
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from pydantic import FiniteFloat
from sklearn.metrics import roc_auc_score
from torch import Tensor

from w2w_lib.files.atomic import save_tensors
from w2w_lib.files.tensors import floating, read_tensors
from w2w_lib.inputs import described, finite_number, instance, nearest, some, whole_number
from w2w_lib.space.arguments import finite_rows, known_seed
from w2w_lib.space.weight_space import WeightSpace

UNIT = 1e-3  # how far from 1 the length of a direction may be

EXPECTED, REMEDY = "saved directions", "fit the directions again and save them"
Range = tuple[FiniteFloat, FiniteFloat, FiniteFloat | None]  # lowest, highest, held-out AUC


@dataclass(frozen=True)
class Direction:
    """A unit vector among the coefficients measured in their standard deviations, in the space named ``space``.

    One unit of strength is therefore one standard deviation of the training models' projections onto it. It is normal
    to the separating plane as these units show it; in units of the weights, the paper's, that would be another vector.
    """

    attribute: str
    vector: Float[Tensor, " pcs"]
    lowest: float  # the training models' extreme projections, in the same unit;
    highest: float  # the paper's strength is this one
    held_out_auc: float
    space: str  # the source of the space that it was fitted in, and of that space's truncations

    def __post_init__(self):
        what = f"direction {self.attribute!r}"
        instance(what, self.attribute, str)
        instance(f"{what}: space", self.space, str)
        vector = finite_rows(f"{what}: vector", self.vector, floating(what, self.vector).shape[-1:].numel(), axes=1)
        if abs(vector.norm() - 1) > UNIT:
            raise ValueError(f"{what}: vectors are not of length 1, found {vector.norm().item():.6g}")
        lowest, highest = finite_number(f"{what}: lowest", self.lowest), finite_number(f"{what}: highest", self.highest)
        if lowest > highest:
            raise ValueError(f"{what}: expected lowest up to highest, found {lowest} and {highest}")
        if not isinstance(self.held_out_auc, float) or not (isnan(self.held_out_auc) or 0 <= self.held_out_auc <= 1):
            raise ValueError(f"{what}: held_out_auc: expected 0 to 1, or NaN, found {described(self.held_out_auc)}")

    def step(self, space: WeightSpace, strength: float = 1.0) -> Float[Tensor, " d"]:
        """The change of weights, alpha * n of edited_weights = weights + alpha n (Dravid et al. 2024, §3.3).

        ValueError for another space than the direction's own, and for a strength that is no finite number.
        """
        used = self._used(space)
        strength = finite_number(f"strength of {self.attribute}", strength)
        change = strength * (self.vector * space.std[:used]) @ space.components[:used]
        return change if space.scale is None else change * space.scale

    def projection(self, space: WeightSpace, coefficients: Float[Tensor, "*models pcs"]) -> Float[Tensor, "*models"]:
        """How far along the direction models lie, in standard deviations; ValueError as in ``step``."""
        used = self._used(space)
        coefficients = finite_rows("coefficients", coefficients, len(space.components))
        return (coefficients[..., :used] / space.std[:used]) @ self.vector

    def _used(self, space: WeightSpace) -> int:
        """Number of components that it moves along, all of them there."""
        instance("space", space, WeightSpace)
        if space.source != self.space:
            raise ValueError(
                f"direction {self.attribute!r} is of space {self.space}, this is space {space.source}: "
                "use the space that it was fitted in, or fit it again"
            )
        if len(self.vector) > len(space.components):
            raise ValueError(
                f"direction {self.attribute!r} has {len(self.vector)} components, this truncated space "
                f"{len(space.components)}: use more of them, or fit the direction again"
            )
        return len(self.vector)


def fit_directions(
    space: WeightSpace,
    labels: pd.DataFrame,
    components: int = 100,
    held_out: float = 0.2,
    disentangle: bool = True,
    seed: int = 0,
) -> dict[str, Direction]:
    """One direction for each label by least squares on the coefficients divided by their standard deviations.

    The paper's regression (Dravid et al. 2024, §3.3) is on the coefficients themselves, which gives other directions.
    ``labels`` is indexed by identity, of 0 and 1. At most one component for four models is used. With ``disentangle``
    the directions are solved jointly: one leaves the linear scores of all other labels unchanged, or as nearly so as
    the components allow. The held-out AUC is of classifiers fitted without a share ``held_out`` of the identities.
    ValueError for an identity without labels, a label that is neither 0 nor 1, and one that does not vary.
    """
    instance("space", space, WeightSpace)
    instance("labels", labels, pd.DataFrame)
    if labels.index.nlevels > 1:
        raise ValueError(f"labels: expected an index of identities, found one of {labels.index.nlevels} levels")
    missing = [i for i in space.ids if i not in labels.index]
    if missing:
        raise ValueError(f"labels: no row for identities {some(missing)} of the space")
    table = labels.loc[space.ids]
    if len(table) > len(space.ids):
        raise ValueError(f"labels: more than one row for identities {some(table.index[table.index.duplicated()])}")
    targets = _zero_or_one(table, list(table.columns))
    constant = [c for c in table if table[c].nunique() < 2]
    if constant:
        raise ValueError(f"labels {some(constant)} are the same for every identity: leave them out")
    if not 0 < finite_number("held_out", held_out) < 1:
        raise ValueError(f"held_out: expected a share between 0 and 1, found {held_out}")
    count = max(1, round(held_out * len(space.ids)))
    if count >= len(space.ids):
        raise ValueError(f"held_out: {held_out} of {len(space.ids)} identities leaves none to fit; expected less")
    components = min(whole_number("components", components), len(space.components), max(1, len(space.ids) // 4))
    units = (space.coefficients / space.std)[:, :components]
    targets = targets.to(units.dtype)

    order = np.random.default_rng(known_seed(seed)).permutation(len(units))
    test, train = np.split(order, [count])
    scores = units[test] @ _least_squares(units[train], targets[train])
    aucs = [_auc(targets[test, i], scores[:, i]) for i in range(targets.shape[1])]

    normals = _least_squares(units, targets)
    vectors = _dual(normals) if disentangle else normals
    vectors = vectors / vectors.norm(dim=0)
    directions = {}
    for i, attribute in enumerate(table):
        projections = units @ vectors[:, i]
        directions[attribute] = Direction(
            attribute, vectors[:, i], projections.min().item(), projections.max().item(), aucs[i], space.source
        )
    return directions


def separation(
    directions: dict[str, Direction],
    space: WeightSpace,
    coefficients: Float[Tensor, "models pcs"],
    labels: pd.DataFrame,
) -> dict[str, float]:
    """AUC of every direction's projection against its label, for any models, seen in training or not.

    Rows of ``coefficients`` and ``labels`` correspond; NaN where a label does not vary.
    """
    instance("labels", labels, pd.DataFrame)
    coefficients = finite_rows("coefficients", coefficients, len(space.components), axes=2).detach()
    if len(labels) != len(coefficients):
        raise ValueError(f"labels: {len(labels)} rows for {len(coefficients)} models; expected one for each")
    targets = _zero_or_one(labels, list(directions))
    return {a: _auc(targets[:, i], d.projection(space, coefficients)) for i, (a, d) in enumerate(directions.items())}


def _zero_or_one(labels: pd.DataFrame, attributes: list[str]) -> Float[Tensor, "models labels"]:
    """Labels as numbers; ValueError for a label that is not there or is neither 0 nor 1."""
    if not attributes:
        raise ValueError("labels: there are none; expected at least one column of 0 and 1")
    for attribute in attributes:
        if not isinstance(attribute, str) or not attribute:
            raise ValueError(f"labels: expected columns with names of text, found {described(attribute)}")
        if attribute not in labels:
            raise ValueError(f"labels: no column {attribute!r}{nearest(attribute, map(str, labels.columns))}")
        if labels[attribute].ndim > 1:
            raise ValueError(f"labels: more than one column {attribute!r}; expected one")
        wrong = labels.index[~labels[attribute].isin([0, 1])]
        if len(wrong):
            found = labels.loc[wrong[0], attribute]
            raise ValueError(f"label {attribute!r}: expected 0 or 1, found {found} for {some(wrong)}")
    return torch.tensor(labels[attributes].to_numpy(float))


def _least_squares(
    units: Float[Tensor, "models pcs"], targets: Float[Tensor, "models labels"]
) -> Float[Tensor, "pcs labels"]:
    return torch.linalg.lstsq(units - units.mean(0), targets - targets.mean(0)).solution


def _dual(normals: Float[Tensor, "pcs labels"]) -> Float[Tensor, "pcs labels"]:
    """The least vectors n_i with normals_j . n_i = [i = j]: each moves one score alone."""
    return torch.linalg.pinv(normals).T


def _auc(target: Tensor, score: Tensor) -> float:
    return float(roc_auc_score(target, score)) if 0 < target.sum() < len(target) else float("nan")


def save_directions(directions: dict[str, Direction], path: str | Path) -> None:
    """Write the directions of one space as one safetensors file; ValueError for those of several spaces, or none."""
    instance("directions", directions, Mapping)
    for attribute, direction in directions.items():
        instance(f"direction {attribute!r}", direction, Direction)
        if attribute != direction.attribute:
            raise ValueError(f"direction {attribute!r}: expected that of its name, found {direction.attribute!r}")
    kinds = {(d.space, len(d.vector)) for d in directions.values()}
    if len(kinds) != 1:
        found = ", ".join(f"{length} components of space {space}" for space, length in sorted(kinds)) or "none"
        raise ValueError(f"directions: expected those of one fit, found {found}")
    ranges = {
        a: (d.lowest, d.highest, None if isnan(d.held_out_auc) else d.held_out_auc) for a, d in directions.items()
    }
    ((space, _),) = kinds
    vectors = torch.stack([d.vector for d in directions.values()])
    save_tensors({"vectors": vectors}, path, {"ranges": json.dumps(ranges), "space": json.dumps(space)})


def load_directions(path: str | Path) -> dict[str, Direction]:
    """Read saved directions; FileNotFoundError if there are none.

    ValueError where the file is none of directions, or holds another number of names than of unit vectors.
    """
    metadata = {"ranges": dict[str, Range], "space": str}
    tensors, entries = read_tensors(path, EXPECTED, REMEDY, {"vectors": "directions pcs"}, metadata=metadata)
    vectors, ranges = tensors["vectors"], entries["ranges"]
    if not ranges or len(ranges) != len(vectors):
        raise ValueError(f"{path}: {len(ranges)} names for {len(vectors)} vectors; expected {EXPECTED}; {REMEDY}")
    rows = zip(ranges.items(), vectors.float(), strict=True)
    try:
        return {
            a: Direction(a, vector, low, high, float("nan") if auc is None else auc, entries["space"])
            for (a, (low, high, auc)), vector in rows
        }
    except ValueError as error:
        raise ValueError(f"{path}: {error}; expected {EXPECTED}; {REMEDY}") from None
