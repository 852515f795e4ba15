"""Many people rendered at once, one process for each core."""

from collections.abc import Iterable
from dataclasses import asdict

import numpy as np
import pandas as pd
from tqdm import tqdm

from w2w_lib.inputs import whole_number
from w2w_lib.parallel import in_order, worker_count

from .anatomy import load_anatomy
from .captions import caption_full
from .person import sample_person
from .render import render
from .view import sample_view

SIZES = (16, 2048)  # pixels a side, least and most


def render_population(
    split: str,
    indices: Iterable[int],
    views: int,
    size: int = 64,
    workers: int | None = None,
    progress: bool = True,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Images uint8 (people, views, size, size, 3) and a table of one row per picture.

    The result does not depend on the number of processes, `workers`: one for each core if it is not given. ValueError
    for a split without a name, no indices, an index below 0, no views and a size out of range.
    """
    indices = [whole_number("index", index, 0) for index in indices]
    if not indices:
        raise ValueError("indices: none given; expected at least one person")
    views, size = _check_pictures(split, views, size)
    workers = worker_count(workers)
    images = np.empty((len(indices), views, size, size, 3), np.uint8)
    rows: list[dict] = []
    load_anatomy()  # build the assets once, before any worker asks for them
    rendered = in_order(_render_identity, [(split, index, views, size) for index in indices], workers)
    bar = tqdm(rendered, f"Rendering {split}", len(indices), unit="person", disable=not progress)
    for position, (pictures, described) in enumerate(bar):
        images[position] = pictures
        rows += described
    return images, pd.DataFrame(rows)


def _check_pictures(split: str, views: int, size: int) -> tuple[int, int]:
    if not isinstance(split, str) or not split:
        raise ValueError(f"split: expected a name, found {split!r}")
    return whole_number("views", views), whole_number("size", size, *SIZES)


def _render_identity(split: str, index: int, count: int, size: int) -> tuple[np.ndarray, list[dict]]:
    person = sample_person(split, index)
    labels = person.labels
    pictures = np.empty((count, size, size, 3), np.uint8)
    rows = []
    for number in range(count):
        view = sample_view(split, index, number)
        pictures[number] = render(person, view, size)
        fields = {**asdict(view), "pose": view.pose, "light": view.light}
        rows.append({"person": index, "view": number, "caption_full": caption_full(person, view), **fields, **labels})
    return pictures, rows
