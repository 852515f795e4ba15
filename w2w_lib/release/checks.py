"""Whether the files of the authors' release fit each other: order, shapes, orientation and sign."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from w2w_lib.files.tensors import finite
from w2w_lib.inputs import some
from w2w_lib.release.files import ALL_WEIGHTS, BASIS, COEFFICIENTS, LABELS, MEAN, REMEDY, STD, open_tensor
from w2w_lib.space.arguments import CHUNK, generator
from w2w_lib.space.directions import fit_directions
from w2w_lib.space.weight_space import ORTHONORMAL, WeightSpace

PROBES = 4  # random combinations of components for which V^T V = 1 is tried
COMPARED = 8  # rows of all_weights.pt that are projected
SAME = 1e-2  # of their coefficients' length: how far the published ones may be from it
DISORDER = 1.5  # how much larger a component's deviation may be than an earlier one's: those of SVD fall
FITS_BETTER = 0.5  # of the difference that the signs of std make: from here on, coefficients are of the other ones
TELLING = 100  # components that labels are told by
HELD_OUT = 0.2  # share of the models that labels are tried on
CHANCE = 4.0  # standard deviations of a chance AUC above which a label is told by the coefficients


def check_shapes(tensors: dict[str, Tensor], folder: Path, d: int, components: int) -> None:
    """ValueError where the shapes are not those of d numbers and one orientation, before any number is read."""
    for name in (MEAN, STD):
        if tensors[name].shape not in ((d,), (1, d)):
            raise refused(folder, name, f"of shape {tuple(tensors[name].shape)}", f"({d},), one for each number")
    for name, rows in ((BASIS, d), (COEFFICIENTS, None)):
        shape = tuple(tensors[name].shape)
        what = f"({d}, columns of components)" if rows else "(models, components)"
        if len(shape) != 2 or (rows and shape[0] != rows):
            turned = ", it is transposed" if rows and shape[1:] == (rows,) else ""
            raise refused(folder, name, f"of shape {shape}{turned}", what)
        if rows and shape[1] < components:
            raise ValueError(f"components: {components} asked for, {name} in {folder} has {shape[1]}; ask for fewer")
    models, known = tensors[COEFFICIENTS].shape
    if known > tensors[BASIS].shape[1] or models < known:
        turned = "is of fewer models than components" if models < known else "has more components than V"
        raise refused(folder, COEFFICIENTS, f"of shape {(models, known)} {turned}", "(models, components)")


def check_scale(folder: Path, mean: Float[Tensor, " d"], std: Float[Tensor, " d"]) -> None:
    """ValueError for a mean or standard deviation that is not finite, and for a standard deviation of 0.

    V was fitted on (weights - mean) / std, which a 0 makes infinite: no V belongs to it. A negative one is kept.
    """
    for name, numbers in ((MEAN, mean), (STD, std)):
        if not finite(numbers):
            raise refused(folder, name, "holds NaN or infinite numbers", "finite ones")
    if zero := (std == 0).nonzero().flatten().tolist():
        raise refused(folder, STD, f"is 0 for the numbers {some([str(i) for i in zero])}", "none: V divides by them")


def check_coefficients(folder: Path, coefficients: Float[Tensor, "models pcs"]) -> None:
    """ValueError where coefficients are not finite, missing for a model, constant, or of columns in another order."""
    if not finite(coefficients):
        raise refused(folder, COEFFICIENTS, "holds NaN or infinite numbers", "finite ones")
    if empty := (~coefficients.any(1)).nonzero().flatten().tolist():
        rows = some([str(i) for i in empty])
        raise refused(folder, COEFFICIENTS, f"has only zeros for the models {rows}", "the whole file")
    std = coefficients.std(0)
    if not (std > 0).all() or (std > DISORDER * std.cummin(0).values).any():
        wrong = int((std > DISORDER * std.cummin(0).values).float().argmax()) if (std > 0).all() else int(std.argmin())
        raise refused(
            folder,
            COEFFICIENTS,
            f"has a deviation of {std[wrong]:.3g} at component {wrong}",
            "one that falls from 0 on",
        )


def check_components(folder: Path, components: Float[Tensor, "pcs d"]) -> None:
    """ValueError where components are not finite or orthonormal, or all of them pass a number by."""
    if not finite(components):
        raise refused(folder, BASIS, "holds NaN or infinite numbers", "finite ones")
    probes, numbers = torch.randn(PROBES, len(components), generator=generator(0)), components.float()
    error = float(((probes @ numbers) @ numbers.T - probes).abs().max())
    if not error < ORTHONORMAL:
        raise refused(folder, BASIS, f"its columns are not orthonormal (off by {error:.2g})", "those of an SVD")
    without = [not part.any() for part in components.T.split(max(1, CHUNK // len(components)))]
    if any(without):
        raise refused(folder, BASIS, "has rows of zeros alone", "the whole file")


def check_rows(folder: Path, space: WeightSpace) -> list[str]:
    """Which rows of ``all_weights.pt`` were projected and compared with their coefficients: none where it is missing.

    ValueError where they differ: rows, keys, orientation or the sign of std are of another order.
    """
    path = folder / ALL_WEIGHTS
    if not path.exists():
        return []
    weights = open_tensor(path)
    if weights.shape != (models := len(space.ids), space.layout.dimension):
        raise refused(folder, ALL_WEIGHTS, f"of shape {tuple(weights.shape)}", f"({models}, {space.layout.dimension})")
    rows = min(COMPARED, models)
    found, published = space.project(weights[:rows].clone()), space.coefficients[:rows]
    off = ((found - published).norm(dim=1) / published.norm(dim=1)).tolist()
    if wrong := [f"{row} ({share:.0%})" for row, share in enumerate(off) if not share < SAME]:
        raise refused(
            folder,
            COEFFICIENTS,
            f"differs from z({ALL_WEIGHTS}) V in the rows {some(wrong)}",
            "the same order of rows and keys, and the same signs, in mean, std, V and coefficients",
        )
    told = [f"z(all_weights[:{rows}]) V = coefficients within {max(off):.1e} of their length"]
    if (space.scale < 0).any():
        unsigned = replace(space, scale=space.scale.abs()).project(weights[:rows].clone())
        share = float(((unsigned - found) * (published - found)).sum() / (unsigned - found).square().sum())
        if share > FITS_BETTER:
            what = f"its coefficients follow from {STD} without signs ({share:.2f} of the difference)"
            raise refused(folder, COEFFICIENTS, what, "the standard deviations that V was fitted with")
        told.append(f"sign of std: {share:.1e} of the difference that its signs make (0: kept, 1: without)")
    return told


def check_labels(folder: Path, space: WeightSpace, labels: pd.DataFrame) -> str:
    """How well held-out models' coefficients tell their labels; ValueError where none does better than chance."""
    varying = labels.loc[:, labels.nunique() > 1].astype(int)
    best, where = -torch.inf, ""
    if varying.shape[1]:
        found = fit_directions(space.truncated(min(TELLING, len(space.components))), varying, held_out=HELD_OUT)
        held_out = round(HELD_OUT * len(labels))
        for name, direction in found.items():
            share = varying[name].mean()
            ones = max(1.0, share * held_out)
            zeros = max(1.0, held_out - ones)
            chance = ((held_out + 1) / (12 * ones * zeros)) ** 0.5  # of an AUC without relation (Hanley, McNeil 1982)
            if (deviations := (direction.held_out_auc - 0.5) / chance) > best:
                best, where = deviations, f"{name} with an AUC of {direction.held_out_auc:.3f}"
    if not best > CHANCE:
        told = f"; the best is {where}" if where else ""
        raise refused(
            folder, LABELS, f"its labels do not follow from the coefficients{told}", "rows in the coefficients' order"
        )
    return f"labels told by held-out coefficients: best {where}"


def refused(folder: Path, name: str, what: str, expected: str) -> ValueError:
    return ValueError(f"{name} in {folder}: {what}; expected {expected}; {REMEDY}")
