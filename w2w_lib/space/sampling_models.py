"""Distributions to draw new people's coefficients from, beside the paper's independent normal ones."""

import numpy as np
import torch
from jaxtyping import Float
from sklearn.mixture import GaussianMixture
from torch import Tensor

from w2w_lib.inputs import instance, known_seed, whole_number
from w2w_lib.space.arguments import generator
from w2w_lib.space.weight_space import WeightSpace

STARTS = 5  # of the mixture's fit; the likeliest is kept


def fit_mixture(space: WeightSpace, kinds: int, leading: int, seed: int = 0) -> GaussianMixture:
    """So many normal distributions with full covariances on the leading coefficients, in standard deviations."""
    instance("space", space, WeightSpace)
    leading = whole_number("leading", leading, 1, len(space.components))
    units = (space.coefficients[:, :leading] / space.std[:leading]).double().numpy()
    kinds = whole_number("kinds", kinds, 1, len(units))
    return GaussianMixture(kinds, n_init=STARTS, random_state=known_seed(seed)).fit(units)


def mixture_samples(space: WeightSpace, count: int, kinds: int, leading: int, seed: int) -> Float[Tensor, "count pcs"]:
    """Coefficients whose leading ones are drawn from a mixture of normal distributions, the rest as in the paper.

    One kind is a full covariance: on the people a space was fitted on, principal components are uncorrelated, so it is
    the paper's sampling but for rounding. More kinds can have the shoulders of a component that is no normal one.
    """
    samples = space.sample(count, seed)
    mixture = fit_mixture(space, kinds, leading, seed)
    which = mixture.weights_.cumsum().searchsorted(torch.rand(count, generator=generator(seed)).numpy())
    which = np.minimum(which, kinds - 1)
    roots = torch.from_numpy(np.linalg.cholesky(mixture.covariances_))
    noise = torch.randn(count, leading, 1, dtype=torch.float64, generator=generator(seed))
    drawn = torch.from_numpy(mixture.means_)[which] + (roots[which] @ noise)[..., 0]
    samples[:, :leading] = drawn.float() * space.std[:leading]
    return samples


def training_samples(space: WeightSpace, count: int, width: float, seed: int) -> Float[Tensor, "count pcs"]:
    """Coefficients near those of random training people, ``width`` standard deviations of noise away (a smoothed
    bootstrap, Silverman 1986), shrunk so that the variance stays: between copies (0) and the paper's sampling (large).
    """
    rng = generator(seed)
    rows = torch.randint(len(space.ids), (whole_number("count", count),), generator=rng)
    noise = torch.randn(count, len(space.components), generator=rng) * space.std
    mean = space.coefficients.mean(0)
    return mean + (space.coefficients[rows] - mean + width * noise) / (1 + width**2) ** 0.5
