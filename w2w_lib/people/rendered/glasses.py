"""Glasses: two rims, a bridge and two temples as thin tubes."""

import numpy as np

from .maths import srgb_to_linear
from .person import Person

SHAPES = {  # half width, half height (metres), roundness (2 is an ellipse)
    "round": (0.0215, 0.0205, 2.0),
    "square": (0.0225, 0.0185, 5.0),
    "slim": (0.0250, 0.0125, 4.0),
}
COLOURS = {
    "black": (0.05, 0.05, 0.05),
    "brown": (0.36, 0.21, 0.10),
    "silver": (0.62, 0.63, 0.66),
    "gold": (0.62, 0.46, 0.18),
    "red": (0.55, 0.08, 0.10),
}
RADIUS = 0.0020


def frame_colour(person: Person) -> np.ndarray:
    """Linear colour of the frame."""
    return srgb_to_linear(COLOURS[person.glasses_colour]).astype(np.float32)


def build_glasses(person: Person, eye_centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of the frame in front of the given eye centres."""
    half_width, half_height, power = SHAPES[person.glasses_shape]
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    rim_x = np.sign(np.cos(turn)) * np.abs(np.cos(turn)) ** (2 / power)
    rim_z = np.sign(np.sin(turn)) * np.abs(np.sin(turn)) ** (2 / power)
    tubes, inner = [], []
    for eye in eye_centres:
        side = 1 if eye[0] > 0 else -1
        x, y, z = eye + np.array([side * 0.0015, -0.030, -0.003])
        wrap = 0.006 * np.where(rim_x * side > 0, rim_x**2, 0)
        tubes.append(_tube(np.stack([x + half_width * rim_x, y + wrap, z + half_height * rim_z], 1), RADIUS, True))
        edge = x + side * half_width
        temple = [[edge, y + 0.006, z + 0.006], [edge + side * 0.014, y + 0.03, z + 0.006]]
        temple.append([edge + side * 0.021, y + 0.085, z + 0.004])
        tubes.append(_tube(np.array(temple), RADIUS * 0.9, False))
        inner.append([x - side * half_width, y, z + 0.003])
    (x0, y0, z0), (x1, y1, z1) = inner
    middle = [(x0 + x1) / 2, (y0 + y1) / 2 - 0.003, (z0 + z1) / 2 + 0.002]
    tubes.append(_tube(np.array([inner[0], middle, inner[1]]), RADIUS, False))
    offsets = np.cumsum([0] + [len(points) for points, _ in tubes])
    vertices = np.concatenate([points for points, _ in tubes])
    faces = np.concatenate([triangles + offset for (_, triangles), offset in zip(tubes, offsets[:-1], strict=True)])
    return vertices.astype(np.float32), faces.astype(np.int32)


def _tube(path: np.ndarray, radius: float, closed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Square tube around a polyline."""
    count = len(path)
    tangent = np.roll(path, -1, 0) - np.roll(path, 1, 0)
    if not closed:
        tangent[0], tangent[-1] = path[1] - path[0], path[-1] - path[-2]
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    first = np.cross(tangent, [0.1, 1, 0.15])
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second = np.cross(tangent, first)
    corners = [path + radius * (np.cos(q) * first + np.sin(q) * second) for q in np.arange(4) * np.pi / 2]
    i = np.arange(count if closed else count - 1)[:, None] * 4
    j = (i + 4) % (count * 4)
    q = np.arange(4)[None]
    r = (q + 1) % 4
    faces = np.stack([i + q, j + q, i + r, i + r, j + q, j + r], -1).reshape(-1, 3)
    return np.stack(corners, 1).reshape(-1, 3), faces
