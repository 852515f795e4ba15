"""The same people with one attribute changed, and nothing else."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from w2w_lib.inputs import nearest, whole_number
from w2w_lib.people.pictures import SIZES

from .person import ATTRIBUTES, counterfactual, sample_person
from .population import checked_indices
from .render import render
from .view import sample_view


def render_counterfactuals(
    split: str, indices: Sequence[int], attribute: str, size: int
) -> tuple[UInt8[np.ndarray, "people height width 3"], UInt8[np.ndarray, "people height width 3"]]:
    """Each person's first view, and the same view of them with the attribute given or taken away.

    ValueError for an unknown attribute, and where ``render_population`` raises one.
    """
    size = whole_number("size", size, *SIZES)
    indices = checked_indices(split, indices, 2 * size * size * 3)
    if attribute not in ATTRIBUTES:
        raise ValueError(f"no attribute {attribute!r}{nearest(str(attribute), ATTRIBUTES)}")
    people = [sample_person(split, index) for index in indices]
    changed = [counterfactual(person, attribute, not person.labels[attribute]) for person in people]
    views = [sample_view(split, index, 0) for index in indices]
    before, after = (
        np.stack([render(person, view, size) for person, view in zip(group, views, strict=True)])
        for group in (people, changed)
    )
    return before, after
