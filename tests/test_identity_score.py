"""ID scores of vectors whose angles are known."""

from itertools import combinations

import numpy as np
import pytest

from w2w_lib.evaluation.face_embedders import FaceEmbeddings
from w2w_lib.evaluation.identity_score import IdentityScale, raw_identity


def at(degrees, found=None, back_end="planted") -> FaceEmbeddings:
    """Plane vectors of several lengths at these angles."""
    angles = np.deg2rad(np.asarray(degrees, float))
    length = 1 + np.arange(angles.size).reshape(angles.shape)
    vectors = length[..., None] * np.stack([np.cos(angles), np.sin(angles)], -1)
    return FaceEmbeddings(back_end, vectors, np.ones(angles.shape, bool) if found is None else np.array(found))


def test_a_missing_face_is_a_failure_and_no_zero():
    before = at([[0, 0, 0], [0, 0, 0]], [[True, True, False], [True, False, True]])
    after = at([[60, 0, 0], [90, 0, 0]], [[True, True, True], [False, True, False]])
    np.testing.assert_allclose(raw_identity(before, after), [[0.5, 1, np.nan], [np.nan, np.nan, np.nan]])


def test_the_scale_is_the_mean_cosine_of_strangers_and_of_the_same():
    """Each person's two shots lie 20 degrees apart, and the people at right angles."""
    faces = at([[-10, 10], [80, 100]])
    scale = IdentityScale.fitted(faces)
    strangers = np.mean(np.cos(np.deg2rad([90, 70, 110, 90])))
    assert (scale.back_end, scale.strangers, scale.same) == (
        "planted",
        pytest.approx(strangers),
        pytest.approx(np.cos(np.deg2rad(20))),
    )
    np.testing.assert_allclose(scale.calibrated(np.array([scale.strangers, scale.same])), [0, 1])
    assert np.isnan(scale.calibrated(np.array([np.nan]))).all()


def test_the_scale_counts_every_pair_of_faces_that_were_found():
    rng = np.random.default_rng(0)
    vectors, found = rng.normal(size=(5, 4, 7)) + 2 * rng.normal(size=(5, 1, 7)), rng.random((5, 4)) < 0.7
    cosines = {True: [], False: []}
    for (one, first), (other, second) in combinations(zip(*np.nonzero(found), strict=True), 2):
        a, b = vectors[one, first], vectors[other, second]
        cosines[bool(one == other)].append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    scale = IdentityScale.fitted(FaceEmbeddings("planted", vectors, found))
    assert (scale.strangers, scale.same) == pytest.approx((np.mean(cosines[False]), np.mean(cosines[True])))


def test_scales_that_there_are_not():
    for strangers, same in ((0.5, 0.5), (0.6, 0.5)):
        with pytest.raises(ValueError, match="cannot tell these people apart"):
            IdentityScale("planted", strangers, same)
    with pytest.raises(ValueError, match="same: expected a finite number, found nan"):
        IdentityScale("planted", 0.1, float("nan"))
    for faces in (at([[0, 10]]), at([[0], [90]]), at([[0, 1], [90, 91]], [[True, True], [False, False]])):
        with pytest.raises(ValueError, match="expected two of somebody, and two people"):
            IdentityScale.fitted(faces)
    with pytest.raises(ValueError, match=r"expected \(people, shots, dim\)"):
        IdentityScale.fitted(at([0, 90]))


def test_other_back_ends_and_pictures_are_not_compared():
    before = at([[0, 10]])
    for other in (at([[0, 10]], back_end="facenet"), at([[0, 10, 20]])):
        with pytest.raises(ValueError, match="expected the same pictures before and after, by the same back end"):
            raw_identity(before, other)
