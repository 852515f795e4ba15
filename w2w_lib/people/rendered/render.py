"""Pictures: a person and a view in, an 8-bit square image out."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from w2w_lib.inputs import instance, whole_number
from w2w_lib.people.pictures import SIZES

from .anatomy import FRAME, HAIR, SKIN, express, load_anatomy, noise_tiles
from .glasses import build_glasses, frame_colour
from .hair import Hair, grow_hair, hair_colour, hair_faces, place_hair, strand_noise
from .maths import srgb_to_linear
from .person import Person
from .raster import ZBuffer, empty_zbuffer, rasterize, rasterize_hair, vertex_normals
from .shading import Eyes, Light, Mesh, Paint, develop, shade
from .shape import facial_actions, resting_head
from .skin import iris_colour, paint_skin, skin_colour
from .view import BACKGROUNDS, SHIRTS, View

SUPERSAMPLING = 2
CAMERA_DISTANCE = 1.1  # metres
FOCAL = 0.2295 * 0.93 / 0.0616 * 1.03  # picture widths per metre at one metre
SHADOW_SIZE, SHADOW_REACH = 144, 0.40  # pixels, metres


@dataclass(frozen=True, eq=False)
class Sculpture:
    """All of a person that does not change between views."""

    rest: np.ndarray
    texture: np.ndarray
    hair: Hair | None
    skin: np.ndarray
    iris: np.ndarray
    hair_colour: np.ndarray
    strands: np.ndarray
    strand_noise: np.ndarray


@lru_cache(16)
def sculpt(person: Person) -> Sculpture:
    """Shape and paint a person (the slow part, kept for the next views)."""
    anatomy = load_anatomy()
    sheen = 0.05 + 0.05 * (1 - person.curl)
    hair = grow_hair(anatomy, person)
    return Sculpture(
        rest=resting_head(anatomy, person),
        texture=paint_skin(person),
        hair=hair,
        skin=skin_colour(person).astype(np.float32),
        iris=iris_colour(person),
        hair_colour=np.append(hair_colour(person), sheen).astype(np.float32),
        strands=hair.strands if hair is not None else np.zeros((1, 4), np.float32),
        strand_noise=strand_noise(person),
    )


def render(person: Person, view: View, size: int = 64) -> np.ndarray:
    """Render (size, size, 3) uint8; the same arguments give the same pixels."""
    instance("person", person, Person), instance("view", view, View)
    size = whole_number("size", size, *SIZES)
    sculpture, pixels = sculpt(person), size * SUPERSAMPLING
    mesh, layers, eyes, scale = _pose(person, view)
    seen = empty_zbuffer(pixels, pixels)
    _draw(layers, _project(mesh.vertices, scale, view, pixels), sculpture, seen)
    direction, axes = _key_light(view)
    shadow = empty_zbuffer(SHADOW_SIZE, SHADOW_SIZE)
    middle = np.array([SHADOW_SIZE / 2, SHADOW_SIZE / 2, 0])
    _draw(layers, (mesh.vertices @ axes.T + middle).astype(np.float32), sculpture, shadow)
    light = Light(
        direction=direction,
        fill_direction=_unit(np.array([-0.9 * direction[0], -0.6, 0.15])),
        key=view.key * np.array([1 + view.warmth, 1, 1 - view.warmth]),
        fill=view.fill,
        ambient=view.ambient * np.array([0.98, 1, 1.03]),
        shadow_axes=axes,
        shadow_depth=shadow.depth,
    )
    paint = Paint(
        texture=sculpture.texture,
        skin=sculpture.skin,
        iris=sculpture.iris,
        hair=sculpture.hair_colour,
        hair_noise=sculpture.strand_noise[3:],
        frame=frame_colour(person),
        shirt=srgb_to_linear(SHIRTS[view.shirt]).astype(np.float32),
        tile=noise_tiles().medium,
    )
    backdrop = srgb_to_linear(np.clip(np.array(BACKGROUNDS[view.background]) * view.background_gain, 0, 1))
    image = np.empty((pixels, pixels, 3), np.float32)
    shade(image, seen, mesh, paint, light, eyes, backdrop * 1.06, backdrop * 0.9)
    out = np.empty((size, size, 3), np.uint8)
    develop(image, SUPERSAMPLING, out)
    return out


class Layer(NamedTuple):
    """Faces drawn together, and the vertices they count from."""

    faces: np.ndarray
    start: int
    stop: int
    material: int


def _pose(person: Person, view: View) -> tuple[Mesh, list[Layer], Eyes, float]:
    """The person with the view's expression, turned as it says; the camera looks along +y at the origin."""
    anatomy, sculpture = load_anatomy(), sculpt(person)
    head = express(anatomy, sculpture.rest, facial_actions(view))
    head_normals = vertex_normals(head, anatomy.faces)
    eye_centres = head[anatomy.eyes].mean(1).astype(np.float64)
    parts, layers = [head], [Layer(anatomy.faces, 0, len(head), SKIN)]
    if sculpture.hair is not None:
        _add_part(parts, layers, place_hair(anatomy, sculpture.hair, head, head_normals), _strand_faces(), HAIR)
    if person.glasses:
        _add_part(parts, layers, *build_glasses(person, eye_centres), FRAME)

    rotation = _rotation(view)
    pivot = eye_centres.mean(0) + np.array([0, 0.055, -0.01])
    points = ((np.concatenate(parts) - pivot) @ rotation.T).astype(np.float32)
    normals = np.zeros_like(points)
    normals[: len(head)] = head_normals @ rotation.T
    for layer in layers[1:]:
        own = slice(layer.start, layer.stop)
        facing_us = np.array([0, -0.958, 0.287])
        normals[own] = _outward_normals(points[own], layer.faces) if layer.material == HAIR else facing_us
    mesh = Mesh(
        faces=np.concatenate([layer.faces + layer.start for layer in layers]),
        material=np.concatenate(
            [anatomy.material, *(np.full(len(layer.faces), layer.material, np.int32) for layer in layers[1:])]
        ),
        vertices=points,
        normals=normals,
        face_uv=anatomy.face_uv,
        template=anatomy.template,
        occlusion=anatomy.occlusion,
        strands=sculpture.strands,
        first_hair=len(head),
    )
    turned_eyes = (eye_centres - pivot) @ rotation.T
    camera = np.array([0, -CAMERA_DISTANCE, 0.0])
    gaze = 0.55 * _unit(camera - turned_eyes.mean(0)) + 0.45 * rotation @ np.array([0, -1.0, 0])
    return mesh, layers, Eyes(turned_eyes, _unit(gaze), camera), _head_scale(head, eye_centres)


