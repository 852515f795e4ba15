"""The same people with one attribute changed, and nothing else."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from .person import counterfactual, sample_person
from .render import render
from .view import sample_view


def render_counterfactuals(
    split: str, indices: Sequence[int], attribute: str, size: int
) -> tuple[UInt8[np.ndarray, "people height width 3"], UInt8[np.ndarray, "people height width 3"]]:
    """Each person's first view, and the same view of them with the attribute given or taken away."""
    people = [sample_person(split, index) for index in indices]
    changed = [counterfactual(person, attribute, not person.labels[attribute]) for person in people]
    views = [sample_view(split, index, 0) for index in indices]
    before, after = (
        np.stack([render(person, view, size) for person, view in zip(group, views, strict=True)])
        for group in (people, changed)
    )
    return before, after
