"""Paths between models, against geometry."""

import numpy as np
import pytest
import torch

from w2w_lib.space.interpolation import along_path, linear_path, monotone, pixel_path, spherical_path

SHARES = [0.0, 0.25, 0.5, 0.75, 1.0]


def test_a_straight_line_and_an_arc_in_the_plane():
    centre = torch.tensor([1.0, 1.0])
    first, second = centre + torch.tensor([[2.0, 0.0]]), centre + torch.tensor([[0.0, 2.0]])
    line = linear_path(first, second, SHARES)
    torch.testing.assert_close(line[0, 2], centre + 1.0)
    arc = spherical_path(first, second, SHARES, centre)
    angles = torch.tensor(SHARES) * np.pi / 2
    torch.testing.assert_close(arc[0], centre + 2 * torch.stack([angles.cos(), angles.sin()], 1))


def test_the_arc_keeps_the_distance_that_the_line_loses():
    rng = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6, 500, generator=rng)
    first, centre = 3 * first, torch.zeros(500)
    arc, line = spherical_path(first, second, SHARES, centre), linear_path(first, second, SHARES)
    torch.testing.assert_close(arc[:, 0], first), torch.testing.assert_close(arc[:, -1], second)
    lengths = torch.stack([(1 - s) * first.norm(dim=1) + s * second.norm(dim=1) for s in SHARES], 1)
    torch.testing.assert_close(arc.norm(dim=2), lengths)
    assert (line[:, 2].norm(dim=1) < 0.9 * lengths[:, 2]).all()


def test_models_in_one_direction_are_joined_by_a_line_and_opposite_ones_are_refused():
    first = torch.tensor([[1.0, 0.0]])
    torch.testing.assert_close(spherical_path(first, 3 * first, [0.5], torch.zeros(2))[0, 0], 2 * first[0])
    with pytest.raises(ValueError, match="opposite"):
        spherical_path(first, -first, [0.5], torch.zeros(2))
    with pytest.raises(ValueError, match="centre"):
        spherical_path(first, 0 * first, [0.5], torch.zeros(2))


def test_pictures_are_laid_over_each_other():
    black, white = np.zeros((1, 2, 4, 4, 3), np.uint8), np.full((1, 2, 4, 4, 3), 200, np.uint8)
    found = pixel_path(black, white, SHARES)
    assert found.shape == (1, 5, 2, 4, 4, 3) and found[0, :, 0, 0, 0, 0].tolist() == [0, 50, 100, 150, 200]


def test_places_along_the_line_of_two_faces():
    faces = np.array([[[0.0, 0.0], [1.0, 1.0], [4.0, 0.0]]])
    np.testing.assert_allclose(along_path(faces), [[[0, 0], [0.25, 0.25], [1, 0]]])


def test_scores_that_go_back_are_not_monotone():
    scores = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3], [3, 2, 2.2, 0]])
    assert monotone(scores).tolist() == [True, True, False, False]
    assert monotone(scores, slack=0.1).tolist() == [True, True, False, True]
