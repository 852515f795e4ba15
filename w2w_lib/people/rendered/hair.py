"""Hair: hairlines, and a grid of strands grown from the scalp and hung down."""

from dataclasses import dataclass

import numpy as np

from .anatomy import HAIR_COLUMNS, HAIR_ROWS, Anatomy, noise_tiles
from .maths import smoothstep, stable_rng
from .person import Person

HANGING_ROWS = 26
HAIRLINE_ANGLES = np.array([0, 20, 40, 52, 63, 72, 78, 86, 97, 112, 130, 150, 180.0])  # degrees from the front
HAIRLINE_HEIGHTS = np.array(
    [0.806, 0.806, 0.797, 0.783, 0.765, 0.735, 0.708, 0.700, 0.728, 0.715, 0.680, 0.664, 0.660]
)  # template z, metres
COLOURS = {  # linear light
    "black": (0.030, 0.027, 0.026),
    "brown": (0.150, 0.082, 0.045),
    "blond": (0.60, 0.44, 0.23),
    "gray": (0.58, 0.58, 0.58),
    "red": (0.36, 0.13, 0.05),
}


@dataclass(frozen=True, eq=False)
class Hair:
    """What of the hair does not change with the expression."""

    strands: np.ndarray  # (points, 4) coverage, turn, length along the strand, openness to light
    thickness: np.ndarray  # (rows, columns)
    hang: float  # metres
    wave: float
    phase: np.ndarray  # (2,)


def hair_colour(person: Person) -> np.ndarray:
    """Linear colour with a little personal variation."""
    rng = stable_rng("hair colour", person.seed)
    return np.array(COLOURS[person.hair_colour]) * np.exp(rng.normal(0, 0.09)) * np.exp(rng.normal(0, 0.03, 3))


def hairline(person: Person, angle: np.ndarray) -> np.ndarray:
    """Template height of the hairline at angles (degrees) from the front."""
    rng = stable_rng("hairline", person.seed)
    height, peak = rng.normal(0, 0.004), rng.normal(0, 0.003)
    back = 0.024 * np.exp(-((angle / 30) ** 2)) + 0.036 * np.exp(-(((angle - 42) / 17) ** 2))
    base = np.interp(angle, HAIRLINE_ANGLES, HAIRLINE_HEIGHTS)
    return base + height + person.receding * back - peak * np.exp(-((angle / 12) ** 2))


def hair_faces() -> np.ndarray:
    """Triangles of the strand grid."""
    row, column = np.mgrid[: HAIR_ROWS + HANGING_ROWS - 1, : HAIR_COLUMNS - 1]
    a = (row * HAIR_COLUMNS + column).ravel()
    upper = np.stack([a, a + HAIR_COLUMNS, a + 1], 1)
    lower = np.stack([a + 1, a + HAIR_COLUMNS, a + HAIR_COLUMNS + 1], 1)
    return np.stack([upper, lower], 1).reshape(-1, 3).astype(np.int32)


