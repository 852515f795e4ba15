"""A page of tables, with a figure, of what ``gpu.py`` measured: `python benchmarks/gpu_page.py [gpu.json]`."""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import typer
from results import read

from w2w_lib.files.atomic import replacing, write_text
from w2w_lib.workbook import paths

Rows = dict[str, dict]
RESULTS = Path(__file__).with_name("gpu.json")
PEFT = "PEFT's loop"
FLEETS = (PEFT, "fleet of ")  # how the names of their steps begin
SECTIONS = {
    "Import of a synthetic release, against float64": "import",
    "Inversion of one picture": "inversion",
    "Pictures": "sampling",
    "A short run from end to end": "sd15",
}
REHEARSAL = "**A rehearsal on a narrow base: these numbers mean nothing.**"
SHARES = (
    "Models per hour are of 800 steps each. `share of gemm` is the rate of a step's operations, counted without "
    "checkpointing, over that of a large matrix product in bf16 on this card. `over PEFT` is the ratio of models per "
    "hour. Memory is the most that was allocated, with the base."
)


def write_page(results: str | Path, out: str | Path | None = None) -> Path:
    """Write the page and its figure, by default beside the JSON; ValueError for what is no such JSON."""
    found = read(results)
    out = Path(out or Path(results).with_suffix(".md"))
    figure = out.with_suffix(".svg") if draw(_done(found["steps"]), out.with_suffix(".svg")) else None
    write_text(page(found, figure), out)
    return out


def page(found: dict, figure: Path | None = None) -> str:
    """The text of the page."""
    about, done = found["about"], _done(found["steps"])
    parts = [f"# {about['card']}", REHEARSAL if about["rehearsal"] else "", f"Code {about['code']}."]
    parts.append(table({name: row for name, row in done.items() if name == "card"}, upright=True))
    parts += ["## Fleets", SHARES, table(with_ratios(_fleets(done)))]
    parts.append(f"![Models per hour against the size of a fleet]({figure.name})" if figure else "")
    for title, name in SECTIONS.items():
        rows = {step: row for step, row in done.items() if step.split(",")[0] == name}
        parts += [f"## {title}", table(rows, upright=len(rows) == 1)]
    others = {name: step for name, step in found["steps"].items() if step["status"] != "done"}
    if others:
        said = {name: {"what": f"{s['status']}: {s.get('error') or s.get('why', '')}"} for name, s in others.items()}
        parts += ["## Not measured", table(said)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(rows: Rows, upright: bool = False) -> str:
    """A Markdown table, a row for each step; ``upright``, a row for each number."""
    if not rows:
        return "Not measured."
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    cells = [["", *(name.replace("_", " ") for name in columns)]]
    cells += [[step, *(shown(row.get(name)) for name in columns)] for step, row in rows.items()]
    cells = list(zip(*cells, strict=True)) if upright else cells
    lines = [f"| {' | '.join(line)} |" for line in cells]
    return "\n".join([lines[0], "|---" * len(cells[0]) + "|", *lines[1:]])


def shown(value: object) -> str:
    """A cell: numbers to three digits, and no bar that would end it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "/")


def with_ratios(rows: Rows) -> Rows:
    """The rows with models per hour over those of PEFT's loop, where that was measured."""
    peft = rows.get(PEFT, {}).get("models_per_hour")
    if not peft:
        return rows
    return {
        name: row | ({"over_PEFT": row["models_per_hour"] / peft} if "models_per_hour" in row else {})
        for name, row in rows.items()
    }


def draw(done: Rows, path: Path) -> bool:
    """Models per hour against the size of a fleet, a line for each way; whether there was something to draw."""
    ways: dict[str, list[tuple[int, float]]] = {}
    for row in (row for row in _fleets(done).values() if "models_per_hour" in row):
        marks = [name for name in ("compiled", "checkpointing") if row[name]]
        ways.setdefault(", ".join([row["way"], *marks]), []).append((row["models"], row["models_per_hour"]))
    if not ways:
        return False
    with plt.style.context(paths.STYLE), plt.rc_context({"svg.hashsalt": "w2w"}):
        figure, axes = plt.subplots(figsize=(6, 3.2))
        for way, points in ways.items():
            axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=4, label=way)
        sizes = sorted({size for points in ways.values() for size, _ in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.set(xlabel="adapters in a fleet", ylabel="models per hour", ylim=(0, None))
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        with replacing(path) as partial:
            figure.savefig(partial, bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    return True


def _done(steps: Rows) -> Rows:
    return {name: step["result"] for name, step in steps.items() if step["status"] == "done"}


def _fleets(done: Rows) -> Rows:
    return {name: row for name, row in done.items() if name.startswith(FLEETS)}


def main(
    results: Annotated[Path, typer.Argument(help="What gpu.py wrote.")] = RESULTS,
    out: Annotated[Path | None, typer.Option(help="The page: by default beside the JSON.")] = None,
) -> None:
    """Write the page and say where it is."""
    print(write_page(results, out))


if __name__ == "__main__":
    typer.run(main)
