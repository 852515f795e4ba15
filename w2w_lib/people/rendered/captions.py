"""Captions: a closed vocabulary of short phrases for everything that a picture shows."""

import numpy as np

from w2w_lib.inputs import finite_number, instance

from .maths import level_of
from .person import (
    BEARDS,
    EYE_COLOURS,
    GLASSES_COLOURS,
    GLASSES_SHAPES,
    HAIR_COLOURS,
    HAIR_STYLES,
    LABEL_THRESHOLD,
    PALE_BELOW,
    VISIBLE,
    Person,
)
from .view import BACKGROUNDS, EXPRESSIONS, SHIRTS, View

OPENING = "a photo of a "
MAX_WORDS = 72
MAX_TOKENS = 75  # words and commas: CLIP's 77 less its two ends
TRAIT_LEVELS = (-0.6, -LABEL_THRESHOLD, LABEL_THRESHOLD, 0.6)
# Lowest to highest; the two highest (lowest for eyes) are what the label says. Nearly every adjective belongs to one
# feature alone: a small text encoder need not learn which noun it goes with.
TRAIT_PHRASES = {
    "face_width": ("slender face", "lean face", "oval face", "ample face", "broad face"),
    "face_length": ("stubby head", "compact head", "ordinary head", "tall head", "elongated head"),
    "jaw_width": ("delicate jaw", "tapered jaw", "even jaw", "strong jaw", "massive jaw"),
    "chin": ("weak chin", "slight chin", "middling chin", "firm chin", "jutting chin"),
    "forehead": ("scant forehead", "low forehead", "usual forehead", "domed forehead", "towering forehead"),
    "nose_size": ("dainty nose", "little nose", "moderate nose", "big nose", "huge nose"),
    "nose_point": ("flat nose", "blunt nose", "regular nose", "pointy nose", "needle nose"),
    "eye_openness": ("slit eyes", "narrow eyes", "relaxed eyes", "alert eyes", "staring eyes"),
    "eye_size": ("beady eyes", "modest eyes", "normal eyes", "large eyes", "enormous eyes"),
    "eye_spacing": ("crowded eyes", "close eyes", "spaced eyes", "distant eyes", "remote eyes"),
    "lip_fullness": ("pencil lips", "thin lips", "natural lips", "plump lips", "pillowy lips"),
    "mouth_width": ("tiny mouth", "small mouth", "standard mouth", "wide mouth", "stretched mouth"),
    "cheekbones": (
        "sunken cheekbones",
        "soft cheekbones",
        "balanced cheekbones",
        "high cheekbones",
        "sharp cheekbones",
    ),
    "fat": ("skinny", "trim", "average build", "chubby", "very chubby"),
    "ear_size": ("minute ears", "neat ears", "typical ears", "prominent ears", "giant ears"),
    "brow_thickness": ("sparse eyebrows", "wispy eyebrows", "tidy eyebrows", "thick eyebrows", "bushy eyebrows"),
    "brow_arch": ("level brows", "gentle brows", "curved brows", "arched brows", "peaked brows"),
}
SKIN_LEVELS = (PALE_BELOW / 2, PALE_BELOW, 2.0, 3.0, 4.0)
SKIN_PHRASES = ("porcelain skin", "pale skin", "light skin", "tan skin", "brown skin", "dark skin")
DECADES = ("twenties", "thirties", "forties", "fifties", "sixties", "seventies")
CURL_LEVELS = (0.3, 0.6)
CURL_WORDS = ("straight", "wavy", "curly")
WRINKLE_LEVELS = (0.08, 0.35)
WRINKLE_PHRASES = ("smooth complexion", "fine lines", "deep wrinkles")
ABSENT = {
    "bangs": "no bangs", "receding": "full hairline", "beard": "clean shaven", "glasses": "no glasses",
    "lipstick": "no lipstick", "rosy": "plain cheeks", "eye_bags": "rested eyes", "freckles": "no freckles",
}  # fmt: skip
PRESENT = {
    "bangs": "bangs", "receding": "receding hairline", "lipstick": "red lipstick", "rosy": "rosy cheeks",
    "eye_bags": "baggy eyes", "freckles": "freckles",
}  # fmt: skip
# What a caption that would be too long gives up first; then middle levels, then these traits.
LEAST_VISIBLE = (
    "freckles",
    "ear_size",
    "mouth_width",
    "face_length",
    "eye_spacing",
    "chin",
    "forehead",
    "eye_colour",
)


def person_phrases(person: Person) -> dict[str, str]:
    """One phrase per feature of the person (gender, said by the noun, is not among them)."""
    traits = {
        name: phrases[level_of(getattr(person.traits, name), TRAIT_LEVELS)] for name, phrases in TRAIT_PHRASES.items()
    }
    return {
        "age": f"in the {DECADES[min(max(int(person.age // 10) - 2, 0), 5)]}",
        "skin": SKIN_PHRASES[level_of(person.skin_tone, SKIN_LEVELS)],
        "hair": _hair_phrase(person),
        "bangs": _either("bangs", person.labels["Bangs"]),
        "receding": _either("receding", person.labels["Receding_Hairline"]),
        "beard": _beard_phrase(person),
        "glasses": f"{person.glasses_shape} {person.glasses_colour} glasses" if person.glasses else ABSENT["glasses"],
        **traits,
        "wrinkles": WRINKLE_PHRASES[level_of(person.wrinkles, WRINKLE_LEVELS)],
        "lipstick": _either("lipstick", person.lipstick),
        "rosy": _either("rosy", person.rosy > VISIBLE),
        "eye_bags": _either("eye_bags", person.eye_bags > VISIBLE),
        "freckles": _either("freckles", person.freckles > VISIBLE),
        "eye_colour": f"{person.eye_colour} irises",
    }


