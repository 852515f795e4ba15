"""Verification of painted pictures against scikit-learn, on planted embeddings."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestCentroid

from w2w_lib.evaluation import identity
from w2w_lib.evaluation.identity import Faces, verify

IDS = [f"p{k}" for k in range(6)]


@pytest.fixture
def planted(monkeypatch):
    """Pictures of 2 × 2 pixels, which are their own embeddings; every third is no face."""
    monkeypatch.setattr(
        identity,
        "embed_faces",
        lambda images: (images.reshape(len(images), -1) / 255.0, np.arange(len(images)) % 3 > 0),
    )


def pictures(spread: float) -> np.ndarray:
    """Six people, five pictures each."""
    rng = np.random.default_rng(0)
    people = rng.uniform(80, 170, (len(IDS), 1, 2, 2, 3))
    return np.clip(people + spread * rng.normal(size=(len(IDS), 5, 2, 2, 3)), 0, 255).astype(np.uint8)


def faces(images: np.ndarray) -> Faces:
    return Faces(images.reshape(-1, 12) / 255.0, np.repeat(IDS, images.shape[1]), np.ones(images.size // 12, bool))


def test_verification_is_scikit_learns(planted):
    images = pictures(spread=60)
    real, painted = faces(images[:, :3]), images[:, 3:]
    embeddings, people = painted.reshape(-1, 12) / 255.0, np.repeat(IDS, 2)
    found = verify(painted, IDS, real)
    same = people[:, None] == real.people[None]
    assert found["auc"] == pytest.approx(roc_auc_score(same.ravel(), -cdist(embeddings, real.embeddings).ravel()))
    nearest = NearestCentroid().fit(real.embeddings, real.people).predict(embeddings)
    assert 0 < found["rank1"] < 1 and found["rank1"] == pytest.approx((nearest == people).mean())
    centres = np.repeat(real.embeddings.reshape(6, 3, 12).mean(1), 2, axis=0)
    assert found["id_score"] == pytest.approx(1 - np.diag(cdist(embeddings, centres, "cosine")).mean())
    assert found["detected"] == pytest.approx(8 / 12)
    assert 0.005 < found["auc_error"] < 0.2


def test_people_who_are_told_apart_leave_no_error(planted):
    images = pictures(spread=0.5)
    found = verify(images[:, 3:], IDS, faces(images[:, :3]))
    assert (found["auc"], found["rank1"], found["auc_error"]) == pytest.approx((1, 1, 0))
    swapped = verify(images[:, 3:], IDS[1:] + IDS[:1], faces(images[:, :3]))
    assert swapped["rank1"] == 0
