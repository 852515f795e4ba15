"""A release of exactly the released structure around a planted space, for tests, notebooks and machines without it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from peft import LoraConfig
from torch import Tensor

from w2w_lib.files.atomic import make_folder
from w2w_lib.inputs import a_path, instance, whole_number
from w2w_lib.lora.adapter_files import PEFT_CONFIG
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.release.celeba import CELEBA
from w2w_lib.release.files import ALL_WEIGHTS, BASIS, COEFFICIENTS, DIMENSIONS, LABELS, MEAN, STD
from w2w_lib.space.arguments import generator

TARGET_MODULES = ["query", "value", "to_v", "to_q"]  # as the release's configuration names them
DECAY = 0.7  # variances of the components fall as k^-DECAY
DEVIATIONS = (2e-4, 2e-3)  # smallest and largest standard deviation of a parameter
LABEL_COMPONENTS = 8  # components that labels depend on
LABEL_NOISE = 0.3  # standard deviations of what they depend on besides
PREVALENCE = (0.2, 0.8)  # of the labels
LICENCE = "This is no release: planted numbers of its structure, without a licence of their own.\n"


@dataclass(frozen=True)
class Planted:
    """What was planted: weights = mean + std * (coefficients @ basis.T), labels = sign of the scores and noise."""

    layout: AdapterLayout
    mean: Float[Tensor, " d"]
    std: Float[Tensor, " d"]  # a few are negative
    basis: Float[Tensor, "d pcs"]
    coefficients: Float[Tensor, "models pcs"]
    normals: Float[Tensor, "pcs labels"]  # scores = (coefficients / their planted deviations) @ normals
    labels: pd.DataFrame  # -1 and 1, by model

    def weights(self, rows: slice = slice(None)) -> Float[Tensor, "models d"]:
        """Weight vectors of models."""
        return self.mean + self.std * (self.coefficients[rows] @ self.basis.T)


def write_release(
    folder: str | Path,
    layout: AdapterLayout,
    models: int = 300,
    columns: int = 40,
    known: int = 20,
    negative: int = 3,
    with_weights: bool = False,
    labels: Sequence[str] = CELEBA,
    seed: int = 0,
) -> Planted:
    """Write the files of a release of this layout, with the truth that is planted in them.

    Planted are: ``mean``, PEFT's start; ``std``, uniform between ``DEVIATIONS``, ``negative`` of them with the sign
    turned, as in the release; V, ``columns`` random orthonormal ones; normal coefficients whose variances fall as
    k^-0.7 and add up to d, so that standardised parameters have variance 1 on average, written for the first ``known``
    components; and for each label a random direction within the first 8 components: a model has the label where its
    score and noise of 0.3 exceed a threshold that gives it a prevalence of 0.2 to 0.8. ``with_weights`` also writes
    ``all_weights.pt`` (models x d numbers). ValueError for numbers that no such release can have.
    """
    instance("layout", layout, AdapterLayout)
    folder, rng, d = a_path(folder, "a folder for the release"), generator(seed), layout.dimension
    columns = whole_number("columns", columns, 1, d)
    known, models = whole_number("known", known, 1, columns), whole_number("models", models, max(2, known))
    mean = layout.initial(seed)
    low, high = DEVIATIONS
    std = low + (high - low) * torch.rand(d, generator=rng)
    std[torch.randperm(d, generator=rng)[: whole_number("negative", negative, 0, d)]] *= -1
    basis = torch.linalg.qr(torch.randn(d, columns, generator=rng)).Q
    variances = torch.arange(1, columns + 1) ** -DECAY
    deviations = (d * variances / variances.sum()).sqrt()
    units = torch.randn(models, columns, generator=rng)
    normals = torch.zeros(columns, len(labels))
    normals[:LABEL_COMPONENTS] = torch.randn(min(LABEL_COMPONENTS, columns), len(labels), generator=rng)
    normals /= normals.norm(dim=0)
    names = pd.Index([f"identity_{row:05d}" for row in range(models)], dtype=object)
    table = pd.DataFrame(_labels(units @ normals, rng), names, pd.Index(list(labels), dtype=object))
    planted = Planted(layout, mean, std, basis.contiguous(), units.mul_(deviations), normals, table)
    _write(planted, folder, known, with_weights)
    return planted


def _labels(scores: Float[Tensor, "models labels"], rng: torch.Generator) -> np.ndarray:
    scores = scores + LABEL_NOISE * torch.randn(scores.shape, generator=rng)
    low, high = PREVALENCE
    shares = low + (high - low) * torch.rand(scores.shape[1], generator=rng)
    ranks = scores.argsort(0).argsort(0)
    return torch.where(ranks >= ((1 - shares) * len(scores)).round(), 1, -1).numpy()


def _write(planted: Planted, folder: Path, known: int, with_weights: bool) -> None:
    make_folder(folder)
    coefficients = planted.coefficients[:, :known].contiguous()
    factors = planted.layout.factors
    torch.save(planted.mean, folder / MEAN)
    torch.save(planted.std, folder / STD)
    torch.save(planted.basis, folder / BASIS)
    torch.save(coefficients, folder / COEFFICIENTS)
    torch.save({f.key: [[f.size], torch.Size(f.shape)] for f in factors}, folder / DIMENSIONS)
    torch.save(planted.labels, folder / LABELS)  # a pickle of protocol 2, as theirs
    config = LoraConfig(r=planted.layout.rank, lora_alpha=planted.layout.alpha, target_modules=TARGET_MODULES)
    (folder / PEFT_CONFIG).write_text(json.dumps(config.to_dict(), indent=1, default=sorted))
    (folder / "README.md").write_text(LICENCE)
    if with_weights:
        make_folder((folder / ALL_WEIGHTS).parent)
        torch.save(planted.weights(), folder / ALL_WEIGHTS)
