"""Directions in w2w space that change one attribute of a person and keep the rest."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from safetensors import safe_open
from sklearn.metrics import roc_auc_score
from torch import Tensor

from w2w_lib.files.atomic import save_tensors
from w2w_lib.space.weight_space import WeightSpace


@dataclass(frozen=True)
class Direction:
    """A unit vector among the coefficients measured in their standard deviations.

    One unit of strength is therefore one standard deviation of the training models' projections onto it. It is normal
    to the separating plane as these units show it; in weights's own, the paper's, that would be another vector.
    """

    attribute: str
    vector: Float[Tensor, " pcs"]
    lowest: float  # the training models' extreme projections, in the same unit;
    highest: float  # the paper's strength is this one
    held_out_auc: float

    def step(self, space: WeightSpace, strength: float = 1.0) -> Float[Tensor, " d"]:
        """The change of weights, alpha * n of edited_weights = weights + alpha n (Dravid et al. 2024, §3.3)."""
        used = len(self.vector)
        change = strength * (self.vector * space.std[:used]) @ space.components[:used]
        return change if space.scale is None else change * space.scale

    def projection(self, space: WeightSpace, coefficients: Float[Tensor, "*models pcs"]) -> Float[Tensor, "*models"]:
        """How far along the direction models lie, in standard deviations."""
        used = len(self.vector)
        return (coefficients[..., :used] / space.std[:used]) @ self.vector


def fit_directions(
    space: WeightSpace,
    labels: pd.DataFrame,
    components: int = 100,
    held_out: float = 0.2,
    disentangle: bool = True,
    seed: int = 0,
) -> dict[str, Direction]:
    """One direction for each label column by least squares on the coefficients (Dravid et al. 2024, §3.3).

    ``labels`` is indexed by identity. At most one component for four models is used. With ``disentangle`` the
    directions are solved jointly: one leaves the linear scores of all other labels unchanged, or as nearly so as the
    components allow. The held-out AUC is of classifiers fitted without a share ``held_out`` of the identities.
    ValueError for an identity without labels or a label that does not vary.
    """
    missing = [i for i in space.ids if i not in labels.index]
    if missing:
        raise ValueError(f"labels: no row for identities {', '.join(map(str, missing[:5]))} of the space")
    table = labels.loc[space.ids]
    constant = [c for c in table if table[c].nunique() < 2]
    if constant:
        raise ValueError(f"labels {', '.join(constant)} are the same for every identity: leave them out")
    components = min(components, len(space.components), max(1, len(space.ids) // 4))
    units = (space.coefficients / space.std)[:, :components]
    targets = torch.tensor(table.to_numpy(float), dtype=units.dtype)

    order = np.random.default_rng(seed).permutation(len(units))
    test, train = np.split(order, [max(1, round(held_out * len(units)))])
    scores = units[test] @ _least_squares(units[train], targets[train])
    aucs = [_auc(targets[test, i], scores[:, i]) for i in range(targets.shape[1])]

    normals = _least_squares(units, targets)
    vectors = _dual(normals) if disentangle else normals
    vectors = vectors / vectors.norm(dim=0)
    directions = {}
    for i, attribute in enumerate(table):
        projections = units @ vectors[:, i]
        directions[attribute] = Direction(
            attribute, vectors[:, i], projections.min().item(), projections.max().item(), aucs[i]
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
    return {
        a: _auc(torch.tensor(labels[a].to_numpy(float)), d.projection(space, coefficients))
        for a, d in directions.items()
    }


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
    """Write directions as one safetensors file."""
    ranges = {a: [d.lowest, d.highest, d.held_out_auc] for a, d in directions.items()}
    save_tensors({a: d.vector for a, d in directions.items()}, path, {"ranges": json.dumps(ranges)})


def load_directions(path: str | Path) -> dict[str, Direction]:
    """Read saved directions; FileNotFoundError if there are none."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: expected saved directions; run notebook 04 first")
    with safe_open(path, framework="pt") as file:
        ranges = json.loads(file.metadata()["ranges"])
        return {a: Direction(a, file.get_tensor(a), *values) for a, values in ranges.items()}
