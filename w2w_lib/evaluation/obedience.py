"""Do pictures still show what the prompt says of pose, light and background?"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from w2w_lib.evaluation.backgrounds import background_obeyed
from w2w_lib.evaluation.base_quality import VIEW_TESTS
from w2w_lib.evaluation.pictures import as_pictures


def obedience(
    images: UInt8[np.ndarray, "people shots height width 3"], prompts: Sequence[str]
) -> dict[str, Float[np.ndarray, " people"]]:
    """For every kind of view that the prompts (one for each shot) name, the share in which each person's pictures obey.

    ``background``: the share of pictures whose background is the named colour. The view tests of notebook 00 (``pose``,
    ``light``, ...): the share of pairs, one picture asked to be low and one to be high, that are in this order. Kinds
    that no prompt names, or only one way, are left out. ValueError where there is not one prompt for each shot.
    """
    images = as_pictures(images, "people shots height width 3")
    flat, background = images.reshape(-1, *images.shape[2:]), background_obeyed(images, prompts)
    found = {} if np.isnan(background).any() else {"background": background}
    for kind, test in VIEW_TESTS.items():
        low, high = ([k for k, prompt in enumerate(prompts) if phrase in prompt] for phrase in (test.low, test.high))
        if low and high:
            measured = test.measure(flat).reshape(images.shape[:2])
            pairs = [measured[:, one] > measured[:, other] for one in high for other in low]
            found[kind] = np.mean(pairs, axis=0)
    return found
