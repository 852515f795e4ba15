"""Does a picture have the background that its prompt names, or that of the picture its model was made from?"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from w2w_lib.evaluation.base_quality import nearest_background
from w2w_lib.evaluation.pictures import as_pictures
from w2w_lib.people.rendered.view import BACKGROUNDS

ASKED = re.compile(rf"on an? ({'|'.join(BACKGROUNDS)}) background")


def background_obeyed(
    images: UInt8[np.ndarray, "models prompts height width 3"], prompts: Sequence[str]
) -> Float[np.ndarray, " models"]:
    """Share of each model's pictures with the background of the prompt, of those whose prompt names one.

    Of ``BACKGROUNDS`` the nearest colour counts. NaN where no prompt names one; ValueError for other than one prompt
    for each picture of a model.
    """
    asked = _asked(images, prompts)
    return (
        np.nanmean(np.where(asked[None] == "", np.nan, _shown(images) == asked), 1) if any(asked) else _unknown(images)
    )


def background_copied(
    images: UInt8[np.ndarray, "models prompts height width 3"],
    prompts: Sequence[str],
    given: UInt8[np.ndarray, "models height width 3"],
) -> Float[np.ndarray, " models"]:
    """Share with the background of the given picture, of a model's pictures whose prompt names another one.

    NaN for a model without such a prompt; ValueError as for ``background_obeyed``.
    """
    asked, was = _asked(images, prompts), np.array(nearest_background(as_pictures(given)))[:, None]
    counts = (asked[None] != "") & (asked[None] != was)
    copied = (_shown(images) == was) & counts
    with np.errstate(invalid="ignore"):
        return copied.sum(1) / counts.sum(1)


def _asked(images: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
    images = as_pictures(images, "models prompts height width 3")
    if isinstance(prompts, str) or len(prompts) != images.shape[1]:
        raise ValueError(f"{len(prompts)} prompts for {images.shape[1]} pictures of each model: expected one for each")
    return np.array([found[1] if (found := ASKED.search(prompt)) else "" for prompt in prompts])


def _shown(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(-1, *images.shape[2:])
    return np.array(nearest_background(flat)).reshape(images.shape[:2])


def _unknown(images: np.ndarray) -> np.ndarray:
    return np.full(len(images), np.nan)
