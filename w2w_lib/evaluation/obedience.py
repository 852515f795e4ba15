"""Do pictures still show what the prompt says of pose, light and background?"""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from w2w_lib.evaluation.base_quality import VIEW_TESTS, nearest_background
from w2w_lib.evaluation.pictures import as_pictures
from w2w_lib.people.rendered.view import BACKGROUNDS


def obedience(
    images: UInt8[np.ndarray, "people shots height width 3"], prompts: Sequence[str]
) -> dict[str, Float[np.ndarray, " people"]]:
    """For every kind of view that the prompts (one for each shot) name, the share in which each person's pictures obey.

    ``background``: the share of pictures whose background is the named colour. The view tests of notebook 00 (``pose``,
    ``light``, ...): the share of pairs, one picture asked to be low and one to be high, that are in this order. Kinds
    that no prompt names, or only one way, are left out. ValueError where there is not one prompt for each shot.
    """
    images = as_pictures(images, "people shots height width 3")
    if len(prompts) != images.shape[1]:
        raise ValueError(f"{len(prompts)} prompts for {images.shape[1]} pictures of each: expected one for each")
    flat = images.reshape(-1, *images.shape[2:])
    found = {}
    asked = [re.search(rf"on an? ({'|'.join(BACKGROUNDS)}) background", prompt) for prompt in prompts]
    if named := [k for k, one in enumerate(asked) if one]:
        shown = np.array(nearest_background(flat)).reshape(images.shape[:2])
        found["background"] = np.mean([shown[:, k] == asked[k][1] for k in named], axis=0)
    for kind, test in VIEW_TESTS.items():
        low, high = ([k for k, prompt in enumerate(prompts) if phrase in prompt] for phrase in (test.low, test.high))
        if low and high:
            measured = test.measure(flat).reshape(images.shape[:2])
            pairs = [measured[:, one] > measured[:, other] for one in high for other in low]
            found[kind] = np.mean(pairs, axis=0)
    return found