def grow_hair(anatomy: Anatomy, person: Person) -> Hair | None:
    """Coverage and thickness of the hair on its grid; None for shaved heads."""
    style, curl = person.hair_style, person.curl
    if style in ("bald", "buzzed"):
        return None
    hanging = style in ("medium", "long")
    turn = anatomy.hair_angles[None]
    angle = np.degrees(np.abs(turn))
    height = (anatomy.template[anatomy.hair_vertices] * anatomy.hair_weights[..., None]).sum(2)[..., 2]
    rng = stable_rng("hair", person.seed)

    line = np.repeat(hairline(person, angle), HAIR_ROWS, 0)
    if hanging:  # no cut above the ears
        side = smoothstep(60, 74, angle)
        line = line * (1 - side) + 0.60 * side
    if person.bangs:
        swept = 0.020 * np.exp(-(((turn - person.parting) / 0.3) ** 2))  # open where the hair parts
        fringe = 0.762 + swept + 0.014 * person.parting * np.sin(turn)
        front = smoothstep(66, 52, angle)
        line = line * (1 - front) + np.minimum(line, fringe) * front
    coverage = (height - line) / 0.012

    above = smoothstep(0, 0.05, height - line)
    base = {"short": 0.010, "medium": 0.014, "long": 0.012}[style] * person.hair_volume
    thickness = (0.003 + base * above) * (
        1 + 0.1 * smoothstep(0.78, 0.84, height) + 0.35 * curl * (0.5 if style == "long" else 1)
    )
    if style == "short":
        thickness *= 1 - 0.55 * smoothstep(0.79, 0.72, height) * (1 - 0.5 * curl)
    if hanging:
        thickness += smoothstep(0.78, 0.72, height) * smoothstep(55, 80, angle) * 0.011
    near_parting = np.exp(-(((turn - person.parting) / 0.10) ** 2))
    thickness -= near_parting * smoothstep(0.80, 0.83, height) * smoothstep(70, 40, angle) * 0.006 * (1 - curl)
    u = ((turn / 6.283 + rng.random()) % 1 * 512).astype(int) % 512
    v = ((np.linspace(0, 1, HAIR_ROWS)[:, None] * 0.3 + rng.random()) % 1 * 512).astype(int)
    tiles = noise_tiles()
    thickness *= 1 + 0.5 * (tiles.broad[v, u] - 0.5) + (0.08 + 0.4 * curl) * (tiles.medium[v // 2, u // 2] - 0.5)

    along = np.arange(1, HANGING_ROWS + 1)[:, None] / HANGING_ROWS
    hang = {
        "short": 0.0001,
        "medium": 0.05 + 0.03 * person.hair_length,
        "long": 0.15 + 0.1 * person.hair_length,
    }[style]
    tail = np.minimum(np.minimum((angle - 64) / 10, 1.4), (1 - along) * 6 + 0.1) if hanging else -2.0
    strands = np.zeros((HAIR_ROWS + HANGING_ROWS, HAIR_COLUMNS, 4), np.float32)
    strands[:HAIR_ROWS, :, 0] = np.clip(coverage, -2, 2)
    strands[HAIR_ROWS:, :, 0] = tail
    strands[..., 1] = turn / 6.283 + 0.5
    strands[:HAIR_ROWS, :, 2] = np.linspace(0, 1, HAIR_ROWS)[:, None]
    strands[HAIR_ROWS:, :, 2] = 1 + along * hang / 0.17
    strands[:HAIR_ROWS, :, 3] = 0.7 + 0.3 * smoothstep(0.70, 0.80, height)
    strands[HAIR_ROWS:, :, 3] = 0.7 - 0.15 * along
    return Hair(strands.reshape(-1, 4), thickness, hang, curl, rng.random(2))


def place_hair(anatomy: Anatomy, hair: Hair, vertices: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Strand grid points (n, 3) over a head with the given vertices and normals."""
    weights = anatomy.hair_weights[..., None]
    roots = (vertices[anatomy.hair_vertices] * weights).sum(2)
    outward = (normals[anatomy.hair_vertices] * weights).sum(2)
    centre = np.array([roots[:6, :, 0].mean(), roots[-1, :, 1].mean(), roots[:, :, 2].min() + 0.06])
    radial = roots - centre
    radial /= np.linalg.norm(radial, axis=-1, keepdims=True)
    outward = outward * 0.5 + radial * 0.7
    outward /= np.linalg.norm(outward, axis=-1, keepdims=True)
    skull = roots + outward * hair.thickness[..., None]
    ends = skull[-1]
    sideways = ends - centre
    sideways[:, 2] = 0
    sideways /= np.linalg.norm(sideways, axis=-1, keepdims=True) + 1e-9
    along = np.arange(1, HANGING_ROWS + 1)[:, None, None] / HANGING_ROWS
    turn = anatomy.hair_angles[None, :, None]
    sway = 0.007 * np.sin(np.minimum(along * 2, 1) * 1.57)
    sway = sway + 0.006 * hair.wave * np.sin(along * 14 * (0.5 + hair.phase[0]) + turn * 5 + hair.phase[1] * 6)
    sway = sway + 0.002 * np.sin(turn * 9 + along * 3)
    tails = ends[None] + np.array([0, 0, -1.0]) * hair.hang * along + sideways[None] * sway
    return np.concatenate([skull, tails]).reshape(-1, 3).astype(np.float32)


def strand_noise(person: Person) -> np.ndarray:
    """Edge amplitude and frequencies (around, along) of edge, lock and strand noise."""
    curl = person.curl
    return np.array(
        [
            0.9 + 1.0 * curl,
            14 if curl < 0.5 else 9,
            1.3 + 3 * curl,
            11,
            0.35 + 1.2 * curl,
            26,
            0.5 + 3 * curl,
        ],
        np.float32,
    )
