"""A weight space and people with a known truth: models in a plane, labels planted on coefficients, caps."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_base import tiny_pipeline

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.people.people_set import People
from w2w_lib.space.weight_space import WeightSpace

MODELS, PCS, LATENT = 60, 8, 3


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def layout(pipeline):
    return AdapterLayout.of(pipeline.unet, fingerprint(pipeline), "paper", rank=1, alpha=8)


@pytest.fixture(scope="module")
def weights(layout):
    """Weight vectors around a mean, mostly in a plane of LATENT dimensions."""
    rng = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(layout.dimension, LATENT, generator=rng)).Q.T
    factors = torch.randn(MODELS, LATENT, generator=rng) * torch.tensor([5.0, 3.0, 2.0])
    noise = 0.02 * torch.randn(MODELS, layout.dimension, generator=rng)
    return 0.1 * torch.randn(layout.dimension, generator=rng) + factors @ basis + noise


@pytest.fixture(scope="module")
def ids():
    return [f"train-{i:05d}" for i in range(MODELS)]


@pytest.fixture(scope="module")
def space(layout, weights, ids):
    return WeightSpace.fit(layout, weights, ids, PCS)


@pytest.fixture(scope="module")
def labels(space, ids):
    """Two attributes planted on one coefficient each, and one that is half of both."""
    unit = space.coefficients / space.std
    planted = {"first": unit[:, 0] > 0, "second": unit[:, 1] > 0, "both": unit[:, 0] + unit[:, 1] > 0}
    return pd.DataFrame({k: v.numpy() for k, v in planted.items()}, index=ids)


def people_in_caps(count: int, seed: int) -> People:
    """People of noise, two pictures each; some wear a red cap, which their pictures show."""
    rng = np.random.default_rng(seed)
    ids = [f"p{k}" for k in range(count)]
    labels = pd.DataFrame(
        {"Cap": rng.random(count) < 0.5, "age": rng.integers(20, 70, count)}, pd.Index(ids, name="id")
    )
    images = rng.integers(60, 200, (2 * count, 80, 80, 3), np.uint8)
    images[np.repeat(labels["Cap"].to_numpy(), 2), :20] = (220, 30, 30)
    return People(images, pd.DataFrame({"id": np.repeat(ids, 2)}), labels)
