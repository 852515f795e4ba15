"""Names of people whom a base knows by name, as Stable Diffusion knows celebrities.

A name says who is seen and nothing of how they look. It is the only word for what no list of attributes describes, and
directions from face to face are what personalisation needs (Yuan et al. 2023, "Celeb Basis").
"""

import numpy as np

from w2w_lib.people.rendered.captions import VOCABULARY

CONSONANTS, VOWELS, SYLLABLES = "bdfgklmnprstvz", "aeiou", 3


def known_names(count: int) -> list[str]:
    """``count`` different names of three syllables, the same each time; none is a word of the captions."""
    rng, found = np.random.default_rng(0), {}
    while len(found) < count:
        name = "".join(rng.choice([*CONSONANTS]) + rng.choice([*VOWELS]) for _ in range(SYLLABLES))
        if name not in VOCABULARY:
            found[name] = None
    return [*found]
