"""Skin: one texture per person, painted with masks written as formulas over template coordinates.

Template coordinates are metres: `side` is the distance from the midline, z is up, the face looks towards -y.
Masks that are the same for everybody are computed once (`Canvas`).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .anatomy import CENTRE, Anatomy, load_anatomy, noise_tiles
from .hair import hair_colour, hairline
from .maths import smoothstep, srgb_to_linear, stable_rng
from .person import Person

TONES = srgb_to_linear(  # skin_tone 0 ... 5
    [(0.96, 0.86, 0.79), (0.94, 0.78, 0.68), (0.86, 0.66, 0.53), (0.73, 0.52, 0.39), (0.59, 0.41, 0.30),
     (0.47, 0.32, 0.24)]
)  # fmt: skip
BLUSH = 0.55  # depth of the rosiest cheeks
IRISES = {
    "brown": (0.20, 0.11, 0.05),
    "blue": (0.26, 0.47, 0.68),
    "green": (0.30, 0.44, 0.24),
    "gray": (0.45, 0.50, 0.53),
}


@dataclass(frozen=True, eq=False)
class Canvas:
    """Template coordinates of the texture's pixels, and the masks common to everybody."""

    x: np.ndarray
    side: np.ndarray
    y: np.ndarray
    z: np.ndarray
    angle: np.ndarray  # degrees from the front, around the head
    front: np.ndarray
    redness: np.ndarray
    blush: np.ndarray
    eye_socket: np.ndarray
    eye_bag: np.ndarray
    eye_crease: np.ndarray
    lashes: np.ndarray
    folds: np.ndarray  # beside the nose, at any age
    wrinkles: np.ndarray
    spots: np.ndarray
    freckles: np.ndarray
    nostrils: np.ndarray
    lip_line: np.ndarray
    cheek_hollow: np.ndarray
    gloss: np.ndarray
    beards: dict[str, np.ndarray]
    ears: np.ndarray
    lips: np.ndarray


