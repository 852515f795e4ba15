"""A plot of what methods reach against what they cost."""

from collections.abc import Sequence
from itertools import cycle

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from w2w_lib.evaluation.intervals import Interval
from w2w_lib.workbook.plots import listed, literal

MARKERS = "osD^v"

Point = tuple[str, str, float, Interval]  # kind, label, cost above 0, what it reaches


def against_cost(points: Sequence[Point], xlabel: str, ylabel: str, ax: Axes | None = None) -> Axes:
    """A mark with its interval for each point, a line through those of one kind in the order of their cost.

    ValueError for no points and for a cost that is not above 0, which a logarithmic axis does not show.
    """
    points = listed("points", points)
    if not points or min(cost for _, _, cost, _ in points) <= 0:
        raise ValueError(f"{len(points)} points: expected at least one, each with a cost above 0")
    ax = ax or plt.subplots(figsize=(5.4, 3))[1]
    for kind, marker in zip(dict.fromkeys(point[0] for point in points), cycle(MARKERS), strict=False):
        own = sorted((cost, label, reached) for of, label, cost, reached in points if of == kind)
        x, y = [cost for cost, _, _ in own], [reached.value for _, _, reached in own]
        error = [[max(0, r.value - r.low) for _, _, r in own], [max(0, r.high - r.value) for _, _, r in own]]
        ax.errorbar(x, y, error, marker=marker, markersize=5, capsize=2, linewidth=1, label=literal(kind))
        for (_, label, _), at in zip(own, zip(x, y, strict=True), strict=True):
            ax.annotate(literal(label), at, textcoords="offset points", xytext=(4, 4), size=7)
    ax.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return ax
