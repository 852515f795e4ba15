"""Line-ups of toy faces against scikit-learn's AUC."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from w2w_lib.evaluation.identity import verification_auc
from w2w_lib.evaluation.lineup import Judged, Lineup, among_themselves, compared, first_as_good

DIM, VIEWS, SHOTS = 6, 3, 2


@pytest.fixture(scope="module")
def lineup():
    """Ten people, of whom each two with the same label sit next to each other in the space of faces."""
    rng = np.random.default_rng(2)
    ids = [f"p{k}" for k in range(10)]
    kinds = np.repeat(rng.normal(size=(5, DIM)), 2, axis=0)
    centres = 2 + kinds + 0.4 * rng.normal(size=(10, DIM))
    faces = np.repeat(centres, VIEWS, axis=0) + 0.3 * rng.normal(size=(10 * VIEWS, DIM))
    labels = pd.DataFrame({"Male": np.arange(10) // 2 % 2 == 0, "Bald": np.arange(10) // 4 == 0}, ids)
    labels["Black_Hair"] = np.arange(10) > 7
    return Lineup(faces, np.repeat(ids, VIEWS), labels)


def judged_from(lineup, ids, seed, noise=0.6):
    rng = np.random.default_rng(seed)
    centres = np.stack([lineup.faces[lineup.people == i].mean(0) for i in ids])
    embeddings = centres[:, None] + noise * rng.normal(size=(len(ids), SHOTS, DIM))
    return Judged(lineup, ids, embeddings, np.ones((len(ids), SHOTS), bool))


def test_auc_is_that_of_all_pairs_and_of_those_who_look_alike(lineup):
    ids = lineup.ids[1:7]
    judged, flat = judged_from(lineup, ids, 3), judged_from(lineup, ids, 3).embeddings.reshape(-1, DIM)
    people, others = np.repeat(ids, SHOTS), np.arange(4)
    modelled = np.isin(lineup.people, ids)
    expected = verification_auc(flat, people, lineup.faces[modelled], lineup.people[modelled])
    assert judged.auc(np.arange(6), others) == pytest.approx(expected)
    kind = {i: tuple(row) for i, row in zip(lineup.labels.index, lineup.labels.to_numpy(), strict=True)}
    pairs = np.array([[kind[a] == kind[b] for b in lineup.people] for a in people])
    same = people[:, None] == lineup.people
    distance = cdist(flat, lineup.faces)
    expected = roc_auc_score(same[pairs], -distance[pairs])
    assert judged.auc(np.arange(6), others, alike=True) == pytest.approx(expected)


def test_people_who_are_drawn_twice_count_twice_and_are_no_strangers_to_themselves(lineup):
    ids = lineup.ids[:4]
    judged = judged_from(lineup, ids, 4)
    flat, people = judged.embeddings.reshape(-1, DIM), np.repeat(ids, SHOTS)
    same = people[:, None] == lineup.people
    count = {ids[0]: 2, ids[2]: 1}
    weights = np.array([[count.get(a, 0) * (1 if a == b else count.get(b, 0)) for b in lineup.people] for a in people])
    expected = roc_auc_score(same.ravel(), -cdist(flat, lineup.faces).ravel(), sample_weight=weights.ravel())
    assert judged.auc(np.array([0, 0, 2]), np.array([1, 1, 1])) == pytest.approx(expected)


def test_pictures_that_are_the_same_for_everybody_tell_nothing(lineup):
    ids = lineup.ids[:4]
    same = np.broadcast_to(np.random.default_rng(5).normal(size=(1, SHOTS, DIM)), (4, SHOTS, DIM))
    judged = Judged(lineup, ids, same, np.ones((4, SHOTS), bool))
    assert judged.auc(np.arange(4), np.arange(6)) == pytest.approx(0.5)
    whole = Judged(lineup, lineup.ids, np.repeat(same[:1], 10, 0), np.ones((10, SHOTS), bool))
    assert whole.scores["rank1"].mean() == pytest.approx(0.1)


def test_normalised_id_is_one_for_real_pictures_and_zero_for_strangers(lineup):
    shots = lineup.faces.reshape(10, VIEWS, DIM)
    unit = lineup.faces / np.linalg.norm(lineup.faces, axis=1, keepdims=True)
    same = lineup.people[:, None] == lineup.people
    assert lineup.strangers == pytest.approx((unit @ unit.T)[~same].mean())
    seen = Judged(lineup, lineup.ids, shots, np.ones((10, VIEWS), bool)).scores["normalised_id"].mean()
    ones = 1 / VIEWS * (1 - lineup.themselves) / (lineup.themselves - lineup.strangers)  # every picture with itself
    assert seen == pytest.approx(1 + ones)
    strangers = [
        Judged(lineup, lineup.ids, np.roll(shots, k, 0), np.ones((10, VIEWS), bool)).scores["normalised_id"].mean()
        for k in range(1, 10)
    ]
    assert np.mean(strangers) == pytest.approx(0, abs=1e-9)


def test_methods_are_compared_on_the_same_people(lineup):
    ids = lineup.ids[:8]
    good, bad = judged_from(lineup, ids, 6, 0.2), judged_from(lineup, ids, 7, 3.0)
    found = compared(good, bad)
    assert found["auc"].value == pytest.approx(good.summary()["auc"].value - bad.summary()["auc"].value)
    assert found["auc"].low > 0 and found["normalised_id"].low > 0 and found["detected"] == (0, 0, 0)
    assert compared(good, good)["auc"] == (0, 0, 0)
    with pytest.raises(ValueError, match="same people in the same line-up"):
        compared(good, judged_from(lineup, ids[::-1], 6))
    with pytest.raises(ValueError, match="no real pictures of 'p11'"):
        Judged(lineup, ["p11"], good.embeddings[:1], good.found[:1])


def test_models_of_nobody_are_compared_among_themselves():
    rng = np.random.default_rng(8)
    faces = np.repeat(rng.normal(size=(6, 1, DIM)), 4, axis=1) + rng.normal(size=(6, 4, DIM))
    judged = among_themselves(faces, np.ones((6, 4), bool))
    names = np.repeat(np.arange(6), 2)
    first, rest = faces[:, :2].reshape(-1, DIM), faces[:, 2:].reshape(-1, DIM)
    assert judged.auc(np.arange(6), np.arange(0)) == pytest.approx(verification_auc(first, names, rest, names))
    with pytest.raises(ValueError, match="expected at least 2"):
        among_themselves(faces[:, :1], np.ones((6, 1), bool))


def test_the_first_method_that_is_as_good_as_the_last_is_chosen(lineup):
    bad, good, best = (judged_from(lineup, lineup.ids, 9, noise) for noise in (5.0, 0.2, 0.2))
    assert first_as_good({"bad": bad, "good": good, "best": best}) == "good"
