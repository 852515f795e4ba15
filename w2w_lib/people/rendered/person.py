"""People: the parameters of an identity, their labels, and the same person with one label changed."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np

from w2w_lib.inputs import whole_number

from .maths import stable_rng

ORDINARY, MARKED, SPREAD = (
    0.5,
    0.65,
    0.16,
)  # half the people have an average trait, the others a marked one, each +- SPREAD
LABEL_THRESHOLD = 0.25  # a trait above it is called "big", "high", "bushy" ...
YOUNG_BELOW = 45.0  # years
PALE_BELOW = 1.0  # of the skin tone, which runs from 0 (pale) to 5 (dark)
VISIBLE = 0.4  # rosy cheeks, eye bags, receding hairline and freckles (all in [0, 1]) count above it

HAIR_COLOURS = ("black", "brown", "blond", "gray", "red")
HAIR_STYLES = ("bald", "buzzed", "short", "medium", "long")
BEARDS = ("none", "goatee", "mustache", "full")
EYE_COLOURS = ("brown", "blue", "green", "gray")
GLASSES_SHAPES = ("round", "square", "slim")
GLASSES_COLOURS = ("black", "brown", "silver", "gold", "red")


@dataclass(frozen=True)
class Traits:
    """Named continuous features, each in [-1, 1] with 0 the average."""

    face_width: float
    face_length: float
    jaw_width: float
    chin: float
    forehead: float
    nose_size: float
    nose_point: float
    eye_openness: float
    eye_size: float
    eye_spacing: float
    lip_fullness: float
    mouth_width: float
    cheekbones: float
    fat: float
    ear_size: float
    brow_thickness: float
    brow_arch: float


TRAITS = tuple(field.name for field in fields(Traits))
MALE_SHIFT = {  # mean difference between men and the average, halved between women and men
    "jaw_width": 0.3, "chin": 0.2, "eye_size": -0.15, "eye_openness": -0.1, "lip_fullness": -0.15,
    "brow_thickness": 0.35, "brow_arch": -0.3, "nose_size": 0.1, "cheekbones": -0.1, "ear_size": 0.1,
}  # fmt: skip


@dataclass(frozen=True)
class Person:
    """One identity; every field is a cause of what is seen, and `labels` are functions of them."""

    split: str
    index: int
    seed: int  # of the features without a name
    male: bool
    age: float  # years
    ancestry: tuple[float, float, float]  # African, Asian, European shares of the head's shape
    skin_tone: float  # 0 pale ... 5 dark
    traits: Traits
    hair_style: str
    hair_colour: str
    hair_volume: float
    hair_length: float
    curl: float
    parting: float
    bangs: bool
    receding: float
    beard: str
    glasses: bool
    glasses_shape: str
    glasses_colour: str
    lipstick: bool
    rosy: float
    eye_bags: float
    freckles: float
    wrinkle_tendency: float
    eye_colour: str

    @property
    def wrinkles(self) -> float:
        """Depth of wrinkles in [0, 1]: age, and how much it shows in this person."""
        return float(np.clip((self.age - 42) / 33, 0, 1) * (0.4 + 0.6 * self.wrinkle_tendency))

    @property
    def labels(self) -> dict[str, bool]:
        """Exact CelebA-style labels."""
        return {name: bool(attribute.holds(self)) for name, attribute in _ATTRIBUTES.items()}


@dataclass(frozen=True)
class _Attribute:
    """When a label holds, and the changes of fields that make it true or false."""

    holds: Callable[[Person], bool]
    change: Callable[[Person, bool], dict]


def _trait(name: str, sign: int = 1) -> _Attribute:
    def change(person: Person, value: bool) -> dict:
        amount = sign * (0.65 if value else -0.35)
        return {"traits": replace(person.traits, **{name: amount})}

    return _Attribute(lambda person: sign * getattr(person.traits, name) > LABEL_THRESHOLD, change)


def _amount(name: str, present: float, absent: float) -> _Attribute:
    return _Attribute(
        lambda person: getattr(person, name) > VISIBLE,
        lambda person, value: {name: present if value else absent},
    )


def _with_hair(person: Person) -> dict:
    return {"hair_style": "short"} if person.hair_style == "bald" else {}


def _hair_colour(colour: str) -> _Attribute:
    other = "brown" if colour != "brown" else "black"
    return _Attribute(
        lambda person: person.hair_colour == colour and person.hair_style != "bald",
        lambda person, value: {"hair_colour": colour, **_with_hair(person)} if value else {"hair_colour": other},
    )


def _beard(kind: str) -> _Attribute:
    return _Attribute(
        lambda person: person.beard == kind,
        lambda person, value: {"beard": kind if value else ("full" if kind == "none" else "none")},
    )


def _styled(person: Person) -> bool:
    return person.hair_style in ("short", "medium", "long")


_ATTRIBUTES = {
    "Male": _Attribute(
        lambda person: person.male,
        lambda person, value: {"male": value} if value else {"male": False, "beard": "none"},
    ),
    "Young": _Attribute(
        lambda person: person.age < YOUNG_BELOW, lambda person, value: {"age": 28.0 if value else 68.0}
    ),
    "Chubby": _trait("fat"),
    "Big_Nose": _trait("nose_size"),
    "Pointy_Nose": _trait("nose_point"),
    "Narrow_Eyes": _trait("eye_openness", -1),
    "Big_Lips": _trait("lip_fullness"),
    "High_Cheekbones": _trait("cheekbones"),
    "Pale_Skin": _Attribute(
        lambda person: person.skin_tone < PALE_BELOW,
        lambda person, value: {"skin_tone": 0.4 if value else 2.2},
    ),
    "Bald": _Attribute(
        lambda person: person.hair_style == "bald",
        lambda person, value: {"hair_style": "bald"} if value else _with_hair(person),
    ),
    "Black_Hair": _hair_colour("black"),
    "Brown_Hair": _hair_colour("brown"),
    "Blond_Hair": _hair_colour("blond"),
    "Gray_Hair": _hair_colour("gray"),
    "Long_Hair": _Attribute(
        lambda person: person.hair_style == "long",
        lambda person, value: {"hair_style": "long" if value else "short"},
    ),
    "Bangs": _Attribute(
        lambda person: person.bangs and _styled(person),
        lambda person, value: (
            {"bangs": True, "receding": 0.0, **({} if _styled(person) else {"hair_style": "short"})}
            if value
            else {"bangs": False}
        ),
    ),
    "Receding_Hairline": _Attribute(
        lambda person: person.receding > VISIBLE and person.hair_style != "bald",
        lambda person, value: {"receding": 0.85, "bangs": False, **_with_hair(person)} if value else {"receding": 0.0},
    ),
    "Bushy_Eyebrows": _trait("brow_thickness"),
    "Arched_Eyebrows": _trait("brow_arch"),
    "No_Beard": _beard("none"),
    "Goatee": _beard("goatee"),
    "Mustache": _beard("mustache"),
    "Full_Beard": _beard("full"),
    "Bags_Under_Eyes": _amount("eye_bags", 0.85, 0.05),
    "Rosy_Cheeks": _amount("rosy", 0.85, 0.0),
    "Wearing_Lipstick": _Attribute(lambda person: person.lipstick, lambda person, value: {"lipstick": value}),
    "Eyeglasses": _Attribute(lambda person: person.glasses, lambda person, value: {"glasses": value}),
}
ATTRIBUTES: tuple[str, ...] = tuple(_ATTRIBUTES)


def counterfactual(person: Person, attribute: str, value: bool) -> Person:
    """The same person with only `attribute` set to `value` (unchanged if it already holds)."""
    if attribute not in ATTRIBUTES:
        raise ValueError(f"Unknown attribute {attribute!r}; known attributes: {', '.join(ATTRIBUTES)}")
    whole_number(f"value of {attribute}", int(value) if isinstance(value, bool | np.bool_) else value, 0, 1)
    rule = _ATTRIBUTES[attribute]
    if bool(rule.holds(person)) == bool(value):
        return person
    return replace(person, **rule.change(person, bool(value)))


def checked_key(split: str, *numbers: int) -> tuple:
    """A split and numbers of people or views, as they are drawn by; ValueError for others, which would draw others."""
    if not isinstance(split, str) or not split:
        raise ValueError(f"split: expected a name, found {split!r}")
    return split, *(whole_number("index", number, 0) for number in numbers)


def sample_person(split: str, index: int) -> Person:
    """Draw person number `index` of a split; depends on these two values only."""
    split, index = checked_key(split, index)
    rng = stable_rng("person", split, index)
    uniform = rng.uniform
    male = bool(rng.random() < 0.5)
    young = rng.random() < 0.57
    age = uniform(20, YOUNG_BELOW) if young else uniform(YOUNG_BELOW, 80)
    african, asian, european = rng.dirichlet([0.5, 0.4, 0.75])
    skin_tone = float(np.clip(african * 4.9 + asian * 2.2 + european * 0.6 + rng.normal(0, 0.5), 0, 5))
    shift = 1 if male else -1
    marked = rng.choice([0.0, -MARKED, MARKED], len(TRAITS), p=[ORDINARY, (1 - ORDINARY) / 2, (1 - ORDINARY) / 2])
    drawn = marked + rng.normal(0, SPREAD, len(TRAITS))
    traits = {
        name: float(np.clip(value + shift * MALE_SHIFT.get(name, 0.0), -1, 1))
        for name, value in zip(TRAITS, drawn, strict=True)
    }
    hair_colour = _choose(rng, _hair_colour_odds(young, african, asian, european))
    hair_style = _choose(rng, _hair_style_odds(male, young))
    recedes = rng.random() < ((0.18 if young else 0.6) if male else (0.02 if young else 0.08))
    receding = uniform(0.6, 1) if recedes else uniform(0, 0.12)
    has_bangs = rng.random() < (0.2 if male else 0.4)
    curl = float(np.clip(rng.beta(0.8, 1.6) + 0.5 * african, 0, 1))
    beard = _choose(rng, dict(none=0.42, goatee=0.18, mustache=0.18, full=0.22))
    lipstick = rng.random() < 0.5
    rosy = uniform(0.6, 1) if rng.random() < (0.12 if male else 0.34) else uniform(0, 0.1)
    eye_bags = uniform(0.55, 1) if rng.random() < (0.14 if young else 0.55) else uniform(0, 0.12)
    freckles = uniform(0.55, 1) if rng.random() < (0.35 if skin_tone < 2 else 0.02) else 0.0
    return Person(
        split=split,
        index=index,
        seed=int(rng.integers(1 << 30)),
        male=male,
        age=float(age),
        ancestry=(float(african), float(asian), float(european)),
        skin_tone=skin_tone,
        traits=Traits(**traits),
        hair_style=hair_style,
        hair_colour=hair_colour,
        hair_volume=float(uniform(0.6, 1.4)),
        hair_length=float(uniform(0, 1)),
        curl=curl,
        parting=float(uniform(-0.5, 0.5)),
        bangs=bool(has_bangs and not recedes and hair_style in ("short", "medium", "long")),
        receding=float(receding),
        beard=beard if male else "none",
        glasses=bool(rng.random() < 0.25),
        glasses_shape=_choose(rng, dict.fromkeys(GLASSES_SHAPES, 1.0)),
        glasses_colour=_choose(rng, dict.fromkeys(GLASSES_COLOURS, 1.0)),
        lipstick=bool(lipstick and not male),
        rosy=float(rosy),
        eye_bags=float(eye_bags),
        freckles=float(freckles),
        wrinkle_tendency=float(uniform(0, 1)),
        eye_colour=_choose(
            rng,
            dict(
                brown=0.25 + african + asian, blue=0.6 * european**2, green=0.4 * european**2, gray=0.25 * european**2
            ),
        ),
    )


def _choose(rng: np.random.Generator, odds: dict[str, float]) -> str:
    names, weights = list(odds), np.array(list(odds.values()))
    return names[rng.choice(len(names), p=weights / weights.sum())]


def _hair_colour_odds(young: bool, african: float, asian: float, european: float) -> dict[str, float]:
    fair = european**2
    if young:
        return dict(
            black=0.12 + 0.8 * (african + asian), brown=0.35 + 0.2 * european, blond=0.02 + 0.75 * fair, gray=0.02,
            red=0.01 + 0.16 * fair,
        )  # fmt: skip
    return dict(
        black=0.1 + 0.35 * (african + asian), brown=0.2 + 0.1 * european, blond=0.01 + 0.3 * fair, gray=0.6,
        red=0.005 + 0.06 * fair,
    )  # fmt: skip


def _hair_style_odds(male: bool, young: bool) -> dict[str, float]:
    if male:
        bald = 0.13 if young else 0.26
        return dict(bald=bald, buzzed=0.15, short=0.5, medium=0.12, long=0.06)
    return dict(bald=0.015, buzzed=0.02, short=0.2, medium=0.32, long=0.45)
