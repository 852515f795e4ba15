"""Backgrounds of pictures whose colours are those of the named ones."""

import numpy as np
import pytest

from w2w_lib.evaluation.backgrounds import background_copied, background_obeyed
from w2w_lib.people.rendered.view import BACKGROUNDS

PROMPTS = ["sks person on a blue background", "sks person", "sks person, smiling, on a red background"]


def painted(*rows: list[str]) -> np.ndarray:
    """Pictures of plain backgrounds, a row for each model."""
    colours = np.array([[BACKGROUNDS[name] for name in row] for row in rows])
    return np.broadcast_to((colours * 255).astype(np.uint8)[:, :, None, None], (*colours.shape[:2], 12, 12, 3)).copy()


def test_shares_of_backgrounds_that_are_as_asked_and_as_given():
    images = painted(["blue", "green", "red"], ["white", "white", "red"], ["green", "blue", "blue"])
    np.testing.assert_allclose(background_obeyed(images, PROMPTS), [1, 0.5, 0])
    given = painted(["red", "white", "green"])[0]
    np.testing.assert_allclose(background_copied(images, PROMPTS, given), [0, 0.5, 0.5])


def test_prompts_that_name_no_background_tell_nothing():
    images = painted(["blue"], ["red"])
    assert np.isnan(background_obeyed(images, PROMPTS[1:2])).all()
    assert np.isnan(background_copied(images, PROMPTS[:1], images[:, 0])).tolist() == [True, False]
    with pytest.raises(ValueError, match="3 prompts for 1 pictures of each model"):
        background_obeyed(images, PROMPTS)
