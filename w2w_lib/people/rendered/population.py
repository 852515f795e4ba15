"""Many people rendered at once, one process for each core."""

from collections.abc import Iterable, Sized
from dataclasses import asdict

import numpy as np
import pandas as pd
import psutil
from tqdm import tqdm

from w2w_lib.inputs import whole_number
from w2w_lib.parallel import in_order, worker_count
from w2w_lib.people.pictures import SIZES

from .anatomy import load_anatomy
from .captions import as_text, caption_full, view_phrases
from .person import checked_key, sample_person
from .render import render
from .view import sample_view


def render_population(
    split: str,
    indices: Iterable[int],
    views: int,
    size: int = 64,
    workers: int | None = None,
    progress: bool = True,
    first_view: int = 0,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Images uint8 (people, views, size, size, 3) and a table of one row per picture.

    The result does not depend on the number of processes, `workers`: one for each core if it is not given. ValueError
    for a split without a name, no indices, an index below 0, no views, a size out of range, and for pictures that do
    not fit in the free memory.
    """
    views, size = whole_number("views", views), whole_number("size", size, *SIZES)
    indices = checked_indices(split, indices, views * size * size * 3)
    workers = worker_count(workers)
    images = np.empty((len(indices), views, size, size, 3), np.uint8)
    rows: list[dict] = []
    load_anatomy()  # build the assets once, before any worker asks for them
    numbers = range(first_view, first_view + views)
    rendered = in_order(_render_identity, [(split, index, numbers, size) for index in indices], workers)
    bar = tqdm(rendered, f"Rendering {split}", len(indices), unit="person", disable=not progress)
    for position, (pictures, described) in enumerate(bar):
        images[position] = pictures
        rows += described
    return images, pd.DataFrame(rows)


def checked_indices(split: str, indices: Iterable[int], bytes_each: int) -> list[int]:
    """The numbers of people whose pictures take so many bytes each.

    ValueError where none are given, where one is below 0, and where the pictures of all do not fit in the free memory.
    """
    if not isinstance(indices, Iterable):
        raise ValueError(f"indices: expected a list of whole numbers, found {indices!r}")
    indices = indices if isinstance(indices, Sized) else list(indices)
    if not len(indices):
        raise ValueError("indices: none given; expected at least one person")
    needed, free = len(indices) * bytes_each, psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"{len(indices)} people: their pictures take {needed / 1e9:.3g} GB; expected at most the "
            f"{free / 1e9:.3g} GB of memory that are free; render fewer or smaller ones"
        )
    return list(checked_key(split, *indices)[1:])


def _render_identity(split: str, index: int, numbers: range, size: int) -> tuple[np.ndarray, list[dict]]:
    person = sample_person(split, index)
    labels = person.labels
    pictures, rows = [], []
    for number in numbers:
        view = sample_view(split, index, number)
        pictures.append(render(person, view, size))
        said = {"caption_full": caption_full(person, view), "context": as_text(view_phrases(view))}
        fields = {**asdict(view), "pose": view.pose, "light": view.light}
        rows.append({"person": index, "view": number, **said, **fields, **labels})
    return np.stack(pictures), rows
