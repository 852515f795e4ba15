"""Plots of the workbook: each takes ``ax`` (or makes one of the right size) and returns it.

Names of rows, columns and lines come from people's labels and folders: they are shown as they are, never read as TeX or
Markdown.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes

from w2w_lib.inputs import finite_number, listed

LEAST_INCHES = 0.72  # width of one picture in a grid; a larger one keeps its own pixels
GAP = 0.04  # of a picture's height, between two rows or columns
CAP = 2  # points, of the ends of an interval
MUTED = "0.6"  # the grey of controls and references


def image_grid(
    images: UInt8[np.ndarray, "rows columns height width 3"],
    columns: Sequence[str] = (),
    rows: Sequence[str] = (),
    ax: Axes | None = None,
) -> Axes:
    """Pictures side by side as one image, with a title over each column and beside each row."""
    images = _pictures(images)
    columns, rows = listed("columns", columns), listed("rows", rows)
    down, across, height, width = images.shape[:4]
    for kind, names, count in (("columns", columns, across), ("rows", rows, down)):
        if len(names) not in (0, count):
            raise ValueError(f"{len(names)} names for {count} {kind} of pictures: expected one for each, or none")
    gap = max(1, round(GAP * height))
    canvas = np.full((down * (height + gap) - gap, across * (width + gap) - gap, 3), 255, np.uint8)
    for i in range(down):
        for j in range(across):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = images[i, j]
    if ax is None:
        each = max(LEAST_INCHES, (width + gap) / plt.rcParams["figure.dpi"])
        size = (across * each, down * each * height / width)
        ax = plt.figure(figsize=size, layout="none").add_axes((0, 0, 1, 1))
    ax.imshow(canvas, interpolation="lanczos", aspect="equal")
    ax.spines[:].set_visible(False)
    ax.xaxis.tick_top()
    ax.set_xticks((np.arange(len(columns)) + 0.5) * (width + gap) - gap / 2, _literal(columns))
    ax.set_yticks((np.arange(len(rows)) + 0.5) * (height + gap) - gap / 2, _literal(rows))
    ax.tick_params(length=0)
    return ax


def strip(
    images: UInt8[np.ndarray, "pictures height width 3"],
    captions: Sequence[str],
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """One row of pictures with a caption under each."""
    ax = image_grid(_array("pictures", images)[None], captions, [title] if title else (), ax)
    ax.xaxis.tick_bottom()
    ax.tick_params(length=0)
    return ax


def cloud_with_arrows(
    points: Float[np.ndarray, "points 2"],
    mean: Float[np.ndarray, " 2"],
    components: Float[np.ndarray, "pcs 2"],
    deviations: Float[np.ndarray, " pcs"],
    ax: Axes | None = None,
) -> Axes:
    """A 2-D cloud with its principal components as arrows, two standard deviations long."""
    points, mean = _finite("points", points, (None, 2)), _finite("mean", mean, (2,))
    components = _finite("components", components, (None, 2))
    deviations = _finite("deviations", deviations, (len(components),))
    ax = ax or plt.subplots(figsize=(3.2, 3.2))[1]
    ax.scatter(*points.T, s=5, alpha=0.4, linewidths=0)
    for k, (component, deviation) in enumerate(zip(components, deviations, strict=True), 1):
        tip = mean + 2 * deviation * component
        ax.annotate("", tip, mean, arrowprops={"arrowstyle": "->", "lw": 2, "color": f"C{k}"})
        ax.annotate(f"$w_{k}$", tip, textcoords="offset points", xytext=(4, 4), color=f"C{k}")
    ax.set_aspect("equal")
    return ax


def curves(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float] | Sequence[tuple[float, float, float]]],
    xlabel: str,
    ylabel: str,
    controls: Sequence[str] = (),
    title: str = "",
    ax: Axes | None = None,
    log: bool = False,
) -> Axes:
    """Lines over one axis, ``log``arithmic or not; those named in ``controls`` are grey and dashed.

    A line of ``Interval``s, in place of numbers, is of points with whiskers.
    """
    if not isinstance(lines, Mapping):
        raise ValueError(f"lines of type {type(lines).__name__}: expected numbers by the line's name")
    x, controls = _numbers("x", x, (None,)), listed("controls", controls)
    lines = {name: _array(f"line {name!r}", y) for name, y in lines.items()}
    lines = {n: _numbers(f"line {n!r}", y, (*x.shape, 3) if y.ndim == 2 else x.shape) for n, y in lines.items()}
    ax = ax or plt.subplots(figsize=(4.6, 2.8))[1]
    drawn, names = ax.get_legend_handles_labels()
    for name, y in lines.items():
        style = {"color": MUTED, "ls": "--"} if name in controls else {}
        if y.ndim == 2:
            middle, low, high = y.T
            style = {"capsize": CAP, "lw": 1.2} | (style or {"marker": "o", "ms": 3})
            drawn.append(ax.errorbar(x, middle, [middle - low, high - middle], label=literal(name), **style))
        else:
            drawn += ax.plot(x, y, label=literal(name), **style)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if title:
        ax.set_title(title)
    if log:
        ax.set_xscale("log")
        ax.set_xticks(x, [f"{place:g}" for place in x])
        ax.minorticks_off()
    ax.legend(drawn, names + _literal(lines))  # named, else it leaves out what starts with an underscore
    return ax


def histogram(values: Float[np.ndarray, " n"], title: str = "", ax: Axes | None = None) -> Axes:
    """A histogram of coefficients in standard deviations, with the normal density of their mean and spread."""
    values = _finite("values", values, (None,))
    if len(np.unique(values)) < 2:
        raise ValueError(f"{len(values)} values to count: expected at least two that differ")
    ax = ax or plt.subplots(figsize=(2.2, 1.8))[1]
    mean, std = values.mean(), values.std()
    x = np.linspace(values.min(), values.max(), 100)
    ax.hist(values, bins="auto", density=True, alpha=0.5)
    ax.plot(x, np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi)), "k-", lw=1)
    ax.set(title=title, xlabel="coefficient / σ", yticks=[])
    return ax


def joint(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], xlabel: str, ylabel: str, ax: Axes | None = None
) -> Axes:
    """A two-dimensional histogram on equal axes, three standard deviations each way."""
    x = _finite("x", x, (None,))
    y = _finite("y", y, x.shape)
    ax = ax or plt.subplots(figsize=(2.2, 2.2))[1]
    ax.hist2d(x, y, bins=24, range=[[-3, 3], [-3, 3]], cmap="Blues")
    ax.set(xlabel=xlabel, ylabel=ylabel, aspect="equal")
    return ax


def matrix(table: pd.DataFrame, title: str = "", limit: float | None = None, ax: Axes | None = None) -> Axes:
    """A signed table as colours, with its numbers."""
    table = _table(table)
    ax = ax or plt.subplots(figsize=(0.5 * len(table.columns) + 1.4, 0.36 * len(table) + 1.2))[1]
    limit = np.nanmax(np.abs(table.to_numpy()), initial=0) or 1.0 if limit is None else finite_number("limit", limit)
    if limit <= 0:
        raise ValueError(f"limit: expected the largest value that has a colour, above 0, found {limit}")
    ax.imshow(table, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    for (i, j), value in np.ndenumerate(table.to_numpy()):
        dark = abs(value) > 0.6 * limit
        ax.text(j, i, f"{value:z.1f}", ha="center", va="center", size=7, color="w" if dark else "k")
    ax.set_xticks(range(len(table.columns)), _literal(table.columns), rotation=40, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(table)), _literal(table.index))
    ax.set_title(literal(title))
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return ax


def paired_bars(table: pd.DataFrame, xlabel: str, controls: Sequence[str] = (), ax: Axes | None = None) -> Axes:
    """Horizontal bars, a group for each row and a bar for each column; ``controls`` are grey."""
    table, controls = _table(table), listed("controls", controls)
    ax = ax or plt.subplots(figsize=(5, 0.3 * len(table) + 0.8))[1]
    colors = [MUTED if name in controls else f"C{i}" for i, name in enumerate(table)]
    shown = table.set_axis(_literal(table.index), axis=0).set_axis(_literal(table.columns), axis=1)
    shown.iloc[::-1].plot.barh(ax=ax, color=colors, width=0.75)
    ax.set(xlabel=xlabel, ylabel="")
    ax.legend(ax.containers, list(shown), loc="upper left", bbox_to_anchor=(1, 1))
    return ax


def sigmas(strengths: Sequence[float]) -> list[str]:
    """Captions of edit strengths, in standard deviations."""
    return [_sigma(s) for s in _finite("strengths", strengths, (None,))]


def against_paper(profile: str, rows: Sequence[tuple[str, str, str]]) -> Markdown:
    """The table at a notebook's end: what was measured, what the paper reports, what we found."""
    return markdown_table(["", "the paper", f"here ({profile})"], rows)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Markdown:
    """A table of texts, which are shown as they are."""
    columns, rows = listed("columns", columns), listed("rows", rows)
    if wrong := [row for row in rows if isinstance(row, str) or len(row) != len(columns)]:
        raise ValueError(f"row {wrong[0]!r}: expected {len(columns)} texts, one for each column")
    lines = [" | ".join(map(_literal_markdown, row)) for row in (columns, *rows)]
    return Markdown("\n".join(f"| {line} |" for line in (lines[0], "|".join("---" for _ in columns), *lines[1:])))


