"""The same people with one attribute given or taken away, in as many views as there are of them."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import UInt8

from w2w_lib.inputs import nearest, whole_number
from w2w_lib.parallel import in_order, worker_count
from w2w_lib.people.pictures import SIZES

from .anatomy import load_anatomy
from .person import ATTRIBUTES, counterfactual, sample_person
from .population import checked_indices
from .render import render
from .view import sample_view


def render_changed(
    split: str, indices: Iterable[int], attribute: str, views: int, size: int = 64, workers: int | None = None
) -> UInt8[np.ndarray, "people views size size 3"]:
    """Each person's first views with the attribute taken away from those who have it, and given to the others.

    What a perfect edit of that attribute would show. ValueError for an unknown attribute, and where
    ``render_population`` raises one.
    """
    views, size = whole_number("views", views), whole_number("size", size, *SIZES)
    indices = checked_indices(split, indices, views * size * size * 3)
    if attribute not in ATTRIBUTES:
        raise ValueError(f"no attribute {attribute!r}{nearest(str(attribute), ATTRIBUTES)}")
    load_anatomy()  # build the assets once, before any worker asks for them
    parts = [(split, index, attribute, views, size) for index in indices]
    return np.stack(list(in_order(_render_one, parts, worker_count(workers))))


def _render_one(split: str, index: int, attribute: str, views: int, size: int) -> np.ndarray:
    person = sample_person(split, index)
    changed = counterfactual(person, attribute, not person.labels[attribute])
    return np.stack([render(changed, sample_view(split, index, number), size) for number in range(views)])
