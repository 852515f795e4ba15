"""w2w space: the linear space that the weights of many personalised models span."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import FiniteFloat
from torch import Tensor

from w2w_lib.files.atomic import save_tensors
from w2w_lib.files.tensors import finite, floating, read_tensors
from w2w_lib.inputs import finite_number, instance, known_seed, some, texts, whole_number
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.space.arguments import (
    CHUNK,
    digest,
    finite_rows,
    generator,
    parts,
    rows_fingerprint,
    unique_ids,
)
from w2w_lib.space.components import column_deviations, column_means, principal_components

ROUNDING = 1e-5  # share of the first component's deviation below which a component is rounding errors
ORTHONORMAL = 1e-2  # how far components may be from orthonormal, all of them together

EXPECTED, REMEDY = "a saved w2w space", "fit the space again and save it"
SHAPES = {"mean": "d", "components": "pcs d", "coefficients": "models known"}
OPTIONAL = {"scale": "d", "component_std": "pcs"}
STORED = {"components": (torch.float32, torch.bfloat16)}  # types of numbers; all others are in fp32
METADATA = {
    "layout": AdapterLayout,
    "ids": list[str],
    "total_variance": FiniteFloat,
    "rows": str,
    "solver": str,
    "fingerprint": str,
}


@dataclass(frozen=True)
class WeightSpace:
    """Mean and principal components of weight vectors, with the training models' coefficients and their origin.

    weights = mean + scale * (coefficients @ components), where ``scale``, if there is one, standardised the weights.
    A number whose scale is 0 stays at its mean; one whose scale is negative keeps its sign. Components may be stored in
    bf16, and are computed with in fp32. Where the training models' coefficients are known for the first components
    alone, ``component_std`` has the standard deviations of all.
    """

    layout: AdapterLayout
    ids: list[str]
    mean: Float[Tensor, " d"]
    components: Float[Tensor, "pcs d"]
    coefficients: Float[Tensor, "models known"]
    total_variance: float
    rows: str  # fingerprint of the ids and weights that it was fitted on
    solver: str
    scale: Float[Tensor, " d"] | None = None
    component_std: Float[Tensor, " pcs"] | None = None

    def __post_init__(self):
        instance("layout", self.layout, AdapterLayout)
        unique_ids(self.ids, models := len(texts("ids", self.ids)))
        tensors = self._tensors()
        for name, tensor in tensors.items():
            if floating(name, tensor).dtype not in (types := STORED.get(name, (torch.float32,))):
                wanted = " or ".join(map(str, types))
                raise ValueError(f"{name}: expected numbers in {wanted}, found {tensor.dtype}; convert them")
        d, pcs = self.layout.dimension, self.components.shape[:1].numel()
        known = pcs if self.component_std is None else min(pcs, self.coefficients.shape[-1:].numel())
        expected = {"mean": (d,), "components": (pcs, d), "coefficients": (models, known)}
        expected |= {"scale": (d,), "component_std": (pcs,)}
        for name, tensor in tensors.items():
            shape = expected[name]
            if tuple(tensor.shape) != shape:
                raise ValueError(
                    f"space of {models} models, {pcs} components and a layout of {d:,} numbers: "
                    f"{name} of shape {tuple(tensor.shape)}, expected {shape}"
                )
            if name in ("mean", "scale") and not finite(tensor):  # the others may be many; their deviations tell
                raise ValueError(f"{name}: expected finite numbers, found NaN or infinite ones")
        if models < 2 or not pcs:
            raise ValueError(f"space of {models} models and {pcs} components: expected at least 2 and 1")
        if finite_number("total_variance", self.total_variance) <= 0:
            raise ValueError(f"total_variance: expected a number above 0, found {self.total_variance}")

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
        """PCA of weight vectors (Dravid et al. 2024, §3.2); ``standardise`` as in the authors' release.

        Without ``components`` it has as many as the models span. Needs the memory of one more copy of ``weights`` at
        most (eight in float64 where they are few, see ``principal_components``). ValueError for fewer than 2 models,
        rows that are not finite or not of this layout, ids that do not match, and more components than the models span.
        """
        instance("layout", layout, AdapterLayout)
        instance("standardise", standardise, bool)
        ids = texts("ids", ids)
        weights = finite_rows("weights", weights, layout.dimension, ids, axes=2).detach().cpu()
        ids = unique_ids(ids, len(weights))
        if len(weights) < 2:
            raise ValueError(f"{len(weights)} models: a space needs at least 2; fine-tune more identities")
        most = min(len(weights) - 1, layout.dimension)
        count = most if components is None else whole_number("components", components, 1, most)
        scale = column_deviations(weights) if standardise else None
        variance = weights.var(0)
        total_variance = float((variance if scale is None else variance / scale.square()).sum())
        if not total_variance:
            raise ValueError(f"{len(weights)} models without a difference: expected models of several people")
        finite_number("variance of the weights", total_variance)
        rows, coefficients, solver = principal_components(weights, scale, count, known_seed(seed))
        space = cls(
            layout,
            ids,
            column_means(weights).float(),
            rows,
            coefficients,
            total_variance,
            rows_fingerprint(ids, weights),
            solver,
            scale,
        )
        std = coefficients.std(0)
        spanned = int((std > ROUNDING * std[0]).sum())
        if components is not None and spanned < count:
            raise ValueError(f"components: these {len(ids)} models span {spanned} dimensions only, found {count}")
        return space.truncated(spanned)

    @cached_property
    def std(self) -> Float[Tensor, " pcs"]:
        """Standard deviation of the training coefficients, component by component; ValueError where one is none."""
        std = self.coefficients.std(0) if self.component_std is None else self.component_std
        if not (fine := (std > 0) & (std < torch.inf)).all():
            wrong = some([str(i) for i in (~fine).nonzero().flatten().tolist()])
            raise ValueError(f"coefficients of components {wrong}: expected finite numbers that differ")
        return std

    @property
    def explained(self) -> Float[np.ndarray, " pcs"]:
        """Share of the total variance that each component explains."""
        return (self.std.square() / self.total_variance).numpy()

    @property
    def known(self) -> int:
        """Of how many components, from the first on, the training models' coefficients are known."""
        return self.coefficients.shape[1]

    @property
    def mean_model(self) -> Float[Tensor, " d"]:
        """The weights of coefficients 0: the mean of the training models, in a standardised space too."""
        return self.mean

    @cached_property
    def source(self) -> str:
        """Sixteen digits of what it was made of: layout with base, rows, standardisation and solver.

        A space and its truncations share it; directions name the space they belong to by it.
        """
        return digest([self.layout.to_json(), self.rows, self.solver, self.scale is not None])

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen digits of its layout, ids and numbers: a truncation has another one."""
        return digest([self.source, self.ids, float(self.total_variance)], *self._tensors().values())

    def truncated(self, components: int) -> "WeightSpace":
        """The space of the first components only; ValueError where it has not so many."""
        count = whole_number("components", components, 1, len(self.components))
        std = None if self.component_std is None else self.component_std[:count]
        components, coefficients = self.components[:count], self.coefficients[:, :count]
        return replace(self, components=components, coefficients=coefficients, component_std=std)

    def deviations(self, weights: Float[Tensor, "*models d"]) -> Float[Tensor, "*models d"]:
        """Weights from the mean on, standardised where the space is: what the components decompose."""
        centred = weights - self.mean
        return centred if self.scale is None else centred / self.scale.where(self.scale != 0, torch.inf)

    def project(self, weights: Float[Tensor, "*models d"]) -> Float[Tensor, "*models pcs"]:
        """Coefficients of weight vectors, a few at a time; ValueError for weights of another layout or not finite."""
        weights = finite_rows("weights", weights, d := self.layout.dimension)
        groups, basis = parts(weights.reshape(weights.shape[:-1].numel(), d)), self.components.T.float()
        coefficients = torch.cat([self.deviations(group) @ basis for group in groups])
        return coefficients.reshape(*weights.shape[:-1], len(self.components))

    def unproject(self, coefficients: Float[Tensor, "*models pcs"]) -> Float[Tensor, "*models d"]:
        """Weight vectors of coefficients; differentiable. ValueError for another number of them, or not finite ones."""
        coefficients = finite_rows("coefficients", coefficients, len(self.components))
        change = coefficients @ self.components.float()
        return self.mean + (change if self.scale is None else change * self.scale)

    def sample(self, count: int, seed: int) -> Float[Tensor, "count pcs"]:
        """Coefficients drawn from N(mu_k, sigma_k), component by component (Dravid et al. 2024, §3.2).

        Components whose training coefficients are not known have a mean of 0.
        """
        noise = torch.randn(whole_number("count", count), len(self.components), generator=generator(seed))
        mean = F.pad(self.coefficients.mean(0), (0, len(self.components) - self.known))
        return mean + noise * self.std

    def nearest(self, coefficients: Float[Tensor, "models pcs"], count: int = 1) -> tuple[list[list[str]], Tensor]:
        """The training identities most alike by cosine similarity, with the similarities (§4.2).

        Compared are the coefficients that are known of them.
        """
        coefficients = finite_rows("coefficients", coefficients, len(self.components), axes=2)[:, : self.known]
        count, known = whole_number("count", count, 1, len(self.ids)), F.normalize(self.coefficients).T
        groups = F.normalize(coefficients).split(max(1, CHUNK // len(self.ids)))
        similarities, rows = zip(*((group @ known).topk(count) for group in groups), strict=True)
        return [[self.ids[i] for i in row] for row in torch.cat(rows).tolist()], torch.cat(similarities)

    def save(self, path: str | Path) -> None:
        """Write the space as one safetensors file."""
        entries = {name: getattr(self, name) for name in METADATA} | {"layout": json.loads(self.layout.to_json())}
        metadata = {name: json.dumps(value) for name, value in entries.items()}
        save_tensors(self._tensors(), path, metadata)

    def _tensors(self) -> dict[str, Tensor]:
        """Those that it has, by name."""
        return {name: tensor for name in (*SHAPES, *OPTIONAL) if (tensor := getattr(self, name)) is not None}

    @classmethod
    def load(cls, path: str | Path) -> "WeightSpace":
        """Read a saved space; its numbers stay on disk (memory-mapped) until they are used.

        FileNotFoundError if there is none; ValueError where tensors, shapes or metadata are not a space's, numbers are
        not finite, components not orthonormal, ids not unique or the content not what was saved.
        """
        tensors, metadata = read_tensors(path, EXPECTED, REMEDY, SHAPES, OPTIONAL, METADATA)
        fingerprint = metadata.pop("fingerprint")
        try:
            unique_ids(metadata["ids"], len(tensors["coefficients"]))
            space = cls(**tensors, **metadata)
            _orthonormal(space.components)
            _ = space.std  # checks its own
            if space.fingerprint != fingerprint:
                raise ValueError(f"its content is {space.fingerprint}, what was saved {fingerprint}")
        except ValueError as error:
            raise ValueError(f"{path}: {error}; expected {EXPECTED}; {REMEDY}") from None
        return space


def _orthonormal(components: Float[Tensor, "pcs d"]) -> None:
    """C C^T v = v for a random v of signs, which takes two products with C (Freivalds 1977)."""
    components, signs = components.float(), torch.randint(0, 2, (len(components),), generator=generator(0)) * 2.0 - 1
    error = float((components @ (components.T @ signs) - signs).abs().max())
    if not error < ORTHONORMAL:
        raise ValueError(f"components are not orthonormal (off by {error:.2g})")
