"""Principal components of a matrix of weights, with no more than one copy of it."""

from collections.abc import Iterator

import numpy as np
import scipy.linalg
import torch
from jaxtyping import Float
from sklearn.decomposition import PCA
from sklearn.utils.extmath import svd_flip
from torch import Tensor

from w2w_lib.space.arguments import CHUNK, parts

SMALL = 2**24  # numbers up to which LAPACK's SVD in float64, which copies them eight times, is used
EXACT = 5000  # models (or numbers of each) up to which the decomposition is exact; beyond, it is randomised
CONSTANT = 1e-6  # a number whose deviation is smaller than this share of it differs by rounding alone

Components = tuple[Float[Tensor, "pcs d"], Float[Tensor, "models pcs"], str]


def column_means(weights: Float[Tensor, "models d"]) -> Float[Tensor, " d"]:
    """Mean of every column in float64."""
    return sum(part.double().sum(0) for part in parts(weights)) / len(weights)


def column_deviations(weights: Float[Tensor, "models d"]) -> Float[Tensor, " d"]:
    """Standard deviation (unbiased) of every column, and 1 where it is constant up to rounding."""
    std = weights.std(0)
    return std.where(std > CONSTANT * column_means(weights).abs(), 1)


def principal_components(
    weights: Float[Tensor, "models d"], scale: Float[Tensor, " d"] | None, count: int, seed: int
) -> Components:
    """Components, coefficients and solver of the PCA of weights, each column divided by ``scale``.

    Up to ``SMALL`` numbers by LAPACK's SVD, up to ``EXACT`` models or columns by the eigenvectors of the smaller Gram
    matrix in float64, and beyond by scikit-learn's randomised SVD (``seed``). Signs are scikit-learn's: a component's
    largest entry is positive.
    """
    if weights.numel() <= SMALL:
        return _by_svd(weights, scale, count)
    if min(weights.shape) <= EXACT:
        return _by_gram_matrix(weights, scale, count)
    return _randomised(weights, scale, count, seed)


def _by_svd(weights: Tensor, scale: Tensor | None, count: int) -> Components:
    data = (weights if scale is None else weights / scale).to(torch.float64, copy=True)
    pca = PCA(count, svd_solver="full", copy=False)
    coefficients = pca.fit_transform(data.numpy())
    return torch.from_numpy(pca.components_).float(), torch.from_numpy(coefficients).float(), "exact"


def _by_gram_matrix(weights: Tensor, scale: Tensor | None, count: int) -> Components:
    """X X^T = U S^2 U^T gives the components S^-1 U^T X; X^T X = V S^2 V^T gives V^T (Sirovich 1987)."""
    wide = weights.shape[0] < weights.shape[1]
    gram = sum(part @ part.mT for part in _standardised(weights, scale, wide))
    size = len(gram)
    values, vectors = scipy.linalg.eigh(gram.numpy(), subset_by_index=[size - count, size - 1], overwrite_a=True)
    values, vectors = torch.from_numpy(values).flip(0), torch.from_numpy(vectors).flip(1)
    projected = torch.cat([(vectors.mT @ part).float() for part in _standardised(weights, scale, wide)], 1)
    if not wide:
        return _signed(projected.mT, vectors.mT.float(), "exact")
    # Where the models span fewer dimensions than asked for, QR puts other orthogonal rows in place of rounding errors.
    rows, upper = torch.linalg.qr(projected.mT)
    signs = torch.where(upper.diagonal() < 0, -1, 1)
    return _signed((vectors * values.clamp(min=0).sqrt()).float(), (rows * signs).mT, "exact")


def _standardised(weights: Tensor, scale: Tensor | None, wide: bool) -> Iterator[Tensor]:
    """Centred, scaled numbers in float64, a few columns at a time (or a few models, transposed)."""
    mean = column_means(weights)
    scale = torch.ones_like(mean) if scale is None else scale
    if wide:
        size = max(1, CHUNK // len(weights))
        for part, middle, width in zip(weights.split(size, 1), mean.split(size), scale.split(size), strict=True):
            yield (part - middle) / width
    else:
        yield from (((part - mean) / scale).mT for part in parts(weights))


def _randomised(weights: Tensor, scale: Tensor | None, count: int, seed: int) -> Components:
    data = weights.clone() if scale is None else weights / scale
    mean = column_means(data)
    for part in parts(data):
        part -= mean.float()
    # with scikit-learn's 10 oversamples it missed the 500th component by 4%
    pca = PCA(count, copy=False, svd_solver="randomized", n_oversamples=2 * count, random_state=seed)
    coefficients = pca.fit_transform(data.numpy())
    solver = f"randomised for {count} components with seed {seed}"
    return torch.from_numpy(pca.components_), torch.from_numpy(coefficients), solver


def _signed(coefficients: Tensor, components: Tensor, solver: str) -> Components:
    flipped = svd_flip(coefficients.numpy(), components.numpy(), u_based_decision=False)
    components, coefficients = (torch.from_numpy(np.ascontiguousarray(part)) for part in reversed(flipped))
    return components, coefficients, solver