def _add_part(parts: list[np.ndarray], layers: list[Layer], points, faces, material: int) -> None:
    start = layers[-1].stop
    parts.append(points)
    layers.append(Layer(faces, start, start + len(points), material))


def _draw(layers: list[Layer], projected: np.ndarray, sculpture: Sculpture, zbuffer: ZBuffer) -> None:
    """Rasterise all layers; faces are numbered as in the mesh."""
    first_face = 0
    for layer in layers:
        own = projected[layer.start : layer.stop]
        if layer.material == HAIR:
            tile, edge = noise_tiles().medium, sculpture.strand_noise[:3]
            rasterize_hair(own, layer.faces, sculpture.strands, zbuffer, first_face, tile, edge)
        else:
            rasterize(own, layer.faces, zbuffer, first_face)
        first_face += len(layer.faces)


@lru_cache(1)
def _strand_faces() -> np.ndarray:
    return hair_faces()


@lru_cache(1)
def _chin_vertices() -> np.ndarray:
    """Vertices of the middle of the lower face, the lowest of which is the chin."""
    anatomy = load_anatomy()
    on_face = np.zeros(len(anatomy.template), bool)
    on_face[np.unique(anatomy.faces[anatomy.material == SKIN])] = True
    x, y, z = anatomy.template.T
    return np.flatnonzero(on_face & (np.abs(x) < 0.02) & (y < -0.1) & (z > 0.612))


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _rotation(view: View) -> np.ndarray:
    yaw, pitch, roll = np.radians([view.yaw, view.pitch, view.roll])
    about_z = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    about_y = np.array([[np.cos(roll), 0, np.sin(roll)], [0, 1, 0], [-np.sin(roll), 0, np.cos(roll)]])
    return about_y @ about_x @ about_z


def _head_scale(head: np.ndarray, eye_centres: np.ndarray) -> float:
    """By how much heads of unusual size are brought to the common one (half of the way, in logarithms)."""
    eye_distance = np.linalg.norm(eye_centres[0] - eye_centres[1])
    eye_to_chin = eye_centres[:, 2].mean() - head[_chin_vertices(), 2].min()
    return float((0.5 * eye_distance / 0.0616 + 0.5 * eye_to_chin / 0.112) ** 0.5)


def _project(points: np.ndarray, scale: float, view: View, pixels: int) -> np.ndarray:
    """Perspective picture coordinates (pixels, pixels, depth)."""
    focal = FOCAL / scale * CAMERA_DISTANCE * view.zoom
    depth = points[:, 1] + CAMERA_DISTANCE
    x = (points[:, 0] / depth * focal + 0.5 + view.shift_x) * pixels
    y = (-points[:, 2] / depth * focal + 0.5 + view.shift_y) * pixels
    return np.stack([x, y, depth], 1).astype(np.float32)


def _key_light(view: View) -> tuple[np.ndarray, np.ndarray]:
    """Direction of the key light, and the axes of its shadow map (pixels, pixels, depth)."""
    azimuth, elevation = np.radians([view.light_azimuth, view.light_elevation])
    light = np.array([np.sin(azimuth) * np.cos(elevation), -np.cos(azimuth) * np.cos(elevation), np.sin(elevation)])
    across = _unit(np.cross(light, [0.01, 0.02, 1.0]))
    up = np.cross(light, across)
    scale = SHADOW_SIZE / SHADOW_REACH
    return light, np.stack([across * scale, up * scale, -light])


def _outward_normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    points = np.ascontiguousarray(points)
    normals = vertex_normals(points, faces)
    outwards = (normals * (points - points.mean(0))).sum(1).mean()
    return normals * np.sign(outwards)
