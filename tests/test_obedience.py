"""Whether pictures obey their prompts, on pictures that do by construction."""

import numpy as np
import pytest

from w2w_lib.evaluation.obedience import obedience
from w2w_lib.people.rendered.view import BACKGROUNDS


def flat(colour: str) -> np.ndarray:
    return np.tile((255 * np.array(BACKGROUNDS[colour])).astype(np.uint8), (64, 64, 1))


def test_backgrounds_and_light_are_told():
    left, right = flat("green"), flat("blue")
    left[:, :32] += 30  # the left half of the face is lit
    right[:, 32:] += 30
    images = np.array([[left, right], [right, left]])
    prompts = [
        "sks person, lit from the left, on a green background",
        "sks person, lit from the right, on a blue background",
    ]
    found = obedience(images, prompts)
    assert found.keys() == {"background", "light"}
    assert found["light"].tolist() == [1, 0] and found["background"][0] == 1 and found["background"][1] == 0
    assert obedience(images, ["sks person", "sks person, smiling"]) == {}
    with pytest.raises(ValueError, match="expected one for each"):
        obedience(images, prompts[:1])
