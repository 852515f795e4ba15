"""What a CUDA card makes of all this: an acceptance run on the full size of Stable Diffusion 1.5, with random weights.

    python benchmarks/gpu.py                  # at most 25 minutes on an H100 or a 4090; run it again to go on
    python benchmarks/gpu.py --only fleet     # the steps of this group, or of this name, again
    python benchmarks/gpu.py --narrow         # a rehearsal on a narrow base, for a CPU: its numbers mean nothing

Fleets of 1 to 32 adapters, compiled or not, checkpointing or not, beside PEFT's loop; a synthetic release of full
size imported, against float64; inversion into 1,000 and 10,000 components; pictures with adapters in a batch beside
diffusers' loading; a short run of everything in a row. Each step is written into the JSON when it is done: a second
call on the same card and code takes the others. A step that fails is recorded, and the next one starts in a new
process; one that would begin after ``--minutes`` is left for the next call. ``gpu_page.py`` makes a page of the JSON.
"""

import hashlib
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import torch
import typer
from gpu_page import write_page
from gpu_steps import Step, all_steps
from results import Results
from tqdm import tqdm
from workplace import Workplace

from w2w_lib.workbook import paths

OUT = Path(__file__).with_suffix(".json")
Run = Callable[[Step], dict]


class InProcess:
    """Takes steps in a process apart: a new one for each group, and after a failure."""

    def __init__(self, place: Workplace):
        self.place, self.group, self.pool = place, None, None

    def __call__(self, step: Step) -> dict:
        if self.group != step.group:
            self.close()
            self.group, self.pool = step.group, ProcessPoolExecutor(1, get_context("spawn"))
        try:
            return self.pool.submit(step.measure, self.place).result()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the process: what it held of the card's memory is free again."""
        if self.pool:
            self.pool.shutdown()
        self.group = self.pool = None


def run_all(steps: list[Step], results: Results, run: Run, minutes: float) -> None:
    """Take the steps that are not done yet, and record what becomes of each."""
    deadline = time.monotonic() + 60 * minutes
    todo = [step for step in steps if not results.done(step.name)]
    with tqdm(todo, desc="steps", unit="step") as bar:
        for step in bar:
            bar.set_postfix_str(step.name)
            began = time.monotonic()
            if began > deadline:
                results.record(step.name, "skipped", why=f"{minutes:g} minutes were over: run again to take it")
                continue
            try:
                found = run(step)
            except Exception as error:
                bar.write(traceback.format_exc(), file=sys.stderr)
                results.record(step.name, "failed", seconds=time.monotonic() - began, error=first_line(error))
            else:
                results.record(step.name, "done", seconds=time.monotonic() - began, result=found)


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def chosen(steps: list[Step], only: str | None) -> list[Step]:
    """The steps of a group or a name, or all; ValueError where there are none."""
    found = [step for step in steps if only in (None, step.group, step.name)]
    if not found:
        names = dict.fromkeys(name for step in steps for name in (step.group, step.name))
        raise ValueError(f"no step {only!r}; expected one of: {'; '.join(names)}")
    return found


def code() -> str:
    """Sixteen digits of the library and these benchmarks."""
    files = sorted([*paths.PACKAGE.rglob("*.py"), *Path(__file__).parent.glob("*.py")])
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()[:16]


def main(
    out: Annotated[Path, typer.Option(help="The JSON; the page goes beside it.")] = OUT,
    narrow: Annotated[bool, typer.Option(help="Rehearse on a narrow base, on a CPU too.")] = False,
    minutes: Annotated[float, typer.Option(help="No step begins later than this.")] = 25,
    only: Annotated[str | None, typer.Option(help="The steps of this group or name, even where done.")] = None,
) -> None:
    """Take every step that is not done yet; exit status 1 where one failed."""
    if not narrow and not torch.cuda.is_available():
        raise typer.Exit(complain("no CUDA card here: run it where there is one, or rehearse with --narrow"))
    place = Workplace(paths.ROOT / "outputs" / "gpu", rehearsal=narrow)
    place.folder.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"
    try:
        steps = chosen(all_steps(place.sizes), only)
        results = Results.opened(out, {"card": name, "code": code(), "rehearsal": narrow})
    except ValueError as error:
        raise typer.Exit(complain(str(error))) from None
    if only:
        for step in steps:
            results.steps.pop(step.name, None)
    runner = InProcess(place)
    try:
        run_all(steps, results, runner, minutes)
    finally:
        runner.close()
    page = write_page(out)
    print(f"{out}, {page}: {len(results.steps)} steps, {len(results.failed)} failed")
    if results.failed:
        raise typer.Exit(complain(f"failed: {'; '.join(results.failed)}"))


def complain(line: str) -> int:
    """Say what is wrong; exit status 1."""
    print(line, file=sys.stderr)
    return 1


if __name__ == "__main__":
    typer.run(main)
