"""Many people rendered at once, one process for each core."""

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np
import pandas as pd
from tqdm import tqdm

from w2w_lib.inputs import whole_number

from .anatomy import load_anatomy
from .captions import caption_full
from .person import sample_person
from .render import render
from .view import sample_view

SIZES = (16, 2048)  # pixels a side, least and most
_THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


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
    workers = workers if workers is None else whole_number("workers", workers)
    images = np.empty((len(indices), views, size, size, 3), np.uint8)
    rows: list[dict] = []
    load_anatomy()  # build the assets once, before any worker asks for them
    bar = tqdm(total=len(indices), desc=f"Rendering {split}", unit="person", disable=not progress)
    with bar:
        for position, (pictures, described) in enumerate(_render_all(split, indices, views, size, workers)):
            images[position] = pictures
            rows += described
            bar.update()
    return images, pd.DataFrame(rows)


def _check_pictures(split: str, views: int, size: int) -> tuple[int, int]:
    if not isinstance(split, str) or not split:
        raise ValueError(f"split: expected a name, found {split!r}")
    return whole_number("views", views), whole_number("size", size, *SIZES)


def _render_all(split: str, indices: Sequence[int], views: int, size: int, workers: int | None):
    tasks = [(split, index, views, size) for index in indices]
    workers = min(workers or os.cpu_count() or 1, len(tasks))
    if workers <= 1:
        yield from map(_render_identity, tasks)
        return
    # A worker that is killed, or that cannot start, breaks this pool; multiprocessing's own would wait for it.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        with _one_thread_each():
            rendered = pool.map(_render_identity, tasks, chunksize=max(1, min(16, len(tasks) // (4 * workers))))
        yield from rendered


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that start in this block compute in one thread."""
    before = {name: os.environ.get(name) for name in _THREAD_LIMITS}
    os.environ.update(dict.fromkeys(_THREAD_LIMITS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _render_identity(task: tuple[str, int, int, int]) -> tuple[np.ndarray, list[dict]]:
    split, index, count, size = task
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
