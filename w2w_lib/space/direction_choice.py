"""Which method and how many components directions should have: a table to choose from, on separate people."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from w2w_lib.inputs import described, whole_number
from w2w_lib.space.arguments import finite_rows
from w2w_lib.space.direction_labels import labels_of_rows, training_labels
from w2w_lib.space.direction_methods import METHODS, fit_method
from w2w_lib.space.directions import aucs_of
from w2w_lib.space.method_names import known_method
from w2w_lib.space.weight_space import WeightSpace


def direction_table(
    space: WeightSpace,
    labels: pd.DataFrame,
    coefficients: Float[Tensor, "models pcs"],
    their_labels: pd.DataFrame,
    components: Sequence[int],
    methods: Sequence[str] = tuple(METHODS),
) -> pd.DataFrame:
    """One row for each of ``methods`` and numbers of ``components``, with directions of all ``labels``.

    The directions are fitted on the space's own people, ``labels`` indexed by identity. Columns: ``auc``, mean AUC of
    the scores on other people, whose ``coefficients`` and ``their_labels`` correspond by rows (labels that do not vary
    among them are left out); ``cosine``, mean size of the cosines between the steps of two attributes in the weights
    (NaN for one attribute alone); ``norm``, mean length of a step of one unit in the weights. ValueError for an unknown
    method, more components than the space has, and labels as in ``fit_directions``.
    """
    targets, attributes = training_labels(space, labels), list(labels)
    coefficients = finite_rows("coefficients", coefficients, len(space.components), axes=2).detach()
    theirs = labels_of_rows(their_labels, attributes, len(coefficients))
    if isinstance(components, str) or isinstance(methods, str) or not len(components) or not len(methods):
        found = f"{described(methods)} and {described(components)}"
        raise ValueError(f"methods and components: expected a list of each, found {found}")
    counts = [whole_number("components", count, 1, len(space.components)) for count in components]
    metric = _metric(space, max(counts))
    rows = {}
    for method in map(known_method, methods):
        for m in counts:
            std = space.std[:m].double()
            fit = fit_method(method, space.coefficients[:, :m], std, targets)
            aucs = aucs_of(theirs, (coefficients[:, :m].double() / std) @ fit.scores.T)
            auc = np.nanmean(aucs) if not np.isnan(aucs).all() else np.nan
            rows[method, m] = {"auc": auc} | _geometry(fit.vectors * std, None if metric is None else metric[:m, :m])
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["method", "components"])


def _metric(space: WeightSpace, count: int) -> Float[Tensor, "pcs pcs"] | None:
    """Products of the components in the weights; None where they are orthonormal there."""
    if space.scale is None:
        return None
    scaled = space.components[:count] * space.scale
    return (scaled @ scaled.T).double()


def _geometry(steps: Float[Tensor, "labels pcs"], metric: Float[Tensor, "pcs pcs"] | None) -> dict[str, float]:
    products = steps @ (steps if metric is None else steps @ metric).T
    norms = products.diagonal().sqrt()
    apart = ~torch.eye(len(steps), dtype=torch.bool)
    between = (products / norms / norms[:, None])[apart].abs()
    return {"cosine": between.mean().item(), "norm": norms.mean().item()}
