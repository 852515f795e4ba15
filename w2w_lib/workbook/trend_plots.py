"""Curves with 95% intervals over the number of people or components."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from w2w_lib.evaluation.intervals import Interval
from w2w_lib.workbook.plots import MUTED, literal

CAP = 2  # points, of the ends of an interval


def interval_curves(
    x: Sequence[float],
    lines: Mapping[str, Sequence[Interval]],
    xlabel: str,
    ylabel: str,
    controls: Sequence[str] = (),
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Points with their intervals over a logarithmic axis, joined by lines; ``controls`` are grey and dashed."""
    ax = ax or plt.subplots(figsize=(4.2, 2.8))[1]
    for name, found in lines.items():
        if len(found) != len(x):
            raise ValueError(f"line {name!r} of {len(found)} intervals: expected {len(x)}, one for each place")
        middle = [one.value for one in found]
        sides = [[one.value - one.low for one in found], [one.high - one.value for one in found]]
        style = {"color": MUTED, "ls": "--"} if name in controls else {"marker": "o", "ms": 3}
        ax.errorbar(x, middle, sides, capsize=CAP, lw=1.2, label=literal(name), **style)
    ax.set(xscale="log", xlabel=xlabel, ylabel=ylabel, title=title)
    ax.set_xticks(x, [f"{place:g}" for place in x])
    ax.minorticks_off()
    ax.legend()
    return ax
