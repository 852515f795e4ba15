"""Views: everything about a picture that is not the person."""

from dataclasses import dataclass

import numpy as np

from .maths import stable_rng
from .person import checked_key

BACKGROUNDS = {  # sRGB, muted
    "white": (0.87, 0.87, 0.87),
    "gray": (0.55, 0.55, 0.55),
    "black": (0.14, 0.14, 0.14),
    "beige": (0.80, 0.73, 0.61),
    "blue": (0.45, 0.55, 0.71),
    "green": (0.47, 0.60, 0.47),
    "red": (0.64, 0.38, 0.37),
    "brown": (0.44, 0.34, 0.26),
}
SHIRTS = {
    "white": (0.84, 0.84, 0.84),
    "gray": (0.48, 0.48, 0.49),
    "black": (0.10, 0.10, 0.11),
    "blue": (0.24, 0.33, 0.52),
}
EXPRESSIONS = {"smiling": 0.4, "neutral": 0.4, "open mouth": 0.2}
SMILES = {"smiling": (0.65, 1.0), "neutral": (0.0, 0.1), "open mouth": (0.4, 0.8)}
MOST_TURNED = 26.0  # degrees of yaw
TURNED = 7.0  # degrees of yaw beyond which a face looks to a side
SIDE_LIT = 15.0  # degrees of azimuth beyond which the light comes from a side


@dataclass(frozen=True)
class View:
    """Pose, light, expression, background and shirt of one picture."""

    yaw: float  # degrees, positive towards the picture's right
    pitch: float
    roll: float
    zoom: float
    shift_x: float  # fractions of the width
    shift_y: float
    expression: str
    smile: float
    jaw: float
    brow_raise: float
    blink: float
    light_azimuth: float  # degrees, positive from the picture's right
    light_elevation: float
    key: float
    ambient: float
    fill: float
    warmth: float
    background: str
    background_gain: float
    shirt: str

    @property
    def pose(self) -> str:
        """Side of the picture towards which the face looks."""
        return _side(self.yaw, TURNED, "facing left", "facing right", "facing forward")

    @property
    def light(self) -> str:
        """Side of the picture from which the key light comes."""
        return _side(self.light_azimuth, SIDE_LIT, "lit from the left", "lit from the right", "lit from the front")


def _side(angle: float, limit: float, left: str, right: str, middle: str) -> str:
    return left if angle < -limit else right if angle > limit else middle


def sample_view(split: str, person_index: int, view_index: int) -> View:
    """Draw one view of a person; depends on these three values only."""
    rng = stable_rng("view", *checked_key(split, person_index, view_index))
    normal, uniform = rng.normal, rng.uniform
    expression = str(rng.choice(list(EXPRESSIONS), p=list(EXPRESSIONS.values())))
    return View(
        yaw=float(np.clip(normal(0, 11), -MOST_TURNED, MOST_TURNED)),
        pitch=float(np.clip(normal(0, 4), -9, 9)),
        roll=float(normal(0, 2)),
        zoom=float(uniform(0.98, 1.02)),
        shift_x=float(normal(0, 0.004)),
        shift_y=float(normal(0, 0.004)),
        expression=expression,
        smile=float(uniform(*SMILES[expression])),
        jaw=float(uniform(0.6, 1) if expression == "open mouth" else 0.0),
        brow_raise=float(normal(0, 0.15)),
        blink=float(uniform(0, 0.08)),
        light_azimuth=float(uniform(-50, 50)),
        light_elevation=float(uniform(15, 45)),
        key=float(uniform(0.62, 0.82)),
        ambient=float(uniform(0.48, 0.6)),
        fill=float(uniform(0.15, 0.28)),
        warmth=float(normal(0, 0.03)),
        background=str(rng.choice(list(BACKGROUNDS))),
        background_gain=float(uniform(0.93, 1.07)),
        shirt=str(rng.choice(list(SHIRTS))),
    )
