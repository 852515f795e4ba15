"""The learned start against scikit-learn's own ridge regression and a planted linear map."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from w2w_lib.space.learned_start import LearnedStart

WIDTH, VIEWS = 5, 3


@pytest.fixture
def pictures(space, ids):
    """Features that are a linear map of the coefficients, and those that are noise alone."""
    rng = np.random.default_rng(0)
    people = np.repeat(ids, VIEWS)
    units = np.repeat((space.coefficients / space.std).numpy(), VIEWS, axis=0)
    features = units @ rng.normal(size=(units.shape[1], 12)) + 0.01 * rng.normal(size=(len(units), 12))
    return people, features, rng.normal(size=features.shape)


def test_a_planted_map_is_found_and_noise_explains_nothing(space, pictures):
    people, features, noise = pictures
    found = LearnedStart.fit(space, features, list(people), (1e-4, 1e-2, 1.0))
    assert found.share > 0.95
    predicted = found.predict(features[:VIEWS])
    torch.testing.assert_close(predicted[0] / space.std, space.coefficients[0] / space.std, rtol=0, atol=0.2)
    of_noise = LearnedStart.fit(space, noise, list(people), (1e-4, 1e6))
    assert (of_noise.penalties == 1e6).mean() > 0.7 and of_noise.share < 0.05
    to_mean = (of_noise.predict(noise) / space.std)[:, of_noise.penalties == 1e6]
    assert to_mean.abs().max() < 0.1  # the mean model


def test_it_is_ridge_regression_on_standardised_features(space, pictures):
    people, features, _ = pictures
    found = LearnedStart.fit(space, features, list(people), (3.0,))
    units = np.repeat((space.coefficients / space.std).numpy(), VIEWS, axis=0)
    scaled = (features - features.mean(0)) / features.std(0)
    expected = Ridge(3.0).fit(scaled, units).predict(scaled[:4]) * space.std.numpy()
    np.testing.assert_allclose(found.predict(features[:4]).numpy(), expected, rtol=1e-3, atol=1e-4)


def test_pictures_of_one_person_are_never_on_both_sides(space, ids):
    """Features that name the person, and nothing else, help only where the person was seen."""
    people = np.repeat(ids, 2)
    features = np.repeat(np.eye(len(ids)), 2, axis=0)
    assert LearnedStart.fit(space, features, list(people), (1e-3,)).share <= 0.01


def test_refusals(space, pictures):
    people, features, _ = pictures
    for arguments, error in [
        ((features, list(people[:-1])), "expected a name for each of 180 pictures, found 179"),
        ((features, ["nobody", *people[1:]]), "no training model of 'nobody'"),
        ((np.full_like(features, np.nan), list(people)), "learned start: the embeddings hold NaN"),
        ((features[:3], list(people[:3])), "pictures of 1 people: expected at least 4"),
    ]:
        with pytest.raises(ValueError, match=error):
            LearnedStart.fit(space, *arguments)
    with pytest.raises(ValueError, match="expected rows of 12 features"):
        LearnedStart.fit(space, features, list(people), (1.0,)).predict(features[:, :3])
