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

from w2w_lib.files.atomic import save_tensors
from w2w_lib.lora.layout import AdapterLayout

EXACT = 5000  # models (or numbers of each) up to which the decomposition is exact; beyond, it is randomised


@dataclass(frozen=True)
class WeightSpace:
    """Mean and principal components of weight vectors, with the training models' coefficients.

    weights = mean + coefficients @ components (times ``scale`` number by number where weights was standardised).
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
        weights: Float[Tensor, "models d"],
        ids: list[str],
        components: int | None = None,
        standardise: bool = False,
        seed: int = 0,
    ) -> "WeightSpace":
        """PCA of weight vectors (Dravid et al. 2024, §3.2); ``standardise`` as in the authors' release."""
        if len(weights) < 2:
            raise ValueError(f"{len(weights)} models: a space needs at least 2; fine-tune more identities")
        if components is not None and not 0 < components < len(weights):
            raise ValueError(f"{components} components: expected 1 to {len(weights) - 1} for {len(weights)} models")
        scale = weights.std(0).clamp(min=1e-8) if standardise else None
        data = weights / scale if standardise else weights
        total_variance = float(data.var(0).sum())
        count = components or len(weights) - 1
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

    def project(self, weights: Float[Tensor, "*models d"]) -> Float[Tensor, "*models pcs"]:
        """Coefficients of weight vectors."""
        scaled = weights if self.scale is None else weights / self.scale
        return (scaled - self.mean) @ self.components.T

    def unproject(self, coefficients: Float[Tensor, "*models pcs"]) -> Float[Tensor, "*models d"]:
        """Weight vectors of coefficients; differentiable."""
        weights = self.mean + coefficients @ self.components
        return weights if self.scale is None else weights * self.scale

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
