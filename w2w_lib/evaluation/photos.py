"""Photographs of the user, cut and turned as the base's training pictures are."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from facenet_pytorch import MTCNN
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from w2w_lib.evaluation.faces import DETECTION_THRESHOLD, FACE_PIXELS, FALLBACK_BOX, FALLBACK_POINTS
from w2w_lib.evaluation.pictures import as_pictures
from w2w_lib.inputs import a_path, whole_number
from w2w_lib.people.pictures import SIZES, read_picture

LONGEST = 1024  # pixels of the longer side that the face is looked for in
SMALLEST = 40  # pixels of a face; smaller ones are not looked for
LEVEL = 6.0  # degrees that a face may lean to a side: three standard deviations of the base's portraits
RIVAL = 0.5  # a second face counts from this share of the first one's height on
MASKED = 128  # of 0 to 255, from which on a mask's pixel belongs to it


@dataclass(frozen=True)
class Photo:
    """A face in the base's frame, its mask if there is one, and what was done to the photograph."""

    image: UInt8[np.ndarray, "size size 3"]
    mask: UInt8[np.ndarray, "size size"] | None  # 1 inside
    said: str

    def cells(self, count: int) -> Float[Tensor, "1 1 count count"] | None:
        """The share of each latent cell inside the mask, ``count`` cells a side, for ``invert``; None without a mask.

        ValueError where it is empty.
        """
        if self.mask is None:
            return None
        cells = F.interpolate(
            torch.from_numpy(self.mask)[None, None].float(), (whole_number("count", count),) * 2, mode="area"
        )
        if not cells.any():
            raise ValueError("the mask has no pixel in the face's frame: expected one that covers the face")
        return cells


def load_photo(path: str | Path, size: int, mask: str | Path | None = None) -> Photo:
    """The face of a photograph, upright and framed as the base's portraits frame theirs, ``size`` pixels a side.

    ``mask`` is a picture of the photograph's shape, bright where the loss of an inversion counts; it is turned and cut
    with the photograph. ValueError for a file that is no picture, a mask of another shape or empty in the frame, and
    a picture without a face or with several; FileNotFoundError where there is none.
    """
    path = a_path(path, "a photograph")
    inside = None if mask is None else read_picture(a_path(mask, "a mask"), LONGEST).mean(-1) >= MASKED
    try:
        return framed(read_picture(path, LONGEST), size, inside)
    except ValueError as error:
        raise ValueError(f"{error}" if str(path) in str(error) else f"{path}: {error}") from None


def framed(photo: UInt8[np.ndarray, "height width 3"], size: int, mask: np.ndarray | None = None) -> Photo:
    """As ``load_photo``, of a picture in memory and a mask of True and False."""
    size, photo = whole_number("size", size, *SIZES), as_pictures(photo, "height width 3")
    if mask is not None and (mask.dtype != bool or mask.shape != photo.shape[:2]):
        raise ValueError(f"mask of type {mask.dtype} and shape {mask.shape}: expected bool of {photo.shape[:2]}")
    picture, box, leans = Image.fromarray(photo), *_only_face(photo)
    inside = None if mask is None else Image.fromarray(mask.astype(np.uint8) * 255)
    done = []
    if abs(leans) > LEVEL:
        picture, inside = (p and p.rotate(leans, Image.Resampling.BICUBIC, expand=True) for p in (picture, inside))
        box, _ = _only_face(np.asarray(picture))
        done.append(f"turned by {leans:+.0f} degrees counter-clockwise")
    frame = _frame(box)
    picture, inside = (p and p.crop(frame).resize((size, size), Image.Resampling.LANCZOS) for p in (picture, inside))
    done.append(f"cut {frame[2] - frame[0]} pixels a side out of {photo.shape[1]} x {photo.shape[0]}")
    cut = None if inside is None else (np.asarray(inside) >= MASKED).astype(np.uint8)
    if cut is not None and not cut.any():
        raise ValueError("the mask has no pixel in the face's frame: expected one that covers the face")
    if cut is not None:
        done.append(f"a mask over {cut.mean():.0%} of it")
    beyond = frame[0] < 0 or frame[1] < 0 or frame[2] > photo.shape[1] or frame[3] > photo.shape[0]
    return Photo(
        np.asarray(picture), cut, ", ".join(done) + (", black beyond its edge" if beyond and not leans else "")
    )


@cache
def _detector() -> MTCNN:
    return MTCNN(keep_all=True, device="cpu", min_face_size=SMALLEST, post_process=False)


def _only_face(photo: UInt8[np.ndarray, "height width 3"]) -> tuple[Float[np.ndarray, "4"], float]:
    """The face's box, and by how many degrees it leans clockwise; ValueError for none and for several."""
    boxes, sure, points = _detector().detect(Image.fromarray(photo), landmarks=True)
    found = [] if boxes is None else np.flatnonzero(sure > DETECTION_THRESHOLD)
    if not len(found):
        raise ValueError("the photograph shows no face that MTCNN finds: take another, or crop it nearer to the face")
    heights = boxes[found, 3] - boxes[found, 1]
    if (rivals := int((heights >= RIVAL * heights.max()).sum())) > 1:
        raise ValueError(f"the photograph shows {rivals} faces of similar size: crop it to the one that is meant")
    first = found[heights.argmax()]
    return boxes[first].astype(float), _lean(points[first].astype(float))


def _lean(points: Float[np.ndarray, "5 2"]) -> float:
    """Degrees of the rotation that takes a portrait's points nearest to these (Procrustes, as complex numbers)."""
    home, there = ((p - p.mean(0)) @ (1, 1j) for p in (FALLBACK_POINTS, points))
    return float(np.degrees(np.angle(np.vdot(home, there))))


def _frame(box: Float[np.ndarray, "4"]) -> tuple[int, int, int, int]:
    """The square in which this box is where a portrait has its face."""
    x0, y0, x1, y1 = box
    left, top, right, bottom = FALLBACK_BOX / FACE_PIXELS
    side = (y1 - y0) / (bottom - top)
    x, y = (x0 + x1) / 2 - side * (left + right) / 2, y0 - side * top
    return round(x), round(y), round(x + side), round(y + side)
