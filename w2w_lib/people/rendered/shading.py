"""Numba kernels that turn a z-buffer into colours: one key light with shadow, one fill, soft ambient."""

import math
from typing import NamedTuple

import numba
import numpy as np

from .anatomy import BODY, EYE, HAIR, MOUTH, SKIN, TEETH
from .raster import sample_noise

COLLAR = 0.594  # template height up to which the shirt reaches


class Mesh(NamedTuple):
    """Everything drawn: the head, then hair from vertex `first_hair`, then glasses."""

    faces: np.ndarray
    material: np.ndarray
    vertices: np.ndarray
    normals: np.ndarray
    face_uv: np.ndarray  # of the head's faces
    template: np.ndarray  # of the head's vertices
    occlusion: np.ndarray
    strands: np.ndarray  # of the hair's vertices
    first_hair: int


class Paint(NamedTuple):
    """Linear colours of a person and the shirt."""

    texture: np.ndarray
    skin: np.ndarray
    iris: np.ndarray
    hair: np.ndarray  # with its sheen as fourth number
    hair_noise: np.ndarray
    frame: np.ndarray
    shirt: np.ndarray
    tile: np.ndarray


class Light(NamedTuple):
    """Key light with its shadow map, fill and ambient."""

    direction: np.ndarray
    fill_direction: np.ndarray
    key: np.ndarray
    fill: float
    ambient: np.ndarray
    shadow_axes: np.ndarray
    shadow_depth: np.ndarray


class Eyes(NamedTuple):
    """Where the person's eyes are and look, and where ours are."""

    centres: np.ndarray
    gaze: np.ndarray
    camera: np.ndarray


@numba.njit(cache=True, fastmath=True)
def ramp(start, end, value):
    """Scalar smoothstep."""
    t = min(max((value - start) / (end - start), 0.0), 1.0)
    return t * t * (3 - 2 * t)


@numba.njit(cache=True, fastmath=True)
def lit_share(px, py, pz, shadow_axes, shadow_depth):
    """Share of the key light that reaches a point: 3x3 filtered shadow map."""
    size = shadow_depth.shape[0]
    sx = px * shadow_axes[0, 0] + py * shadow_axes[0, 1] + pz * shadow_axes[0, 2] + size / 2 - 0.5
    sy = px * shadow_axes[1, 0] + py * shadow_axes[1, 1] + pz * shadow_axes[1, 2] + size / 2 - 0.5
    sz = px * shadow_axes[2, 0] + py * shadow_axes[2, 1] + pz * shadow_axes[2, 2]
    ix = math.floor(sx)
    iy = math.floor(sy)
    ax = sx - ix
    ay = sy - iy
    total = 0.0
    for j in range(-1, 3):
        for i in range(-1, 3):
            x = ix + i
            y = iy + j
            wx = (1 - ax) if i == -1 else (ax if i == 2 else 1.0)
            wy = (1 - ay) if j == -1 else (ay if j == 2 else 1.0)
            lit = 1.0
            if 0 <= x < size and 0 <= y < size and shadow_depth[y, x] < sz - 0.006:
                lit = 0.0
            total += wx * wy * lit
    return total / 9.0


