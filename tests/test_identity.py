"""Verification of painted pictures against scikit-learn, on planted embeddings."""

import numpy as np
import pytest
from planted import people_in_caps
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestCentroid

from w2w_lib.evaluation import identity
from w2w_lib.evaluation.identity import Faces, consistency, diversity, id_score, verification_auc, verify
from w2w_lib.people.people_set import People

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
    for auc in (verification_auc(a, np.zeros(4)), verification_auc(a, np.arange(4)), consistency(a[None])):
        assert np.isnan(auc)
    assert np.isnan(consistency(a[:, None])) and np.isnan(diversity(a[:, None])) and diversity(a[None]) > 0


def test_people_and_embeddings_that_do_not_fit(planted, unchecked):
    images = pictures(spread=60)
    real, painted = faces(images[:, :3]), images[:, 3:]
    for said, wrong, ids in (
        ("no real pictures of 'p55', did you mean 'p5'", painted, [*IDS[:-1], "p55"]),
        ("5 names for pictures", painted, IDS[:-1]),
        ("at least one picture by each", painted[:, :0], IDS),
        ("names .*at least one identity", painted[:0], []),
        (r"expected uint8 \(models, prompts, height, width, 3\)", painted[0], IDS[:1]),
    ):
        with pytest.raises(ValueError, match=said):
            verify(wrong, ids, real)
    alone = verify(painted[:1], IDS[:1], Faces(real.embeddings[:3], real.people[:3], real.found[:3]))
    assert np.isnan(alone["auc"]) and np.isnan(alone["auc_error"]) and alone["rank1"] == 1
    listed = Faces(real.embeddings.tolist(), list(real.people), list(real.found))
    assert verify(list(painted), IDS, listed) == verify(painted, IDS, real)
    with pytest.raises(ValueError, match="True and False"):
        Faces(real.embeddings, real.people, real.people)
    with pytest.raises(ValueError, match="embeddings of 12 and of 3 numbers"):
        verify(painted, IDS, Faces(real.embeddings[:, :3], real.people, real.found))
    with pytest.raises(ValueError, match=r"ID score: embeddings of shapes \(18, 12\) and \(6, 12\)"):
        id_score(real.embeddings, real.embeddings[:6])
    with pytest.raises(ValueError, match="18 embeddings, 17 names, 18 flags"):
        Faces(real.embeddings, real.people[1:], real.found)
    for measure in (consistency, diversity, lambda x: id_score(x, x), lambda x: verification_auc(x, IDS)):
        with pytest.raises(ValueError, match=r"NaN or infinite|floating-point numbers"):
            measure(np.full((6, 2, 3), np.nan))
    with pytest.raises(ValueError, match=r"6 embeddings and names of shape \(5,\)"):
        verification_auc(np.ones((6, 2)), np.arange(5))


def test_of_whom_there_are_fewer_pictures_fewer_are_taken():
    people = people_in_caps(3, seed=0)
    short = people.pictures.index != 1  # of p0 a single one
    faces = Faces.of(People(people.images[short], people.pictures[short], people.labels), people.ids, views=2)
    assert list(faces.people) == ["p0", "p1", "p1", "p2", "p2"] and len(faces.embeddings) == 5
    assert faces.templates()[0] == people.ids