@lru_cache(1)
def load_canvas() -> Canvas:
    """Compute the common masks."""
    anatomy = load_anatomy()
    tiles = noise_tiles()
    x, y, z = (np.ascontiguousarray(anatomy.position[..., k]) for k in range(3))
    side = np.abs(x)
    front = smoothstep(-0.07, -0.10, y)

    def spot(cx, cz, width, height):
        return np.exp(-(((side - cx) / width) ** 2 + ((z - cz) / height) ** 2))

    def stroke(x0, z0, x1, z1, width):
        t = ((side - x0) * (x1 - x0) + (z - z0) * (z1 - z0)) / ((x1 - x0) ** 2 + (z1 - z0) ** 2)
        t = np.clip(t, 0, 1)
        return np.exp(-((np.hypot(side - x0 - t * (x1 - x0), z - z0 - t * (z1 - z0)) / width) ** 2)) * front

    redness = 0.30 * spot(0, 0.692, 0.014, 0.014) + 0.25 * spot(0.045, 0.69, 0.02, 0.018)
    redness += 0.12 * spot(0, 0.63, 0.02, 0.015) + 0.25 * anatomy.ears
    bag_height = 0.7145 - 0.0035 * np.cos((side - 0.031) / 0.018 * 1.5)
    below_eye = np.exp(-(((side - 0.030) / 0.015) ** 4)) * front
    bag = below_eye * np.exp(-(((z - bag_height + 0.002) / 0.0046) ** 2))
    bag = 0.52 * bag + 0.42 * below_eye * np.exp(-(((z - bag_height + 0.0075) / 0.0018) ** 2))
    lid_arc = 0.7385 - 0.0042 * ((side - 0.031) / 0.017) ** 2
    eye_crease = np.exp(-(((side - 0.031) / 0.017) ** 6)) * np.exp(-(((z - lid_arc) / 0.0012) ** 2)) * front
    wrinkles = np.zeros_like(x)
    for k, height in enumerate((0.768, 0.780, 0.792)):
        line = np.exp(-(((z - height - 0.002 * np.sin(x * 60 + k * 1.3)) / 0.0014) ** 2))
        wrinkles += 0.9 * line * smoothstep(0.045, 0.03, side) * front
    wrinkles += 1.2 * stroke(0.0185, 0.690, 0.031, 0.664, 0.0024) + 0.8 * stroke(0.030, 0.655, 0.029, 0.640, 0.0017)
    wrinkles += 0.7 * stroke(0.005, 0.742, 0.0055, 0.752, 0.001)
    for dz in (-0.006, 0, 0.006):
        wrinkles += 0.6 * stroke(0.050, 0.7285 + dz * 0.3, 0.061, 0.7285 + dz * 1.3, 0.0011)
    fine = sample_tile(tiles.fine, x, y, z, 7, 7)
    lip_line = np.exp(-(((z - 0.6622) / 0.0011) ** 2)) * np.exp(-((side / 0.0225) ** 8)) * front
    gloss = 0.03 + 0.04 * spot(0, 0.70, 0.012, 0.03) + 0.025 * spot(0, 0.785, 0.05, 0.03)
    masks = dict(
        front=front,
        redness=redness,
        blush=spot(0.046, 0.692, 0.019, 0.016) * front,
        eye_socket=0.18 * spot(0.0308, 0.7285, 0.024, 0.013) * front,
        eye_bag=bag,
        eye_crease=0.22 * eye_crease,
        lashes=np.clip(anatomy.eyelids * np.where(z > 0.7275, 1, 0.35), 0, 1),
        folds=0.10 * stroke(0.0185, 0.690, 0.028, 0.668, 0.0025),
        wrinkles=np.clip(wrinkles, 0, 1.2),
        spots=smoothstep(0.70, 0.78, sample_tile(tiles.medium, x, y, z, 9, 9)) * 0.2,
        freckles=smoothstep(0.62, 0.74, fine)
        * np.maximum(spot(0.03, 0.695, 0.03, 0.02), spot(0, 0.705, 0.02, 0.02))
        * front,
        nostrils=0.5
        * np.exp(-(((side - 0.0075) / 0.0045) ** 2) - ((z - 0.684) / 0.0028) ** 2)
        * smoothstep(-0.150, -0.155, y),
        lip_line=lip_line,
        cheek_hollow=stroke(0.040, 0.668, 0.064, 0.692, 0.009),
        gloss=gloss,
    )
    masks = {name: mask.astype(np.float32) for name, mask in masks.items()}
    beards = {name: mask.astype(np.float32) for name, mask in _beard_masks(anatomy, side, y, z, front).items()}
    angle = np.degrees(np.arctan2(side, -(y - CENTRE[1]))).astype(np.float32)
    return Canvas(x=x, side=side, y=y, z=z, angle=angle, beards=beards, ears=anatomy.ears, lips=anatomy.lips, **masks)


def _beard_masks(anatomy: Anatomy, side, y, z, front) -> dict[str, np.ndarray]:
    rough = sample_tile(noise_tiles().medium, side, y, z, 5, 5, 0.2, 0.4) - 0.5
    cheek_line = 0.664 + np.clip(side - 0.027, 0, 1) * 0.85 + 0.004 * rough
    jaw = smoothstep(-0.062, -0.068, y)
    full = smoothstep(0.004, -0.004, z - cheek_line) * np.where(side < 0.026, smoothstep(0.658, 0.652, z), 1) * jaw
    sideburn = smoothstep(0.735, 0.715, z) * smoothstep(-0.094, -0.088, y) * jaw * smoothstep(0.05, 0.06, side)
    full = np.maximum(full, sideburn) * smoothstep(0.604, 0.614, z + 0.02 * (y < -0.09))
    mustache = smoothstep(0.031, 0.026, side) * smoothstep(0.6830, 0.6790, z + 0.12 * side)
    mustache *= smoothstep(0.6655, 0.6675, z + 0.28 * np.clip(side - 0.012, 0, 1))
    mustache *= front * smoothstep(-0.12, -0.135, y)
    corners = smoothstep(0.006, 0.002, np.abs(side - 0.0275))
    corners *= smoothstep(0.676, 0.670, z) * smoothstep(0.636, 0.646, z) * front
    chin = smoothstep(0.026, 0.016, side) * smoothstep(0.650, 0.644, z) * front
    patch = smoothstep(0.007, 0.003, side) * smoothstep(0.655, 0.651, z) * smoothstep(0.640, 0.645, z) * front
    shaved = 1 - anatomy.lips
    return {
        "full": np.clip(full + mustache + corners, 0, 1) * shaved,
        "goatee": np.clip(chin + patch + mustache + corners, 0, 1) * shaved,
        "mustache": np.clip(mustache * 1.1, 0, 1) * shaved,
    }


