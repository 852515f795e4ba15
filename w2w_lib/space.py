"""w2w space: the linear space that the weights of many personalised models span."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from safetensors import safe_open
from sklearn.decomposition import PCA
from torch import Tensor

from w2w_lib.atomic import save_tensors
from w2w_lib.layout import AdapterLayout

EXACT = 5000  # models (or numbers of each) up to which the decomposition is exact; beyond, it is randomised


@dataclass(frozen=True)
class WeightSpace:
    """Mean and principal components of weight vectors, with the training models' coefficients.

    theta = mean + coefficients @ components (times ``scale`` number by number where theta was standardised).
    """

    layout: AdapterLayout
    ids: list[str]
    mean: Float[Tensor, " d"]
    components: Float[Tensor, "pcs d"]
    coefficients: Float[Tensor, "models pcs"]
    total_variance: float
    scale: Float[Tensor, " d"] | None = None

    @classmethod
    def fit(
        cls,
        layout: AdapterLayout,
        theta: Float[Tensor, "models d"],
        ids: list[str],
        components: int | None = None,
        standardise: bool = False,
        seed: int = 0,
    ) -> "WeightSpace":
        """PCA of weight vectors (Dravid et al. 2024, §3.2); ``standardise`` as in the authors' release."""
        if len(theta) < 2:
            raise ValueError(f"{len(theta)} models: a space needs at least 2; fine-tune more identities")
        if components is not None and not 0 < components < len(theta):
            raise ValueError(f"{components} components: expected 1 to {len(theta) - 1} for {len(theta)} models")
        scale = theta.std(0).clamp(min=1e-8) if standardise else None
        data = theta / scale if standardise else theta
        total_variance = float(data.var(0).sum())
        count = components or len(theta) - 1
        if min(data.shape) <= EXACT:
            pca = PCA(count, svd_solver="full", copy=False)
            data = data.to(torch.float64, copy=True)
        else:  # with scikit-learn's 10 oversamples it missed the 500th component by 4%
            pca = PCA(count, svd_solver="randomized", n_oversamples=2 * count, random_state=seed)
        coefficients = pca.fit_transform(data.numpy())
        return cls(
            layout,
            list(ids),
            torch.from_numpy(pca.mean_).float(),
            torch.from_numpy(pca.components_).float(),
            torch.from_numpy(coefficients).float(),
            total_variance,
            scale,
        )

    @property
    def std(self) -> Float[Tensor, " pcs"]:
        """Standard deviation of the training coefficients, component by component."""
        return self.coefficients.std(0)

    @property
    def explained(self) -> Float[np.ndarray, " pcs"]:
        """Share of the total variance that each component explains."""
        return (self.coefficients.var(0) / self.total_variance).numpy()

    def truncated(self, components: int) -> "WeightSpace":
        """The space of the first components only."""
        return WeightSpace(
            self.layout,
            self.ids,
            self.mean,
            self.components[:components],
            self.coefficients[:, :components],
            self.total_variance,
            self.scale,
        )

    def project(self, theta: Float[Tensor, "*models d"]) -> Float[Tensor, "*models pcs"]:
        """Coefficients of weight vectors."""
        scaled = theta if self.scale is None else theta / self.scale
        return (scaled - self.mean) @ self.components.T

    def unproject(self, coefficients: Float[Tensor, "*models pcs"]) -> Float[Tensor, "*models d"]:
        """Weight vectors of coefficients; differentiable."""
        theta = self.mean + coefficients @ self.components
        return theta if self.scale is None else theta * self.scale

    def sample(self, count: int, seed: int) -> Float[Tensor, "count pcs"]:
        """Coefficients drawn from N(mu_k, sigma_k), component by component (Dravid et al. 2024, §3.2)."""
        rng = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, len(self.components), generator=rng)
        return self.coefficients.mean(0) + noise * self.std

    def nearest(self, coefficients: Float[Tensor, "models pcs"], count: int = 1) -> tuple[list[list[str]], Tensor]:
        """The training identities most alike by cosine similarity, with the similarities (§4.2)."""
        similarity = torch.nn.functional.cosine_similarity(coefficients[:, None], self.coefficients[None], dim=-1)
        best = similarity.topk(count, dim=1)
        return [[self.ids[i] for i in row] for row in best.indices.tolist()], best.values

    def save(self, path: str | Path) -> None:
        """Write the space as one safetensors file."""
        tensors = {"mean": self.mean, "components": self.components, "coefficients": self.coefficients}
        if self.scale is not None:
            tensors["scale"] = self.scale
        metadata = {
            "layout": self.layout.to_json(),
            "ids": json.dumps(self.ids),
            "total_variance": repr(self.total_variance),
        }
        save_tensors(tensors, path, metadata)

    @classmethod
    def load(cls, path: str | Path) -> "WeightSpace":
        """Read a saved space; FileNotFoundError if there is none."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: expected a saved w2w space; run notebook 03 first")
        with safe_open(path, framework="pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}
            metadata = file.metadata()
        return cls(
            AdapterLayout.from_json(metadata["layout"]),
            json.loads(metadata["ids"]),
            tensors["mean"],
            tensors["components"],
            tensors["coefficients"],
            float(metadata["total_variance"]),
            tensors.get("scale"),
        )


def independent_columns(theta: Float[Tensor, "models d"], seed: int) -> Float[Tensor, "models d"]:
    """Every column shuffled on its own: the same numbers, what they had in common gone (Horn 1965)."""
    order = torch.rand(theta.shape, generator=torch.Generator().manual_seed(seed)).argsort(0)
    return theta.gather(0, order)


def held_out_share(space: WeightSpace, theta: Float[Tensor, "models d"]) -> float:
    """Share of the squared distance to the mean that survives projecting and coming back."""
    centred = (theta if space.scale is None else theta / space.scale) - space.mean
    return float(space.project(theta).square().sum() / centred.square().sum())


def outside(space: WeightSpace, theta: Float[Tensor, "models d"], seed: int) -> Float[Tensor, "models d"]:
    """For every model a random one as far from the mean, in a direction orthogonal to all components."""
    mean = space.unproject(torch.zeros(len(space.components)))
    noise = torch.randn(theta.shape, generator=torch.Generator().manual_seed(seed))
    noise = noise - noise @ space.components.T @ space.components
    if space.scale is not None:
        noise = noise * space.scale
    return mean + noise * ((theta - mean).norm(dim=1) / noise.norm(dim=1))[:, None]
