"""Domains against what they mean: channels, levels, hues and halves that are known."""

import numpy as np
import pytest
from skimage.color import rgb2hsv
from skimage.data import astronaut

from w2w_lib.evaluation.domains import DOMAINS, LEVELS, in_domain

FACE = astronaut()[:128, 150:278]


def changed(name: str) -> np.ndarray:
    return in_domain(FACE[None], name)[0]


@pytest.mark.parametrize("name", DOMAINS)
def test_every_domain_changes_a_picture_and_keeps_its_form(name):
    found = changed(name)
    assert found.shape == FACE.shape and found.dtype == np.uint8
    assert np.abs(found.astype(int) - FACE).mean() > 1


def test_gray_and_drawings_have_no_colour():
    for name in ("gray", "line drawing"):
        assert np.ptp(changed(name).astype(int), axis=2).max() == 0
    weights = FACE @ np.array([0.2125, 0.7154, 0.0721])  # of Rec. 709
    np.testing.assert_allclose(changed("gray")[..., 0], weights, atol=1)


def test_a_drawing_is_white_but_for_its_edges():
    step = np.full((32, 32, 3), 50, np.uint8)
    step[:, 16:] = 200
    drawn = in_domain(step[None], "line drawing")[0, ..., 0]
    assert (drawn[:, :12] == 255).all() and (drawn[:, 20:] == 255).all() and drawn[:, 15:17].max() < 60
    assert (in_domain(step[None, :, :8], "line drawing") == 255).all()  # nothing to draw


def test_levels_hues_and_halves():
    assert all(len(np.unique(changed("posterised")[..., k])) == LEVELS for k in range(3))
    red = np.full((1, 4, 4, 3), (200, 50, 50), np.uint8)
    assert (in_domain(red, "hue-shifted")[0, 0, 0] == (50, 200, 50)).all()
    np.testing.assert_allclose(rgb2hsv(changed("hue-shifted"))[..., 2], rgb2hsv(FACE)[..., 2], atol=0.01)
    covered = changed("half covered")
    assert (covered[:, 64:] == FACE[:, 64:]).all() and np.ptp(covered[:, :64]) == 0
    flat = np.full((1, 8, 64, 3), 100, np.uint8)
    lit = in_domain(flat, "strongly lit")[0].mean((0, 2))
    assert (np.diff(lit) >= 0).all() and lit[0] == pytest.approx(35, abs=1) and lit[-1] == pytest.approx(190, abs=1)


def test_patches_of_an_oil_like_picture_are_flat_and_their_borders_sharp():
    step = np.random.default_rng(0).normal([[60.0, 190.0]], 6, (32, 16, 2)).transpose(0, 2, 1).reshape(32, 32, 1)
    step = np.repeat(step.clip(0, 255).astype(np.uint8), 3, axis=2)
    found = in_domain(step[None], "oil-like")[0, 4:-4, :, 0].astype(float)
    assert found[:, 4:12].std() < 0.6 * step[4:-4, 4:12, 0].std()
    assert found[:, 18:].mean() - found[:, :14].mean() > 120


def test_refusals(unchecked):
    with pytest.raises(ValueError, match="no domain 'grey', did you mean 'gray'"):
        in_domain(FACE[None], "grey")
    with pytest.raises(ValueError, match="pictures: expected uint8"):
        in_domain(FACE[None].astype(float), "gray")