def literal(name: str) -> str:
    """A name for a figure, in which matplotlib finds no formula."""
    whole = str(name).encode("utf-8", "backslashreplace").decode()  # of names that are no text, such as a folder's
    return whole.replace("\\$", "$").replace("$", "\\$")


def _sigma(strength: float) -> str:
    if not strength:
        return "0"
    return f"{strength:+.1f}σ" if round(strength, 1) == strength else f"{strength:+g}σ"


def _pictures(images: Any) -> np.ndarray:
    images = _array("pictures", images)
    if images.dtype != np.uint8 or images.ndim != 5 or images.shape[-1] != 3 or not images.size:
        raise ValueError(
            f"pictures of shape {images.shape} and type {images.dtype}: expected at least one, as uint8 of shape "
            "(rows, columns, height, width, 3), or without rows for a strip"
        )
    return images


def _numbers(name: str, values: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    """As an array of this shape, in which None is any length; what is not finite is a gap in a plot."""
    values = _array(name, values)
    if values.dtype.kind not in "iuf" or values.ndim != len(shape):
        raise ValueError(f"{name} of shape {values.shape} and type {values.dtype}: expected {len(shape)}-D numbers")
    if any(wanted not in (None, found) for wanted, found in zip(shape, values.shape, strict=True)):
        raise ValueError(f"{name} of shape {values.shape}: expected {shape}, to go with the others")
    return values


def _finite(name: str, values: Any, shape: tuple[int | None, ...]) -> np.ndarray:
    values = _numbers(name, values, shape)
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: holds NaN or infinity; expected finite numbers, leave the others out")
    return values


def _array(name: str, values: Any) -> np.ndarray:
    try:
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # of other lengths, or PyTorch's with a gradient
        raise ValueError(f"{name}: no array ({str(error).splitlines()[0]}); expected numbers of one shape") from None


def _table(table: pd.DataFrame) -> pd.DataFrame:
    if not isinstance(table, pd.DataFrame) or table.empty:
        raise ValueError(f"table {type(table).__name__} of shape {np.shape(table)}: expected a DataFrame with entries")
    try:
        table = table.astype(float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"table: {error}; expected numbers alone") from None
    if np.isinf(table.to_numpy()).any():
        raise ValueError("table: holds infinity; expected finite numbers, or NaN where there is none")
    return table


def _literal(names: Iterable) -> list[str]:
    return [literal(name) for name in names]


def _literal_markdown(text: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]$~&#])", r"\\\1", " ".join(str(text).split()))
