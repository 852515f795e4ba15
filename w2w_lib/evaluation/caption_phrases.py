"""The closed list of phrases that captions of rendered people are made of, and captions taken apart into them."""

import re
from collections.abc import Sequence
from itertools import product

import torch
from jaxtyping import Int
from torch import Tensor

from w2w_lib.inputs import nearest
from w2w_lib.models.prompts import check_prompts
from w2w_lib.people.rendered.captions import (
    ABSENT,
    CURL_WORDS,
    DECADES,
    PRESENT,
    SKIN_PHRASES,
    TRAIT_PHRASES,
    WRINKLE_PHRASES,
    person_phrases,
    view_phrases,
)
from w2w_lib.people.rendered.person import (
    BEARDS,
    EYE_COLOURS,
    GLASSES_COLOURS,
    GLASSES_SHAPES,
    HAIR_COLOURS,
    HAIR_STYLES,
    Person,
)
from w2w_lib.people.rendered.view import BACKGROUNDS, EXPRESSIONS, SHIRTS, View

ANYBODY = "person"  # the noun of a caption that does not say the gender
OPENING = "a photo of a "
_SIDES = ("left", "right")
_STYLED = product((style for style in HAIR_STYLES if style not in ("bald", "buzzed")), CURL_WORDS, HAIR_COLOURS)

# Every phrase by the feature that it speaks of; a picture has exactly one of each feature's.
FEATURES: dict[str, tuple[str, ...]] = {
    "gender": ("man", "woman"),
    "age": tuple(f"in the {decade}" for decade in DECADES),
    "skin": SKIN_PHRASES,
    "hair": (
        "bald",
        *(f"buzzed {colour} hair" for colour in HAIR_COLOURS),
        *(" ".join((*words, "hair")) for words in _STYLED),
    ),
    **{name: (ABSENT[name], PRESENT[name]) for name in PRESENT},
    "beard": (
        ABSENT["beard"],
        *(f"full {colour} beard" for colour in HAIR_COLOURS),
        *(f"{colour} {beard}" for beard in BEARDS if beard not in ("none", "full") for colour in HAIR_COLOURS),
    ),
    "glasses": (
        ABSENT["glasses"],
        *(f"{shape} {colour} glasses" for shape, colour in product(GLASSES_SHAPES, GLASSES_COLOURS)),
    ),
    **TRAIT_PHRASES,
    "wrinkles": WRINKLE_PHRASES,
    "eye_colour": tuple(f"{colour} irises" for colour in EYE_COLOURS),
    "pose": (*(f"facing {side}" for side in _SIDES), "facing forward"),
    "light": (*(f"lit from the {side}" for side in _SIDES), "lit from the front"),
    "expression": tuple(EXPRESSIONS),
    "background": tuple(f"on a {colour} background" for colour in BACKGROUNDS),
    "shirt": tuple(f"wearing {colour}" for colour in SHIRTS),
}
PHRASES: tuple[str, ...] = (ANYBODY, *(phrase for phrases in FEATURES.values() for phrase in phrases))
_PLACES = {phrase: place for place, phrase in enumerate(PHRASES)}
# The longest first; between two phrases there is a comma, or a space where a caption had no room for commas.
_NEXT = re.compile(rf"({'|'.join(sorted(PHRASES, key=len, reverse=True))})(?:, ?| |$)")


def phrases_of(person: Person, view: View) -> list[int]:
    """The places in ``PHRASES`` of all that there is to say of a picture: one phrase for each of ``FEATURES``."""
    said = {"gender": "man" if person.male else "woman"} | person_phrases(person) | view_phrases(view)
    return [_PLACES[said[name]] for name in FEATURES]


def mirrored() -> Int[Tensor, " phrases"]:
    """For each phrase, the place of the one that is true of the picture's mirror image."""
    swap = dict(zip(_SIDES, reversed(_SIDES), strict=True))
    said = (" ".join(swap.get(word, word) for word in phrase.split()) for phrase in PHRASES)
    return torch.tensor([_PLACES[phrase] for phrase in said])


def taken_apart(caption: str) -> list[int]:
    """The places in ``PHRASES`` of a caption's phrases; ValueError for one that captions of renders do not have."""
    rest, places = " ".join(caption.lower().split()).removeprefix(OPENING), []
    while rest:
        if not (found := _NEXT.match(rest)):
            unknown = rest.split(",")[0]
            meant = nearest(unknown, PHRASES)
            raise ValueError(f"caption {caption!r}: {unknown!r} is no phrase of rendered people's captions{meant}")
        places.append(_PLACES[found[1]])
        rest = rest[found.end() :]
    if not places:
        raise ValueError(f"caption {caption!r}: says nothing; expected phrases such as 'person, no glasses'")
    return places


def counted(captions: Sequence[str]) -> Int[Tensor, "captions phrases"]:
    """How often each caption has each phrase; ValueError for no captions and for unknown phrases."""
    check_prompts(captions)
    places = [torch.tensor(taken_apart(caption)) for caption in captions]
    return torch.stack([own.bincount(minlength=len(PHRASES)) for own in places])
