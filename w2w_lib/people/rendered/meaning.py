"""What a caption speaks of, in numbers: what a text encoder learns to read out of the words."""

from .person import BEARDS, EYE_COLOURS, GLASSES_COLOURS, GLASSES_SHAPES, HAIR_COLOURS, HAIR_STYLES, TRAITS, Person
from .view import BACKGROUNDS, EXPRESSIONS, SHIRTS, View


def meaning(person: Person, view: View) -> dict[str, list[float]]:
    """The numbers behind each feature that a caption may name (see `caption_features`)."""
    return {
        "gender": [float(person.male)],
        "age": [person.age],
        "skin": [person.skin_tone],
        "hair": [*_one_of(person.hair_style, HAIR_STYLES), *_one_of(person.hair_colour, HAIR_COLOURS), person.curl],
        "bangs": [float(person.labels["Bangs"])],
        "receding": [person.receding],
        "beard": _one_of(person.beard, BEARDS),
        "glasses": _glasses(person),
        **{name: [getattr(person.traits, name)] for name in TRAITS},
        "wrinkles": [person.wrinkles],
        "lipstick": [float(person.lipstick)],
        "rosy": [person.rosy],
        "eye_bags": [person.eye_bags],
        "freckles": [person.freckles],
        "eye_colour": _one_of(person.eye_colour, EYE_COLOURS),
        "pose": [view.yaw],
        "light": [view.light_azimuth],
        "expression": _one_of(view.expression, EXPRESSIONS),
        "background": [*BACKGROUNDS[view.background]],
        "shirt": [*SHIRTS[view.shirt]],
    }


def _one_of(value: str, values) -> list[float]:
    return [float(value == other) for other in values]


def _glasses(person: Person) -> list[float]:
    if not person.glasses:
        return [0.0] * (1 + len(GLASSES_SHAPES) + len(GLASSES_COLOURS))
    return [1.0, *_one_of(person.glasses_shape, GLASSES_SHAPES), *_one_of(person.glasses_colour, GLASSES_COLOURS)]
