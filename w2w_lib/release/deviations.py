"""Standard deviations of the release's components whose coefficients it does not hold."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from w2w_lib.release.files import ALL_WEIGHTS, open_tensor
from w2w_lib.space.arguments import CHUNK
from w2w_lib.space.weight_space import WeightSpace

ROWS = 4096  # of all_weights.pt that are projected: a standard deviation's own error is then 1.1%


def component_deviations(
    folder: Path, space: WeightSpace, components: Float[Tensor, "pcs d"]
) -> tuple[Float[Tensor, " pcs"], str]:
    """Those of all components, and how the ones after the space's own were found.

    They are measured on rows of ``all_weights.pt`` where it is there, else extrapolated.
    """
    known, count = space.std, len(components)
    first, path = len(known), folder / ALL_WEIGHTS
    if path.exists():
        weights = open_tensor(path)
        rows = torch.linspace(0, len(weights) - 1, min(ROWS, len(weights))).long()
        found = _projected(weights, rows, space, components[first:]).std(0)
        return torch.cat([known, found]), f"of {len(rows)} rows of {ALL_WEIGHTS} from component {first} on"
    exponent, factor = power_law(known)
    found = factor * torch.arange(first + 1, count + 1) ** exponent
    return torch.cat([known, found]), f"extrapolated from component {first} on: {factor:.4g} k^{exponent:.3f}"


def power_law(deviations: Float[Tensor, " known"]) -> tuple[float, float]:
    """Exponent and factor of the line through the later half of the logarithms, least squares."""
    ranks = np.arange(1, len(deviations) + 1)
    half = slice(len(ranks) // 2 if len(ranks) > 3 else 0, None)
    if len(ranks[half]) < 2:
        return 0.0, float(deviations[-1])
    exponent, intercept = np.polyfit(np.log(ranks[half]), np.log(deviations[half].double().numpy()), 1)
    return float(exponent), math.exp(intercept)


def _projected(weights: Tensor, rows: Tensor, space: WeightSpace, components: Tensor) -> Tensor:
    """Coefficients of some rows, a few at a time."""
    basis, parts = components.T.float(), rows.split(max(1, CHUNK // weights.shape[1]))
    return torch.cat([space.deviations(weights[part]) @ basis for part in tqdm(parts, "project", unit="part")])