def view_phrases(view: View) -> dict[str, str]:
    """One phrase per feature of the view."""
    return {
        "pose": view.pose,
        "light": view.light,
        "expression": view.expression,
        "background": f"on a {view.background} background",
        "shirt": f"wearing {view.shirt}",
    }


def _either(name: str, present: bool) -> str:
    return PRESENT[name] if present else ABSENT[name]


def _hair_phrase(person: Person) -> str:
    if person.hair_style == "bald":
        return "bald"
    if person.hair_style == "buzzed":
        return f"buzzed {person.hair_colour} hair"
    return f"{person.hair_style} {CURL_WORDS[level_of(person.curl, CURL_LEVELS)]} {person.hair_colour} hair"


def _beard_phrase(person: Person) -> str:
    if person.beard == "none":
        return ABSENT["beard"]
    return f"full {person.hair_colour} beard" if person.beard == "full" else f"{person.hair_colour} {person.beard}"


def caption_full(person: Person, view: View) -> str:
    """Everything in a fixed order; beyond 72 words absences, then average features, give way."""
    return as_text(_full_features(person, view))


def caption(person: Person, view: View, rng: np.random.Generator, *, keep: float | None = None) -> str:
    """A caption that keeps each phrase with probability `keep`; None draws how much is kept."""
    return as_text(caption_features(person, view, rng, keep=keep))


def caption_features(
    person: Person, view: View, rng: np.random.Generator, *, keep: float | None = None
) -> dict[str, str]:
    """The phrases of a random caption by what they speak of; "opening" is one that says nothing.

    `keep` None draws it: 10% of captions say nothing, 25% everything, the others between 0.1 and 0.9.
    """
    instance("rng", rng, np.random.Generator)
    if keep is not None and not 0 <= finite_number("keep", keep) <= 1:
        raise ValueError(f"keep: expected a probability from 0 to 1, found {keep!r}")
    short = bool(rng.random() < 0.5)
    if keep is None:
        kind, amount = rng.random(), float(rng.uniform(0.1, 0.9))
        if kind < 0.10:
            return {"opening": "person" if short else f"{OPENING}person"}
        keep = 1.0 if kind < 0.35 else amount
    if keep >= 1:
        return _full_features(person, view)
    opening = _gender(person) if rng.random() < keep else {"opening": f"{OPENING}person"}
    opening = {name: phrase.removeprefix(OPENING) if short else phrase for name, phrase in opening.items()}
    said = [feature for feature in person_phrases(person).items() if rng.random() < keep]
    seen = [feature for feature in view_phrases(view).items() if rng.random() < keep]
    rng.shuffle(said)
    while _words(opening | dict(said) | dict(seen)) > MAX_WORDS:
        said.pop()
    return opening | dict(said) | dict(seen)


def altered(features: dict[str, str], others: dict[str, str], rng: np.random.Generator) -> dict[str, str]:
    """The phrases of a caption with a random one replaced by what ``others`` have for the same feature.

    Unchanged where these say the same of everything that is mentioned.
    """
    if not features.get("gender", OPENING).startswith(OPENING):
        others = others | {"gender": others["gender"].removeprefix(OPENING)}
    different = [name for name, phrase in features.items() if others.get(name, phrase) != phrase]
    if not different:
        return features
    name = different[rng.integers(len(different))]
    return features | {name: others[name]}


def as_text(features: dict[str, str]) -> str:
    """The phrases with commas between them, or without where commas would be too many for a text encoder."""
    commas = len(features) - 1
    return (", " if _words(features) + commas <= MAX_TOKENS else " ").join(features.values())


def _words(features: dict[str, str]) -> int:
    return sum(len(phrase.split()) for phrase in features.values())


def _gender(person: Person) -> dict[str, str]:
    return {"gender": f"{OPENING}{'man' if person.male else 'woman'}"}


def all_features(person: Person, view: View) -> dict[str, str]:
    """The phrases of everything that can be said of a picture."""
    instance("person", person, Person), instance("view", view, View)
    return _gender(person) | person_phrases(person) | view_phrases(view)


def _full_features(person: Person, view: View) -> dict[str, str]:
    features = all_features(person, view)
    averages = [name for name, phrases in TRAIT_PHRASES.items() if features[name] == phrases[2]]
    absences = [
        name for name, phrase in ABSENT.items() if features[name] == phrase and name not in ("beard", "glasses")
    ]
    for name in dict.fromkeys([*absences, *averages, *LEAST_VISIBLE]):
        if _words(features) <= MAX_WORDS:
            break
        del features[name]
    return features


def _vocabulary() -> list[str]:
    phrases = ["a photo of a person man woman", "facing left right forward", "lit from the left right front"]
    phrases += [f"on a {colour} background" for colour in BACKGROUNDS] + [f"wearing {colour}" for colour in SHIRTS]
    phrases += [phrase for levels in TRAIT_PHRASES.values() for phrase in levels]
    phrases += [*SKIN_PHRASES, *WRINKLE_PHRASES, *ABSENT.values(), *PRESENT.values(), *EXPRESSIONS]
    phrases += ["in the", *DECADES, *CURL_WORDS, *HAIR_STYLES, *HAIR_COLOURS, "hair full beard", *BEARDS[1:]]
    phrases += ["glasses irises", *GLASSES_SHAPES, *GLASSES_COLOURS, *EYE_COLOURS]
    return sorted({word for phrase in phrases for word in phrase.split()})


VOCABULARY: list[str] = _vocabulary()
