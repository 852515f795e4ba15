"""Memory and time of the dataset and the space at the sizes of the paper: 65,000 models of 99,648 numbers.

    python benchmarks/scale.py                                     # all sizes, as far as disk and memory go
    python benchmarks/scale.py --models 1000 --numbers 4096        # one of them

Rows are random. Every step runs in a fresh process; ``extra`` is what its peak memory (``ru_maxrss``) was above
the memory held before it began, with its input, and ``copies`` the same in sizes of the whole matrix. What would not
fit is left out and said.
"""

import json
import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import pandas as pd
import psutil
import torch
import typer
from tqdm import tqdm

from w2w_lib.files.atomic import write_text
from w2w_lib.lora.layout import AdapterLayout, Factor
from w2w_lib.space.controls import independent_columns
from w2w_lib.space.weight_space import WeightSpace
from w2w_lib.training.weights_dataset import WeightsDataset
from w2w_lib.workbook.lifetime import ends_together

GIGABYTE = 2**30
MODELS, NUMBERS, OUT = [1_000, 8_000, 65_000], [4_096, 99_648], Path(__file__).with_suffix(".json")
COMPONENTS, QUERIES, GROUP = 300, 24, 64  # of a space; to look up or read at random; models that are appended at once
SPARE = 0.9  # share of the free memory and disk that may be used


@dataclass(frozen=True)
class Size:
    """So many models of so many numbers."""

    models: int
    numbers: int

    @property
    def gigabytes(self) -> float:
        return 4 * self.models * self.numbers / GIGABYTE

    @property
    def ids(self) -> list[str]:
        return [f"person-{i:05d}" for i in range(self.models)]

    @property
    def layout(self) -> AdapterLayout:
        down = Factor("base_model.model.benchmark.lora_A.weight", (1, self.numbers - 1))
        up = Factor("base_model.model.benchmark.lora_B.weight", (1, 1))
        return AdapterLayout((down, up), 1, 1.0, ("benchmark",), "0" * 16)

    def rows(self, count: int, seed: int = 0) -> torch.Tensor:
        return torch.randn(count, self.numbers, generator=torch.Generator().manual_seed(seed))

    def space(self) -> WeightSpace:
        """A space of random numbers: what it costs to use one does not depend on what they are."""
        count, mean = min(COMPONENTS, self.models - 1), torch.zeros(self.numbers)
        coefficients = torch.randn(self.models, count)
        return WeightSpace(self.layout, self.ids, mean, self.rows(count), coefficients, 1.0, "random", "random")


Prepared = Callable[[], object]  # a step with its input in memory


def append(size: Size, folder: Path) -> Prepared:
    dataset, ids = WeightsDataset.create(folder, size.layout, {}, torch.zeros(size.numbers)), size.ids

    def step():
        for first in range(0, size.models, GROUP):
            group = ids[first : first + GROUP]
            dataset.append(group, size.rows(len(group), first), torch.zeros(len(group)))

    return step


def look_up_ids(size: Size, folder: Path) -> Prepared:
    return lambda: len(WeightsDataset.open(folder).ids)


def read_some_rows(size: Size, folder: Path) -> Prepared:
    wanted = size.ids[:: max(1, size.models // QUERIES)]
    return lambda: WeightsDataset.open(folder).weights(wanted)


def read_all_in_batches(size: Size, folder: Path) -> Prepared:
    return lambda: sum(float(rows.sum()) for _, rows in WeightsDataset.open(folder).batches(GROUP))


def nearest(size: Size, folder: Path) -> Prepared:
    space = size.space()
    return lambda: space.nearest(space.coefficients[:QUERIES])


def shuffle_columns(size: Size, folder: Path) -> Prepared:
    weights = size.rows(size.models)
    return lambda: independent_columns(weights, 0)


def fit(size: Size, folder: Path) -> Prepared:
    weights = size.rows(size.models)
    return lambda: WeightSpace.fit(size.layout, weights, size.ids, min(COMPONENTS, size.models - 1))


def project(size: Size, folder: Path) -> Prepared:
    space, weights = size.space(), size.rows(size.models)
    return lambda: space.project(weights)


@dataclass(frozen=True)
class Step:
    """A step, how many matrices it holds in memory with its input, and whether it needs the dataset on disk."""

    prepare: Callable[[Size, Path], Prepared]
    matrices: int = 0
    on_disk: bool = False


STEPS = {
    "append": Step(append, on_disk=True),
    "look up ids": Step(look_up_ids, on_disk=True),
    f"read {QUERIES} rows": Step(read_some_rows, on_disk=True),
    "read all in batches": Step(read_all_in_batches, on_disk=True),
    f"nearest of {QUERIES}": Step(nearest),
    "shuffle columns": Step(shuffle_columns, 2),
    f"fit {COMPONENTS} components": Step(fit, 2),
    "project": Step(project, 2),
}


def measure(name: str, size: Size, folder: Path) -> dict[str, float]:
    """Seconds and memory in gigabytes of one step, in the process that it is called in."""
    step = STEPS[name].prepare(size, folder)
    before, start = _peak(), time.perf_counter()
    step()
    seconds, peak = time.perf_counter() - start, _peak()
    return {"seconds": seconds, "peak": peak, "extra": peak - before, "copies": (peak - before) / size.gigabytes}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIGABYTE  # Linux counts in kilobytes


def _free_memory() -> float:
    return psutil.virtual_memory().available / GIGABYTE


def _does_not_fit(step: Step, size: Size, folder: Path) -> str:
    """Why a step is left out, or nothing."""
    dataset, memory = folder / "dataset", _free_memory()
    disk = shutil.disk_usage(folder).free / GIGABYTE
    if step.on_disk and not dataset.exists() and size.gigabytes > SPARE * disk:
        return f"needs {size.gigabytes:.1f} GB of disk, {disk:.1f} are free"
    if step.matrices * size.gigabytes > SPARE * memory:
        return f"needs {step.matrices * size.gigabytes:.1f} GB of memory, {memory:.1f} are free"
    return ""


def measure_all(sizes: list[Size]) -> pd.DataFrame:
    """A row for each size and step."""
    found = []
    for size in tqdm(sizes, desc="sizes"):
        with TemporaryDirectory(prefix="w2w-scale-") as folder:
            for name, step in tqdm(STEPS.items(), desc=f"{size.models:,} x {size.numbers:,}", leave=False):
                row = {"models": size.models, "numbers": size.numbers, "matrix": size.gigabytes, "step": name}
                if why := _does_not_fit(step, size, Path(folder)):
                    found.append(row | {"note": f"left out: {why}"})
                    continue
                with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver")) as fresh:
                    found.append(row | fresh.submit(measure, name, size, Path(folder) / "dataset").result())
    return pd.DataFrame(found)


@ends_together()
def main(
    models: Annotated[list[int], typer.Option(help="Numbers of models.")] = MODELS,
    numbers: Annotated[list[int], typer.Option(help="Numbers of each.")] = NUMBERS,
    out: Annotated[Path, typer.Option(help="Where the numbers go.")] = OUT,
) -> None:
    """Measure every size, print one table and write it as JSON. Sizes are in gigabytes."""
    table = measure_all([Size(n, d) for d in numbers for n in models])
    print(table.round(3).fillna("").to_string(index=False))
    machine = {"cores": os.cpu_count(), "memory": psutil.virtual_memory().total / GIGABYTE}
    write_text(json.dumps({"machine": machine, "steps": json.loads(table.to_json(orient="records"))}, indent=1), out)


if __name__ == "__main__":
    typer.run(main)
