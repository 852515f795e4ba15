"""How directions are fitted, by name: normals of linear classifiers, and the steps that are made of them.

Over the people that a space was fitted on, coefficients divided by their standard deviations σ are white. So least
squares gives one classifier, in whatever units; but its normal is another step in each. As a step in units of σ it is
the difference of the class means of the weights, in the coefficients themselves the paper's normal, which goes further
along components of little variance.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from torch import Tensor

LOGIT_VARIANCE = 10.0  # logistic regression: of a logit before any label is seen, however many components
ITERATIONS = 1000  # of its solver, at most

Classifier = Callable[[Tensor, Tensor], Tensor]  # coefficients (models pcs) and labels (models labels) to (labels pcs)


class Method(NamedTuple):
    """A classifier, whether it sees the coefficients themselves (else divided by σ), and what its normals become."""

    classifier: Classifier
    raw: bool = False
    joint: bool = False


class Fit(NamedTuple):
    """Vectors of each label, over coefficients in σ: the step of one unit, what measures it, the classifier's score."""

    vectors: Float[Tensor, "labels pcs"]
    axes: Float[Tensor, "labels pcs"]
    scores: Float[Tensor, "labels pcs"]


def least_squares(x: Float[Tensor, "models pcs"], y: Float[Tensor, "models labels"]) -> Float[Tensor, "labels pcs"]:
    """Normals of linear regressions with an intercept."""
    return torch.linalg.lstsq(x - x.mean(0), y - y.mean(0)).solution.T


def discriminant(x: Float[Tensor, "models pcs"], y: Float[Tensor, "models labels"]) -> Float[Tensor, "labels pcs"]:
    """Normals of linear discriminants, the covariance within the classes shrunk (Ledoit and Wolf 2004)."""
    return _each_label(LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"), x, y)


def logistic(x: Float[Tensor, "models pcs"], y: Float[Tensor, "models labels"]) -> Float[Tensor, "labels pcs"]:
    """Normals of logistic regressions, each weight with a normal prior of variance ``LOGIT_VARIANCE`` / pcs."""
    return _each_label(LogisticRegression(C=LOGIT_VARIANCE / x.shape[1], max_iter=ITERATIONS), x, y)


METHODS = {
    "paper": Method(least_squares, raw=True),  # Dravid et al. 2024, §3.3 and §4.1
    "class means": Method(least_squares),
    "joint": Method(least_squares, joint=True),
    "paper, joint": Method(least_squares, raw=True, joint=True),
    "lda": Method(discriminant),
    "logistic": Method(logistic),
}


def fit_method(
    method: str,
    coefficients: Float[Tensor, "models pcs"],
    std: Float[Tensor, " pcs"],
    targets: Float[Tensor, "models labels"],
) -> Fit:
    """Steps and scores of labels of 0 and 1 by one of ``METHODS``, in float64.

    One unit is one standard deviation of these models' projections onto the step, which are at right angles to it in
    the units that the classifier sees. A label that is the same for all models has the score 0 and a step of NaN.
    """
    classifier, raw, joint = METHODS[method]
    std, targets = std.double(), targets.double()
    unit = torch.ones_like(std) if raw else std
    x = coefficients.double() / unit
    normals = classifier(x, targets)
    ways = _unit_rows(_dual(normals) if joint else normals)
    deviation = (x @ ways.T).std(0)[:, None]
    scores = normals * (std / unit)
    lengths = scores.norm(dim=1, keepdim=True)
    return Fit(
        deviation * ways * (unit / std), ways * (std / unit) / deviation, scores / lengths.where(lengths > 0, torch.inf)
    )


def _dual(normals: Float[Tensor, "labels pcs"]) -> Float[Tensor, "labels pcs"]:
    """The least vectors n_i with normals_j . n_i = [i = j]: each moves one score alone."""
    return torch.linalg.pinv(normals).T


def _unit_rows(rows: Float[Tensor, "labels pcs"]) -> Float[Tensor, "labels pcs"]:
    return rows / rows.norm(dim=1, keepdim=True)


def _each_label(model, x: Tensor, y: Tensor) -> Tensor:
    """Coefficients of scikit-learn's classifier of each label; 0 for a label that does not vary."""
    found = [model.fit(x, one).coef_[0] if np.ptp(one) else np.zeros(x.shape[1]) for one in y.T.numpy()]
    return torch.from_numpy(np.stack(found))
