"""Scores of embeddings against scikit-learn and NumPy."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics import roc_auc_score

from w2w_lib.evaluation.identity import diversity, id_score, verification_auc


def test_verification_auc_is_sklearns_on_explicit_loops():
    rng = np.random.default_rng(0)
    people, others = np.repeat(np.arange(5), 3), np.repeat(np.arange(5), 2)
    a = rng.normal(size=(15, 8)) + people[:, None] * 0.4
    b = rng.normal(size=(10, 8)) + others[:, None] * 0.4
    within = [(i, j) for i in range(15) for j in range(i)]
    truth = roc_auc_score(
        [people[i] == people[j] for i, j in within], [-np.linalg.norm(a[i] - a[j]) for i, j in within]
    )
    assert verification_auc(a, people) == pytest.approx(truth)
    across = [(i, j) for i in range(15) for j in range(10)]
    truth = roc_auc_score(
        [people[i] == others[j] for i, j in across], [-np.linalg.norm(a[i] - b[j]) for i, j in across]
    )
    assert verification_auc(a, people, b, others) == pytest.approx(truth)


def test_id_score_is_the_cosine():
    a, b = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 2.0]])
    np.testing.assert_allclose(id_score(a, b), [1, 0])
    assert np.isnan(id_score(a, np.zeros((2, 2)))).all()  # of a vector without a direction


def test_distances_are_numpys_own():
    """To the last digits of what the measurements were made with before scipy was."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 128)) / 11, rng.normal(size=(20, 128)) / 11
    np.testing.assert_allclose(cdist(a, b), np.linalg.norm(a[:, None] - b[None], axis=-1), rtol=1e-12)
    first, second = np.triu_indices(30, 1)
    np.testing.assert_allclose(pdist(a), np.linalg.norm(a[first] - a[second], axis=1), rtol=1e-12)
    shaped = a.reshape(10, 3, 128)
    pairs = [np.linalg.norm(own[i] - own[j]) for own in shaped for i in range(3) for j in range(i)]
    assert diversity(shaped) == pytest.approx(np.mean(pairs), rel=1e-12)


def test_what_is_not_defined_is_nan():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 8))
    assert np.isnan(verification_auc(a, np.zeros(4))) and np.isnan(verification_auc(a, np.arange(4)))
    assert np.isnan(diversity(a[:, None])) and diversity(a[None]) > 0


def test_embeddings_that_do_not_fit(unchecked):
    a = np.random.default_rng(0).normal(size=(6, 12))
    with pytest.raises(ValueError, match="embeddings of 12 and of 3 numbers"):
        verification_auc(a, np.arange(6), a[:, :3], np.arange(6))
    with pytest.raises(ValueError, match=r"ID score: embeddings of shapes \(6, 12\) and \(3, 12\)"):
        id_score(a, a[:3])
    with pytest.raises(ValueError, match=r"6 embeddings and names of shape \(5,\)"):
        verification_auc(a, np.arange(5))
    for measure in (diversity, lambda x: id_score(x, x), lambda x: verification_auc(x[:, 0], np.arange(6))):
        with pytest.raises(ValueError, match="NaN or infinite"):
            measure(np.full((6, 2, 3), np.nan))
