"""Numba kernels: blend shapes, vertex normals and the z-buffer.

A z-buffer is four arrays of one size: depth, index of the nearest face, and the first two barycentric
coordinates of the pixel centre in that face.
"""

import math
from typing import NamedTuple

import numba
import numpy as np

FAR = 1e9


class ZBuffer(NamedTuple):
    """Depth, face index and two barycentric weights per pixel."""

    depth: np.ndarray
    face: np.ndarray
    bary0: np.ndarray
    bary1: np.ndarray


def empty_zbuffer(height: int, width: int) -> ZBuffer:
    """A z-buffer in which nothing was drawn yet."""
    return ZBuffer(
        np.full((height, width), FAR, np.float32),
        np.full((height, width), -1, np.int32),
        np.zeros((height, width), np.float32),
        np.zeros((height, width), np.float32),
    )


@numba.njit(cache=True)
def add_blend_shapes(vertices, basis, coefficients):
    """Add coefficients[k] * basis[k] to flat `vertices`, always in the same order."""
    for k in range(basis.shape[0]):
        weight = np.float32(coefficients[k])
        if weight != 0.0:
            for i in range(vertices.shape[0]):
                vertices[i] += weight * basis[k, i]


@numba.njit(cache=True, fastmath=True)
def vertex_normals(vertices, faces):
    """Area-weighted unit normals."""
    normals = np.zeros_like(vertices)
    for i in range(faces.shape[0]):
        a, b, c = faces[i, 0], faces[i, 1], faces[i, 2]
        ux = vertices[b, 0] - vertices[a, 0]
        uy = vertices[b, 1] - vertices[a, 1]
        uz = vertices[b, 2] - vertices[a, 2]
        vx = vertices[c, 0] - vertices[a, 0]
        vy = vertices[c, 1] - vertices[a, 1]
        vz = vertices[c, 2] - vertices[a, 2]
        nx = uy * vz - uz * vy
        ny = uz * vx - ux * vz
        nz = ux * vy - uy * vx
        for k in (a, b, c):
            normals[k, 0] += nx
            normals[k, 1] += ny
            normals[k, 2] += nz
    for k in range(vertices.shape[0]):
        length = math.sqrt(normals[k, 0] ** 2 + normals[k, 1] ** 2 + normals[k, 2] ** 2) + 1e-12
        normals[k, 0] /= length
        normals[k, 1] /= length
        normals[k, 2] /= length
    return normals


@numba.njit(cache=True, fastmath=True)
def sample_noise(tile, u, v):
    """Bilinear look-up in a tileable noise square; one period per unit."""
    size = tile.shape[0]
    fx = (u - math.floor(u)) * size
    fy = (v - math.floor(v)) * size
    ix = int(fx) % size
    iy = int(fy) % size
    ax = fx - int(fx)
    ay = fy - int(fy)
    jx = (ix + 1) % size
    jy = (iy + 1) % size
    top = tile[iy, ix] * (1 - ax) + tile[iy, jx] * ax
    bottom = tile[jy, ix] * (1 - ax) + tile[jy, jx] * ax
    return top * (1 - ay) + bottom * ay


@numba.njit(cache=True, fastmath=True)
def rasterize(points, faces, zbuffer, first_face):
    """Draw triangles (x, y in pixels, z = depth) into the z-buffer; faces are numbered from `first_face`."""
    depth, face, bary0, bary1 = zbuffer
    height, width = depth.shape
    for i in range(faces.shape[0]):
        a, b, c = faces[i, 0], faces[i, 1], faces[i, 2]
        x0, y0 = points[a, 0], points[a, 1]
        x1, y1 = points[b, 0], points[b, 1]
        x2, y2 = points[c, 0], points[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-12:
            continue
        left = max(0, math.ceil(min(x0, x1, x2) - 0.5))
        right = min(width - 1, math.floor(max(x0, x1, x2) - 0.5))
        top = max(0, math.ceil(min(y0, y1, y2) - 0.5))
        bottom = min(height - 1, math.floor(max(y0, y1, y2) - 0.5))
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                px, py = x + 0.5, y + 0.5
                w1 = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) / area
                w2 = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) / area
                w0 = 1 - w1 - w2
                if w0 < -1e-5 or w1 < -1e-5 or w2 < -1e-5:
                    continue
                z = w0 * points[a, 2] + w1 * points[b, 2] + w2 * points[c, 2]
                if z < depth[y, x]:
                    depth[y, x] = z
                    face[y, x] = i + first_face
                    bary0[y, x] = w0
                    bary1[y, x] = w1


@numba.njit(cache=True, fastmath=True)
def rasterize_hair(points, faces, strands, zbuffer, first_face, tile, edge):
    """As `rasterize`, keeping only pixels whose coverage, strands[:, 0] plus noise, is positive.

    `edge` is the amplitude and the two frequencies (around the head, along the strand) of that noise.
    """
    depth, face, bary0, bary1 = zbuffer
    height, width = depth.shape
    for i in range(faces.shape[0]):
        a, b, c = faces[i, 0], faces[i, 1], faces[i, 2]
        if strands[a, 0] < -0.7 and strands[b, 0] < -0.7 and strands[c, 0] < -0.7:
            continue
        x0, y0 = points[a, 0], points[a, 1]
        x1, y1 = points[b, 0], points[b, 1]
        x2, y2 = points[c, 0], points[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if abs(area) < 1e-12:
            continue
        left = max(0, math.ceil(min(x0, x1, x2) - 0.5))
        right = min(width - 1, math.floor(max(x0, x1, x2) - 0.5))
        top = max(0, math.ceil(min(y0, y1, y2) - 0.5))
        bottom = min(height - 1, math.floor(max(y0, y1, y2) - 0.5))
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                px, py = x + 0.5, y + 0.5
                w1 = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) / area
                w2 = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) / area
                w0 = 1 - w1 - w2
                if w0 < -1e-5 or w1 < -1e-5 or w2 < -1e-5:
                    continue
                z = w0 * points[a, 2] + w1 * points[b, 2] + w2 * points[c, 2]
                if z < depth[y, x]:
                    cover = w0 * strands[a, 0] + w1 * strands[b, 0] + w2 * strands[c, 0]
                    around = w0 * strands[a, 1] + w1 * strands[b, 1] + w2 * strands[c, 1]
                    along = w0 * strands[a, 2] + w1 * strands[b, 2] + w2 * strands[c, 2]
                    cover += edge[0] * (sample_noise(tile, around * edge[1], along * edge[2]) - 0.5)
                    if cover > 0:
                        depth[y, x] = z
                        face[y, x] = i + first_face
                        bary0[y, x] = w0
                        bary1[y, x] = w1
