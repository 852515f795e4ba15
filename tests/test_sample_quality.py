"""Distances between sets of pictures, in closed form and on toys."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.spatial.distance import cdist
from scipy.stats import ortho_group
from tiny_base import tiny_pipeline

from w2w_lib.evaluation.base_quality import frechet_distance, precision_recall, shuffle_patches
from w2w_lib.evaluation.sample_quality import comparison_sets, nearest_cosines, sample_quality
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.people.people_set import People


def test_frechet_distance_of_gaussians_in_closed_form():
    rng = np.random.default_rng(0)
    rotation = ortho_group.rvs(4, random_state=0)
    a = rng.normal(size=(20_000, 4)) @ (np.diag([1, 2, 3, 4]) @ rotation)
    b = rng.normal(size=(20_000, 4)) @ (np.diag([2, 2, 1, 5]) @ rotation) + [1, 0, 2, 0]
    # The covariances commute: the distance is the sum of squared differences of means and of deviations.
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 0 + 4 + 1, rel=0.03)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_where_covariances_do_not_commute():
    rng = np.random.default_rng(1)
    a, b = (
        rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)),
        rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)),
    )
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    truth = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(truth)


def test_precision_and_recall_on_toy_clouds():
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 20])  # two clusters
    same = np.concatenate([rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 20])
    one_cluster, elsewhere = rng.normal(size=(400, 2)), rng.normal(size=(400, 2)) - 50
    assert min(share.value for share in precision_recall(real, same)) > 0.9
    precision, recall = precision_recall(real, one_cluster)
    assert precision.value > 0.9 and recall.low < 0.5 < recall.high  # faithful, but half is missing
    assert [share.value for share in precision_recall(real, elsewhere)] == [0, 0]


def test_shuffled_patches_are_the_same_patches():
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    mixed = shuffle_patches(images, seed=3)
    assert mixed.shape == images.shape and (mixed != images).any()

    def squares(image):
        return sorted(image[y : y + 8, x : x + 8].tobytes() for y in range(0, 64, 8) for x in range(0, 64, 8))

    assert [squares(image) for image in mixed] == [squares(image) for image in images]
    np.testing.assert_array_equal(mixed, shuffle_patches(images, seed=3))


def test_sample_quality_is_a_table_of_both(unchecked):
    rng = np.random.default_rng(0)
    faces = {
        "renders": rng.normal(size=(60, 2)),
        "same": rng.normal(size=(60, 2)),
        "far": rng.normal(size=(60, 2)) + 50,
    }
    table = sample_quality(faces)
    assert list(table.index) == ["same", "far"] and list(table) == ["Fréchet", "precision", "recall"]
    assert table.loc["far", "precision"].value == 0 and table.loc["same", "recall"].value > 0.8
    assert table.loc["far", "Fréchet"] == pytest.approx(2 * 50**2, rel=0.05)
    with pytest.raises(ValueError, match="no set 'render', did you mean 'renders'"):
        sample_quality(faces, "render")
    for wrong in (faces["same"][:1], faces["same"][:, :1], faces["same"] * np.nan, faces["same"][0]):
        for measure in (frechet_distance, precision_recall):
            with pytest.raises(ValueError, match="distributions"):
                measure(faces["renders"], wrong)


@pytest.mark.slow
def test_the_sets_that_are_compared(unchecked):
    pipeline, people = tiny_pipeline(), People.render("heldout", 2, 2, 16)
    first, second = people.images[0::2], people.images[1::2]
    sets = comparison_sets(pipeline, first, second, Sampling(steps=2))
    assert list(sets)[:3] == ["renders", "same people, other views", "those, decoded"] and len(sets) == 8
    assert {images.shape for images in sets.values()} == {first.shape}
    np.testing.assert_array_equal(sets["other people"], People.render("test", 2, 1, 16).images)
    seeded = generate(pipeline, ["person"], [10_001], sampling=Sampling(steps=2))
    assert np.abs(sets["samples"][1].astype(int) - seeded[0]).max() <= 1
    with pytest.raises(ValueError, match="expected two views of the same people"):
        comparison_sets(pipeline, first, second[:1], Sampling(steps=2))


def test_pictures_that_cannot_be_shuffled(unchecked):
    for shape in ((1, 64, 60, 3), (1, 60, 60, 3)):
        with pytest.raises(ValueError, match="squares whose side is a multiple of 8"):
            shuffle_patches(np.zeros(shape, np.uint8), 0)


def test_the_nearest_known_face_is_scipys(unchecked):
    rng = np.random.default_rng(0)
    faces, known = rng.normal(size=(5, 3, 8)), rng.normal(size=(20, 8))
    np.testing.assert_allclose(nearest_cosines(faces, known), 1 - cdist(faces.mean(1), known, "cosine").min(1))
    copies = np.repeat(known[:5, None], 3, axis=1)
    np.testing.assert_allclose(nearest_cosines(copies, known), 1)
