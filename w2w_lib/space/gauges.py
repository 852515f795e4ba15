"""Factors (A, B) and (c A, B / c) are one model: spaces where they are one point, of balanced factors or of B A."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from sklearn.decomposition import KernelPCA
from torch import Tensor

from w2w_lib.inputs import instance, whole_number
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.space.arguments import finite_rows, generator


def balanced(
    layout: AdapterLayout, weights: Float[Tensor, "models d"], reference: Float[Tensor, " d"]
) -> Float[Tensor, "models d"]:
    """The same models with A A^T = B^T B, turned so that A is as near to the reference's as it can be.

    B A stays, up to rounding. What is left of the freedom, a rotation (of rank 1, a sign), is the orthogonal
    Procrustes solution (Schönemann 1966).
    """
    downs, ups = _factors(layout, weights)
    towards, _ = _factors(layout, reference[None])
    found = {}
    for (key_a, a), (key_b, b) in zip(downs.items(), ups.items(), strict=True):
        found[key_a], found[key_b] = _turned(*_split(b @ a, layout.rank), towards[key_a])
    return layout.flatten(found)


def _split(change: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product of this rank, as A and B of equal norms."""
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    root = s[..., :rank].clamp(min=0).sqrt()
    return root[..., None] * vh[..., :rank, :], u[..., :rank] * root[..., None, :]


def _turned(a: Tensor, b: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
    u, _, vh = torch.linalg.svd(towards @ a.mT)
    rotation = u @ vh
    return rotation @ a, b @ rotation.mT


def _factors(layout: AdapterLayout, weights: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    parts = layout.unflatten(finite_rows("weights", weights, layout.dimension, axes=2))
    downs = {f.key: parts[f.key] for f in layout.factors if f.is_down}
    ups = {f.key: parts[f.key] for f in layout.factors if not f.is_down}
    return downs, ups


@dataclass(frozen=True)
class ProductSpace:
    """Principal components of the products B A, which are never written out: all is done by their inner products.

    What a point says of a layer is a sum of many products; ``adapters`` takes the nearest one of the rank.
    """

    layout: AdapterLayout
    training: Float[Tensor, "models d"]
    pca: KernelPCA

    @classmethod
    def fit(cls, layout: AdapterLayout, weights: Float[Tensor, "models d"], components: int) -> "ProductSpace":
        """PCA of the products; ValueError for more components than models - 1."""
        instance("layout", layout, AdapterLayout)
        weights = finite_rows("weights", weights, layout.dimension, axes=2).detach()
        count = whole_number("components", components, 1, len(weights) - 1)
        pca = KernelPCA(count, kernel="precomputed", eigen_solver="dense")
        pca.fit(_products(layout, weights, weights).numpy())
        return cls(layout, weights, pca)

    def project(self, weights: Float[Tensor, "models d"]) -> Float[Tensor, "models pcs"]:
        """Coefficients of models."""
        return torch.from_numpy(self.pca.transform(_products(self.layout, weights, self.training).numpy())).float()

    def held_out_share(self, weights: Float[Tensor, "models d"]) -> float:
        """Share of the squared distance of the products to their mean that the components keep."""
        own = _products(self.layout, weights, weights).diagonal()
        to_mean = _products(self.layout, weights, self.training).mean(1)
        whole = own - 2 * to_mean + _products(self.layout, self.training, self.training).mean()
        return float(self.project(weights).double().square().sum() / whole.sum())

    def sample(self, count: int, seed: int) -> Float[Tensor, "count pcs"]:
        """Coefficients drawn component by component from normal distributions, as in a space of weights."""
        noise = torch.randn(whole_number("count", count), len(self.std), generator=generator(seed))
        return noise * self.std

    @cached_property
    def std(self) -> Float[Tensor, " pcs"]:
        return torch.from_numpy(self.pca.eigenvalues_ / (len(self.training) - 1)).sqrt().float()

    def adapters(self, coefficients: Float[Tensor, "models pcs"]) -> Float[Tensor, "models d"]:
        """Weights, with balanced factors, of the nearest model of the layout's rank."""
        vectors = torch.from_numpy(self.pca.eigenvectors_ / self.pca.eigenvalues_**0.5)
        shares = coefficients.double() @ vectors.T
        shares = (shares - shares.mean(1, keepdim=True) + 1 / len(self.training)).float()
        downs, ups = _factors(self.layout, self.training)
        found = {}
        for (key_a, a), (key_b, b) in zip(downs.items(), ups.items(), strict=True):
            change = torch.stack([torch.einsum("n,nor,nri->oi", share, b, a) for share in shares])
            found[key_a], found[key_b] = _split(change, self.layout.rank)
        return self.layout.flatten(found)


def _products(
    layout: AdapterLayout, weights: Float[Tensor, "models d"], others: Float[Tensor, "others d"]
) -> Float[Tensor, "models others"]:
    """Inner products of B A with those of others, summed over layers, in float64: tr((B A)^T B' A')."""
    total = torch.zeros(len(weights), len(others), dtype=torch.float64)
    (downs, ups), (other_downs, other_ups) = _factors(layout, weights), _factors(layout, others)
    for key_a, key_b in zip(downs, ups, strict=True):
        inputs = torch.einsum("nri,msi->nmrs", downs[key_a].double(), other_downs[key_a].double())
        outputs = torch.einsum("nor,mos->nmrs", ups[key_b].double(), other_ups[key_b].double())
        total += (inputs * outputs).sum((2, 3))
    return total


def with_rank(layout: AdapterLayout, rank: int) -> AdapterLayout:
    """The same layers with adapters of another rank, and B A weighted as before."""
    factors = tuple(replace(f, shape=(rank, f.shape[1]) if f.is_down else (f.shape[0], rank)) for f in layout.factors)
    return replace(layout, factors=factors, rank=rank, alpha=layout.scale * whole_number("rank", rank))