def sample_tile(tile, x, y, z, around, up, offset_u=0.0, offset_v=0.0) -> np.ndarray:
    """Noise laid over the template, `around` and `up` periods per metre."""
    size = tile.shape[0]
    u = ((x * around + offset_u) % 1 * size).astype(np.int32) % size
    v = ((z * up + y * 0.3 * up + offset_v) % 1 * size).astype(np.int32) % size
    return tile[v, u]


def skin_colour(person: Person) -> np.ndarray:
    """Linear base colour."""
    i = min(int(person.skin_tone), 4)
    share = person.skin_tone - i
    hue = np.exp(stable_rng("skin", person.seed).normal(0, [0.02, 0.02, 0.035]))
    return (TONES[i] * (1 - share) + TONES[i + 1] * share) * hue


def iris_colour(person: Person) -> np.ndarray:
    """Linear colour of the iris."""
    return srgb_to_linear(IRISES[person.eye_colour]).astype(np.float32)


def paint_skin(person: Person) -> np.ndarray:
    """Texture (rows, columns, 4): linear colour and gloss."""
    canvas, tiles = load_canvas(), noise_tiles()
    rng = stable_rng("texture", person.seed)
    offset_u, offset_v = rng.random(2)
    skin, hair = skin_colour(person), hair_colour(person)
    darkness = person.skin_tone / 5

    def noise(tile, around, up):
        return sample_tile(tile, canvas.x, canvas.y, canvas.z, around, up, offset_u, offset_v)

    uneven = 1 + 0.08 * (noise(tiles.broad, 6, 6) - 0.5)
    colour = [np.float32(skin[k]) * uneven for k in range(3)]

    def darken(mask, red, green, blue):
        """Multiply by 1 - mask per channel (negative amounts brighten)."""
        for k, amount in enumerate((red, green, blue)):
            colour[k] *= 1 - np.float32(amount) * mask

    def cover(mask, paint):
        """Mix in a colour (constant or image per channel)."""
        for k in range(3):
            colour[k] += (paint[k] - colour[k]) * mask

    pink = 1 - 0.6 * darkness
    darken(canvas.redness, -0.10 * pink, 0.18 * pink, 0.16 * pink)
    blush = BLUSH * person.rosy
    darken(canvas.blush, -0.16 * blush, 0.42 * blush, 0.34 * blush)
    darken(canvas.eye_socket, 0.7, 0.95, 0.9)
    darken(canvas.eye_bag, 0.85 * person.eye_bags, 1.05 * person.eye_bags, 0.85 * person.eye_bags)
    lash = 0.5 if person.male else 0.8
    darken(canvas.lashes, lash, lash, lash)
    darken(canvas.eye_crease, 1, 1, 1)
    darken(canvas.folds, 1, 1, 1)
    hollow = 0.3 * max(person.traits.cheekbones, 0.0)
    darken(canvas.cheek_hollow, 0.8 * hollow, hollow, hollow)
    if person.wrinkles > 0:
        darken(canvas.wrinkles, 0.36 * person.wrinkles, 0.46 * person.wrinkles, 0.46 * person.wrinkles)
        darken(canvas.spots, 0.5 * person.wrinkles, 0.8 * person.wrinkles, person.wrinkles)
    if person.freckles > 0:
        darken(canvas.freckles, 0.4 * person.freckles, 0.6 * person.freckles, 0.7 * person.freckles)
    darken(canvas.nostrils, 1, 1, 1)

    lips = skin * ((0.80, 0.50, 0.50) if darkness < 0.55 else (0.78, 0.58, 0.60))
    lips = lips * ((1.0, 1.0, 1.0) if person.male else (1.0, 0.82, 0.86))
    lipstick_sheen = 0.04
    if person.lipstick:
        red = srgb_to_linear([rng.uniform(0.62, 0.8), rng.uniform(0.12, 0.26), rng.uniform(0.2, 0.34)])
        lips, lipstick_sheen = 0.25 * lips + 0.75 * red * (1 - 0.3 * darkness), 0.08
    cover(canvas.lips * (0.95 if person.lipstick else 0.72), lips)
    cover(canvas.lip_line * 0.6, lips * 0.4)

    brow = _brow_mask(canvas, person, noise(tiles.fine, 34, 20), rng)
    brow_colour = hair * {"gray": 0.3, "blond": 0.36}.get(person.hair_colour, 0.55)
    cover(brow, brow_colour * min(1.0, float((0.7 * skin / brow_colour).min())))

    beard = 0.0
    if person.beard != "none":
        strands = noise(tiles.fine, 26, 22)
        beard = np.clip(canvas.beards[person.beard] * (0.85 + 0.3 * strands), 0, 1)
        beard_colour = hair * (0.6 if person.hair_colour == "blond" else 0.9)
        cover(beard, [value * (0.6 + 0.8 * strands) for value in beard_colour])

    scalp_line = canvas.z - hairline(person, canvas.angle).astype(np.float32)
    ragged = 0.008 * (noise(tiles.fine, 20, 20) - 0.5)
    scalp = smoothstep(-0.008, 0.010, scalp_line + ragged) * (1 - canvas.ears)
    if person.hair_style == "bald":
        cover(scalp * 0.08, skin * 0.8)
    elif person.hair_style == "buzzed":
        cover(scalp * (0.78 + 0.16 * noise(tiles.fine, 30, 30)), np.minimum(hair, 0.5) * 0.8 + skin * 0.08)
    else:
        cover(scalp * 0.88, hair * 0.5)

    texture = np.empty((*canvas.x.shape, 4), np.float32)
    for k in range(3):
        texture[..., k] = np.clip(colour[k], 0.004, 1)
    texture[..., 3] = (
        (canvas.gloss + lipstick_sheen * canvas.lips) * (1 - beard) * (1 - 0.9 * brow) * (1 + 0.6 * darkness)
    )
    return texture


def _brow_mask(canvas: Canvas, person: Person, strands: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Eyebrows: a curved, tapering band of strands."""
    thickness = 1.0 + 0.6 * person.traits.brow_thickness
    bend = 0.0042 + 0.0058 * person.traits.brow_arch
    tilt, height, length = rng.normal(-0.15, 0.1), rng.normal(0.0012, 0.0008), rng.uniform(0.95, 1.08)
    along = np.clip((canvas.side - 0.0125) / (0.0405 * length), -0.3, 1.4)
    inside = np.clip(along, 0, 1)
    middle = 0.7455 + height + 0.006 * tilt * inside + bend * np.sin(np.pi * inside**1.15)
    middle += 0.002 * person.traits.brow_arch
    taper = np.clip(1.05 - 0.62 * inside, 0, 1) * smoothstep(-0.12, 0.08, along) * smoothstep(1.12, 0.85, along)
    half = 0.0045 * thickness * taper + 1e-5
    band = smoothstep(1.2, 0.5, np.abs(canvas.z - middle) / half) * canvas.front * (half > 2e-4)
    return np.clip(band * (0.74 + 0.4 * strands) * (0.72 + 0.28 * min(thickness, 1.4)), 0, 0.97).astype(np.float32)
