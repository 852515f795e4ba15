"""The door of the pictures that are to be measured."""

import numpy as np
from jaxtyping import UInt8

from w2w_lib.inputs import described

LONGEST_SIDE = 16_384  # pixels


def _as_array(values: object, name: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # rows of several lengths; a tensor that NumPy cannot have
        raise ValueError(f"{name}: expected one array, found {described(type(values))} ({error})") from None


def as_pictures(images: np.ndarray, axes: str = "batch height width 3") -> np.ndarray:
    """The pictures as an array; ValueError unless it is uint8, has these axes and its pictures have pixels.

    Nor may a side be longer than ``LONGEST_SIDE``: a strip would be measured in the middle of a square of that side.
    """
    found, names = _as_array(images, "pictures"), axes.split()
    if found.dtype != np.uint8 or found.ndim != len(names) or found.shape[-1] != 3 or not all(found.shape[-3:]):
        raise ValueError(f"pictures: expected uint8 ({', '.join(names)}), found {found.dtype} {found.shape}")
    if max(found.shape[-3:]) > LONGEST_SIDE:
        raise ValueError(
            f"pictures of shape {found.shape}: expected sides of at most {LONGEST_SIDE} pixels; reduce them"
        )
    return found


def padded_square(image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "side side 3"]:
    """The picture in the middle of a black square; a square one as it is."""
    (top, left), side = square_margins(image), max(image.shape[:2])
    rest = [(top, side - image.shape[0] - top), (left, side - image.shape[1] - left), (0, 0)]
    return np.pad(image, rest)


def square_margins(image: UInt8[np.ndarray, "height width 3"]) -> tuple[int, int]:
    """Rows above and columns left of the picture in ``padded_square``."""
    side = max(image.shape[:2])
    return (side - image.shape[0]) // 2, (side - image.shape[1]) // 2


def finite_embeddings(embeddings: np.ndarray, where: str, axes: int | None = None) -> np.ndarray:
    """The embeddings as an array; ValueError for none, another number of axes, NaN or infinite numbers."""
    found = _as_array(embeddings, f"{where}: embeddings")
    if (
        not found.size
        or not found.ndim
        or not np.issubdtype(found.dtype, np.floating)
        or (axes or found.ndim) != found.ndim
    ):
        wanted = "" if axes is None else f" with {axes} axes"
        raise ValueError(f"{where}: embeddings of shape {found.shape}: expected floating-point numbers{wanted}")
    if not np.isfinite(found).all():
        raise ValueError(f"{where}: the embeddings hold NaN or infinite numbers; measure these pictures again")
    return found
