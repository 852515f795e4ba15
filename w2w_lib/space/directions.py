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
from w2w_lib.inputs import described, finite_number, instance, known_seed, whole_number
from w2w_lib.space.arguments import finite_rows
from w2w_lib.space.direction_labels import labels_of_rows, training_labels
from w2w_lib.space.direction_methods import fit_method
from w2w_lib.space.method_names import known_method
from w2w_lib.space.weight_space import WeightSpace

UNIT = 1e-3  # how far from 1 the length of a score may be, and the change of the projection by one unit
MODELS_PER_COMPONENT = 4  # of a fit, at least: few people have few components

EXPECTED, REMEDY = "saved directions", "fit the directions again and save them"
VECTORS = ("vector", "axis", "score")
Range = tuple[FiniteFloat, FiniteFloat, FiniteFloat | None]  # lowest, highest, held-out AUC


@dataclass(frozen=True)
class Direction:
    """A step that changes an attribute, and the linear score that reads it, in the space named ``space``.

    All three vectors are over the coefficients in units of their standard deviations. One unit of strength is one
    standard deviation of the training models' projections onto the step.
    """

    attribute: str
    vector: Float[Tensor, " pcs"]  # the change of the coefficients by one unit of strength
    axis: Float[Tensor, " pcs"]  # its product with coefficients is their projection, in the same unit
    score: Float[Tensor, " pcs"]  # of length 1: the classifier's normal, larger where the attribute is
    lowest: float  # the training models' extreme projections;
    highest: float  # the paper's strength is this one
    held_out_auc: float  # of the score
    space: str  # the source of the space that it was fitted in, and of that space's truncations
    method: str  # one of ``direction_methods.METHODS``, or what else it was made by

    def __post_init__(self):
        what = f"direction {self.attribute!r}"
        for name in ("attribute", "space", "method"):
            instance(what if name == "attribute" else f"{what}: {name}", getattr(self, name), str)
        pcs = floating(what, self.vector).shape[-1:].numel()
        vector, axis, score = (finite_rows(f"{what}: {k}", getattr(self, k), pcs, axes=1) for k in VECTORS)
        if abs(score.norm() - 1) > UNIT:
            raise ValueError(f"{what}: scores are not of length 1, found {score.norm().item():.6g}")
        if abs(axis @ vector - 1) > UNIT:
            raise ValueError(
                f"{what}: vectors do not change their projections by 1, found {(axis @ vector).item():.6g}"
            )
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
        change = strength * (self.vector * space.std[:used]) @ space.components[:used].float()
        return change if space.scale is None else change * space.scale

    def projection(self, space: WeightSpace, coefficients: Float[Tensor, "*models pcs"]) -> Float[Tensor, "*models"]:
        """How far along the step models lie: a step of strength s adds s. ValueError as in ``step``."""
        return self._units(space, coefficients) @ self.axis

    def scores(self, space: WeightSpace, coefficients: Float[Tensor, "*models pcs"]) -> Float[Tensor, "*models"]:
        """The classifier's linear score of models, without an intercept, in no particular unit; errors of ``step``."""
        return self._units(space, coefficients) @ self.score

    def _units(self, space: WeightSpace, coefficients: Tensor) -> Tensor:
        used = self._used(space)
        return finite_rows("coefficients", coefficients, len(space.components))[..., :used] / space.std[:used]

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
    method: str = "joint",
    seed: int = 0,
    models_per_component: int = MODELS_PER_COMPONENT,
) -> dict[str, Direction]:
    """One direction for each label, by a ``method`` on the first ``components`` coefficients of the training models.

    - "paper": the normal of least squares on the coefficients themselves (Dravid et al. 2024, §3.3 and §4.1).
    - "class means": least squares on the coefficients over their standard deviations σ. In the weights its steps are
      the differences of the class means, as far as the components hold them.
    - "joint": made from the normals of "class means", the shortest steps in σ of which each moves its own score and
      leaves those of all other labels unchanged, or as nearly so as the components allow. "paper, joint": the same
      from the normals of "paper".
    - "lda", "logistic": normals on the coefficients over σ of linear discriminant analysis, its covariance shrunk, and
      of logistic regression with an L2 penalty.

    The first four are one classifier (least squares does not depend on units) and differ in their steps alone.
    ``labels`` is indexed by identity, of 0 and 1. A fit uses fewer components where there would be fewer than
    ``models_per_component`` models for each. The held-out AUC is of classifiers fitted without a share ``held_out`` of
    the identities. ValueError for an identity without labels, a label that is neither 0 nor 1, and one that does not
    vary, and for an unknown method.
    """
    targets, method = training_labels(space, labels), known_method(method)
    if not 0 < finite_number("held_out", held_out) < 1:
        raise ValueError(f"held_out: expected a share between 0 and 1, found {held_out}")
    count = max(1, round(held_out * len(space.ids)))
    if count >= len(space.ids):
        raise ValueError(f"held_out: {held_out} of {len(space.ids)} identities leaves none to fit; expected less")
    most = max(1, len(space.ids) // whole_number("models_per_component", models_per_component))
    components = min(whole_number("components", components), space.known, most)
    coefficients, std = space.coefficients[:, :components], space.std[:components]

    order = np.random.default_rng(known_seed(seed)).permutation(len(coefficients))
    test, train = np.split(order, [count])
    scores = fit_method(method, coefficients[train], std, targets[train]).scores.float()
    aucs = aucs_of(targets[test], (coefficients[test] / std) @ scores.T)

    fit = fit_method(method, coefficients, std, targets)
    projections = (coefficients / std).double() @ fit.axes.T
    ends = zip(projections.amin(0).tolist(), projections.amax(0).tolist(), aucs, strict=True)
    rows = zip(labels, *(part.float() for part in fit), ends, strict=True)
    return {a: Direction(a, *vectors, *numbers, space.source, method) for a, *vectors, numbers in rows}


def separation(
    directions: dict[str, Direction],
    space: WeightSpace,
    coefficients: Float[Tensor, "models pcs"],
    labels: pd.DataFrame,
) -> dict[str, float]:
    """AUC of every direction's score against its label, for any models, seen in training or not.

    Rows of ``coefficients`` and ``labels`` correspond; NaN where a label does not vary.
    """
    instance("labels", labels, pd.DataFrame)
    coefficients = finite_rows("coefficients", coefficients, len(space.components), axes=2).detach()
    targets = labels_of_rows(labels, list(directions), len(coefficients))
    scores = [d.scores(space, coefficients) for d in directions.values()]
    return dict(zip(directions, aucs_of(targets, torch.stack(scores, 1)), strict=True))


def aucs_of(targets: Float[Tensor, "models labels"], scores: Float[Tensor, "models labels"]) -> list[float]:
    """AUC of each column of scores against its column of 0 and 1; NaN where that does not vary."""
    return [
        float(roc_auc_score(target, score)) if 0 < target.sum() < len(target) else float("nan")
        for target, score in zip(targets.T, scores.T, strict=True)
    ]


def save_directions(directions: dict[str, Direction], path: str | Path) -> None:
    """Write the directions of one fit as one safetensors file; ValueError for those of several fits, or none."""
    instance("directions", directions, Mapping)
    for attribute, direction in directions.items():
        instance(f"direction {attribute!r}", direction, Direction)
        if attribute != direction.attribute:
            raise ValueError(f"direction {attribute!r}: expected that of its name, found {direction.attribute!r}")
    kinds = {(d.space, len(d.vector), d.method) for d in directions.values()}
    if len(kinds) != 1:
        found = "; ".join(f"{pcs} components of space {space} by {how!r}" for space, pcs, how in sorted(kinds))
        raise ValueError(f"directions: expected those of one fit, found {found or 'none'}")
    ranges = {
        a: (d.lowest, d.highest, None if isnan(d.held_out_auc) else d.held_out_auc) for a, d in directions.items()
    }
    ((space, _, method),) = kinds
    tensors = {_stored(name): torch.stack([getattr(d, name) for d in directions.values()]) for name in VECTORS}
    metadata = {"ranges": ranges, "space": space, "method": method}
    save_tensors(tensors, path, {name: json.dumps(value) for name, value in metadata.items()})


def load_directions(path: str | Path) -> dict[str, Direction]:
    """Read saved directions; FileNotFoundError if there are none.

    ValueError where the file is none of directions, an old one without scores among them, or holds another number of
    names than of vectors.
    """
    shapes = {_stored(name): "directions pcs" for name in VECTORS}
    metadata = {"ranges": dict[str, Range], "space": str, "method": str}
    tensors, entries = read_tensors(path, EXPECTED, REMEDY, shapes, metadata=metadata)
    ranges, count = entries["ranges"], len(tensors[_stored(VECTORS[0])])
    if not ranges or len(ranges) != count:
        raise ValueError(f"{path}: {len(ranges)} names for {count} vectors; expected {EXPECTED}; {REMEDY}")
    rows = zip(ranges.items(), *(tensors[_stored(name)].float() for name in VECTORS), strict=True)
    try:
        return {
            a: Direction(
                a, *vectors, low, high, float("nan") if auc is None else auc, entries["space"], entries["method"]
            )
            for (a, (low, high, auc)), *vectors in rows
        }
    except ValueError as error:
        raise ValueError(f"{path}: {error}; expected {EXPECTED}; {REMEDY}") from None


def _stored(name: str) -> str:
    """The name of a vector of many directions, in their file."""
    return "axes" if name == "axis" else f"{name}s"