@numba.njit(cache=True, fastmath=True)
def shade(image, zbuffer, mesh, paint, light, eyes, background_top, background_bottom):
    """Fill `image` (height, width, 3) with linear colours."""
    faces, material, vertices, normals, face_uv, template, occlusion, strands, first_hair = mesh
    texture, skin, iris, hair, hair_noise, frame, shirt, tile = paint
    direction, fill_direction, key, fill, ambient, shadow_axes, shadow_depth = light
    eye_centres, gaze, camera = eyes
    _, face, bary0, bary1 = zbuffer
    height, width = face.shape
    for y in range(height):
        for x in range(width):
            i = face[y, x]
            if i < 0:
                t = y / height
                for k in range(3):
                    image[y, x, k] = background_top[k] * (1 - t) + background_bottom[k] * t
                continue
            a, b, c = faces[i, 0], faces[i, 1], faces[i, 2]
            w0 = bary0[y, x]
            w1 = bary1[y, x]
            w2 = 1 - w0 - w1
            px = w0 * vertices[a, 0] + w1 * vertices[b, 0] + w2 * vertices[c, 0]
            py = w0 * vertices[a, 1] + w1 * vertices[b, 1] + w2 * vertices[c, 1]
            pz = w0 * vertices[a, 2] + w1 * vertices[b, 2] + w2 * vertices[c, 2]
            nx = w0 * normals[a, 0] + w1 * normals[b, 0] + w2 * normals[c, 0]
            ny = w0 * normals[a, 1] + w1 * normals[b, 1] + w2 * normals[c, 1]
            nz = w0 * normals[a, 2] + w1 * normals[b, 2] + w2 * normals[c, 2]
            length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
            nx /= length
            ny /= length
            nz /= length
            vx = camera[0] - px
            vy = camera[1] - py
            vz = camera[2] - pz
            length = math.sqrt(vx * vx + vy * vy + vz * vz)
            vx /= length
            vy /= length
            vz /= length
            kind = material[i]
            open_sky = 1.0
            red = green = blue = 0.0
            gloss = 0.0
            shine = 20.0
            wrap_red = wrap_green = wrap_blue = 0.0  # light that bleeds round the terminator
            ex = ey = ez = 0.0
            rest_z = 1.0
            if kind == SKIN or kind == BODY:
                rest_z = w0 * template[a, 2] + w1 * template[b, 2] + w2 * template[c, 2]
            if rest_z < COLLAR:
                open_sky = w0 * occlusion[a] + w1 * occlusion[b] + w2 * occlusion[c]
                edge = 0.75 if rest_z > COLLAR - 0.005 else 1.0
                red, green, blue = shirt[0] * edge, shirt[1] * edge, shirt[2] * edge
            elif kind == SKIN:
                open_sky = w0 * occlusion[a] + w1 * occlusion[b] + w2 * occlusion[c]
                u = w0 * face_uv[i, 0, 0] + w1 * face_uv[i, 1, 0] + w2 * face_uv[i, 2, 0]
                v = w0 * face_uv[i, 0, 1] + w1 * face_uv[i, 1, 1] + w2 * face_uv[i, 2, 1]
                u = min(max(u, 0.0), texture.shape[1] - 1.001)
                v = min(max(v, 0.0), texture.shape[0] - 1.001)
                ix = int(u)
                iy = int(v)
                ax = u - ix
                ay = v - iy
                e0 = (1 - ax) * (1 - ay)
                e1 = ax * (1 - ay)
                e2 = (1 - ax) * ay
                e3 = ax * ay
                t00 = texture[iy, ix]
                t01 = texture[iy, ix + 1]
                t10 = texture[iy + 1, ix]
                t11 = texture[iy + 1, ix + 1]
                red = e0 * t00[0] + e1 * t01[0] + e2 * t10[0] + e3 * t11[0]
                green = e0 * t00[1] + e1 * t01[1] + e2 * t10[1] + e3 * t11[1]
                blue = e0 * t00[2] + e1 * t01[2] + e2 * t10[2] + e3 * t11[2]
                gloss = e0 * t00[3] + e1 * t01[3] + e2 * t10[3] + e3 * t11[3]
                wrap_red, wrap_green, wrap_blue, shine = 0.35, 0.18, 0.12, 18.0
            elif kind == BODY:
                open_sky = w0 * occlusion[a] + w1 * occlusion[b] + w2 * occlusion[c]
                red, green, blue = skin[0], skin[1], skin[2]
                wrap_red, wrap_green, wrap_blue, gloss = 0.3, 0.16, 0.1, 0.03
            elif kind == EYE:
                d0 = abs(px - eye_centres[0, 0]) + abs(py - eye_centres[0, 1]) + abs(pz - eye_centres[0, 2])
                d1 = abs(px - eye_centres[1, 0]) + abs(py - eye_centres[1, 1]) + abs(pz - eye_centres[1, 2])
                e = 0 if d0 < d1 else 1
                ex = px - eye_centres[e, 0]
                ey = py - eye_centres[e, 1]
                ez = pz - eye_centres[e, 2]
                length = math.sqrt(ex * ex + ey * ey + ez * ez)
                ex /= length
                ey /= length
                ez /= length
                towards = ex * gaze[0] + ey * gaze[1] + ez * gaze[2]
                angle = math.degrees(math.acos(min(max(towards, -1.0), 1.0)))
                in_iris = ramp(28.0, 24.0, angle)
                in_pupil = ramp(11.5, 9.5, angle)
                rim = 1 - 0.45 * ramp(20.0, 26.0, angle)
                red = 0.62 * (1 - in_iris) + in_iris * (iris[0] * rim * (1 - in_pupil) + 0.008 * in_pupil)
                green = 0.59 * (1 - in_iris) + in_iris * (iris[1] * rim * (1 - in_pupil) + 0.008 * in_pupil)
                blue = 0.57 * (1 - in_iris) + in_iris * (iris[2] * rim * (1 - in_pupil) + 0.008 * in_pupil)
                open_sky = min(1.0, 0.95 - 0.7 * ramp(0.2, 0.52, ez)) * (1 - 0.25 * ramp(-0.2, -0.5, ez))
                nx = ex * 0.45 + vx * 0.55  # flatter than a ball: wet and behind the lids
                ny = ey * 0.45 + vy * 0.55
                nz = ez * 0.45 + vz * 0.55
                length = math.sqrt(nx * nx + ny * ny + nz * nz)
                nx /= length
                ny /= length
                nz /= length
            elif kind == MOUTH:
                open_sky = 0.45
                red, green, blue = 0.26, 0.06, 0.06
                wrap_red, wrap_green, wrap_blue = 0.5, 0.5, 0.5
            elif kind == TEETH:
                red, green, blue, gloss, shine, open_sky = 0.66, 0.62, 0.54, 0.05, 30.0, 0.9
                nx, ny, nz = vx, vy, vz  # a row of teeth, not its every tooth
            elif kind == HAIR:
                ha, hb, hc = a - first_hair, b - first_hair, c - first_hair
                around = w0 * strands[ha, 1] + w1 * strands[hb, 1] + w2 * strands[hc, 1]
                along = w0 * strands[ha, 2] + w1 * strands[hb, 2] + w2 * strands[hc, 2]
                lock = sample_noise(tile, around * hair_noise[0], along * hair_noise[1] + around * 0.3)
                strand = sample_noise(tile, around * hair_noise[2] + 0.31, along * hair_noise[3])
                tone = 0.7 + 0.42 * lock * (0.6 + 0.8 * strand)
                red, green, blue = hair[0] * tone, hair[1] * tone, hair[2] * tone
                open_sky = min(0.65 + 0.5 * strand, 1.0) * strands[ha, 3]
                nx += (strand - 0.5) * 0.4
                nz += (lock - 0.5) * 0.4
                length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
                nx /= length
                ny /= length
                nz /= length
                wrap_red, wrap_green, wrap_blue = 0.3, 0.3, 0.3
                gloss = hair[3] * (0.4 + 1.2 * lock)
                shine = 14.0
            else:
                red, green, blue, gloss, shine = frame[0], frame[1], frame[2], 0.15, 30.0
            lit = lit_share(px, py, pz, shadow_axes, shadow_depth)
            if kind == TEETH or kind == MOUTH:
                lit = max(lit, 0.55)
            facing = nx * direction[0] + ny * direction[1] + nz * direction[2]
            facing_fill = nx * fill_direction[0] + ny * fill_direction[1] + nz * fill_direction[2]
            facing_fill = max(0.0, (facing_fill + 0.3) / 1.3) * open_sky
            sky = 0.65 + 0.35 * nz
            hx = direction[0] + vx
            hy = direction[1] + vy
            hz = direction[2] + vz
            length = math.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9
            hx /= length
            hy /= length
            hz /= length
            grazing = 1 - max(0.0, nx * vx + ny * vy + nz * vz)
            highlight = max(0.0, nx * hx + ny * hy + nz * hz) ** shine
            highlight *= gloss * (1 + 3 * grazing * grazing * grazing) * lit
            contact = 0.6 + 0.4 * open_sky
            key_red = max(0.0, (facing + wrap_red) / (1 + wrap_red)) * (lit + 0.25 * wrap_red * (1 - lit)) * contact
            key_green = max(0.0, (facing + wrap_green) / (1 + wrap_green)) * lit * contact
            key_blue = max(0.0, (facing + wrap_blue) / (1 + wrap_blue)) * lit * contact
            warm_sky = open_sky**0.8
            if kind == EYE:  # glint on the cornea
                highlight += ramp(0.985, 0.995, ex * hx + ey * hy + ez * hz) * 0.8 * lit
            image[y, x, 0] = red * (ambient[0] * sky * warm_sky + key[0] * key_red + fill * facing_fill)
            image[y, x, 1] = green * (ambient[1] * sky * open_sky + key[1] * key_green + fill * facing_fill)
            image[y, x, 2] = blue * (ambient[2] * sky * open_sky + key[2] * key_blue + fill * facing_fill)
            for k in range(3):
                image[y, x, k] += highlight * key[k]


@numba.njit(cache=True, fastmath=True)
def develop(image, factor, out):
    """Average `factor` x `factor` samples, roll highlights off and encode to 8-bit sRGB."""
    height, width = out.shape[0], out.shape[1]
    share = 1.0 / (factor * factor)
    for y in range(height):
        for x in range(width):
            for k in range(3):
                total = 0.0
                for j in range(factor):
                    for i in range(factor):
                        value = image[y * factor + j, x * factor + i, k]
                        if value > 0.8:
                            value = 0.8 + 0.2 * (1 - math.exp(-(value - 0.8) / 0.2))
                        total += value
                total *= share
                total = 1.055 * total ** (1 / 2.4) - 0.055 if total > 0.0031308 else 12.92 * total
                out[y, x, k] = np.uint8(min(max(total, 0.0), 1.0) * 255 + 0.5)
