"""Photographs of the user, cut as the base's training pictures are."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from w2w_lib.evaluation.portraits import crop_photo
from w2w_lib.inputs import a_path
from w2w_lib.people.pictures import read_picture

LONGEST = 1024  # pixels of the longer side that the face is looked for in


def load_photo(path: str | Path, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The surest face of a photograph, framed as the base's portraits frame theirs, ``size`` pixels a side.

    ValueError for a file that is no picture and for a picture without a face; FileNotFoundError where there is none.
    """
    path = a_path(path, "a photograph")
    try:
        return crop_photo(read_picture(path, LONGEST), size)
    except ValueError as error:
        raise ValueError(f"{error}" if str(path) in str(error) else f"{path}: {error}") from None
