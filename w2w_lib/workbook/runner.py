"""The workbook's notebooks: their code as text, and executing one in a profile."""

import hashlib
import json
import os
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import psutil
from filelock import FileLock
from nbformat import NotebookNode

from w2w_lib.files.atomic import write_text
from w2w_lib.files.regular import regular_file
from w2w_lib.training.run_lock import HOLDER, holding
from w2w_lib.workbook import modules, paths, profiles, provenance, settings
from w2w_lib.workbook.lifetime import ends_together

MODULES = ".modules"  # what the listing of the library's modules ends with
WAIT = 10.0  # seconds for another run of the profile to finish
NO_MEMORY = (
    "the notebook's process was killed, most likely for want of memory (stopped in {}): "
    "close other programs or lower the sizes in params.yaml; what is finished is kept"
)


def notebooks() -> list[Path]:
    """The workbook's notebooks, in order; FileNotFoundError where there are none."""
    if found := sorted(paths.NOTEBOOKS.glob("[0-9]*.ipynb")):
        return found
    raise FileNotFoundError(
        f"{paths.shown(paths.NOTEBOOKS)}/: holds no notebook NN_name.ipynb; `git restore notebooks`"
    )


def read(path: Path) -> NotebookNode:
    """A notebook from disk; ValueError of one line for a file that is none."""
    regular_file(path, "a notebook", "run `git restore` on it, or `make reproduce` if it was executed")
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)  # which reading only logs
        return notebook
    except (ValueError, AttributeError, LookupError, TypeError, RecursionError, nbformat.ValidationError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"{paths.shown(path)}: is no notebook ({reason}); `git restore` it") from None


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that do something."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def code(notebook: NotebookNode) -> str:
    """What a notebook does, as text: its code cells and their tags, no prose, outputs, ids or counts."""
    heads = [" ".join(["# %%", *cell.metadata.get("tags", [])]) for cell in code_cells(notebook)]
    sources = [cell.source.strip() for cell in code_cells(notebook)]
    return "".join(f"{head}\n{source}\n\n" for head, source in zip(heads, sources, strict=True))


def fingerprint(notebook: NotebookNode) -> str:
    """The md5 of a notebook's code: what DVC records for its listing."""
    return hashlib.md5(code(notebook).encode()).hexdigest()


def listing(notebook: Path) -> Path:
    """Where DVC finds a notebook's code."""
    return paths.STRIPPED / f"{notebook.stem}.py"


@contextmanager
def one_run(profile: str) -> Iterator[None]:
    """Within the block no other run has this profile, and all that is started ends with it.

    TimeoutError names the process that runs the profile already. A run within a run is part of it.
    """
    settings.require(profile)
    lock = paths.outputs(profile, ".run", ".lock")
    with ExitStack() as held:
        if not _held_above(lock):
            held.enter_context(holding(FileLock(lock), WAIT))
            for left in paths.outputs(profile, "notebooks", "_").parent.glob("*.running.ipynb"):
                left.unlink(missing_ok=True)  # of a run that was killed
        held.enter_context(ends_together())
        yield


def run(path: Path, profile: str, **parameters: str) -> str:
    """Execute a notebook of the workbook in a profile, into `outputs/<profile>/notebooks`; return the cost, in words.

    ``parameters`` are put into its cell of parameters, beside the profile.
    """
    path = _of_the_workbook(path)
    stage = provenance.stage_of(path)
    settled = settings.load(profile)  # what does not fit is said before a kernel starts
    if stage in paths.STAGES and not settled.has(stage):
        raise ValueError(f"profile {profile!r} has no section {stage}, which {paths.shown(path)} reads")
    profiles.check_given(profile, [stage])
    profiles.require_device(profile)
    with one_run(profile), settings.kept(paths.outputs(profile, ".run", "settings.json")):
        notebook = read(path)
        text = code(notebook)
        if _differs(listing(path), text):
            raise ValueError(f"{paths.shown(path)} was edited since DVC looked at it: run `w2w prepare` first")
        if _differs(listing(path).with_suffix(MODULES), modules.listing(text)):
            raise ValueError(
                f"the library was edited since DVC looked at what {paths.shown(path)} uses: run `w2w prepare` first"
            )
        began = datetime.now(UTC).isoformat(timespec="seconds")
        notebook.metadata.w2w = {
            "profile": profile,
            "code_md5": fingerprint(notebook),
            "sources": provenance.sources(stage, text, profile, settings.written()[profile]),
            "ran": {"began": began} | provenance.versions(),
        }
        _set_parameters(notebook, path, {"profile": profile} | parameters)
        return _note_cost(path.stem, profile, _execute(notebook, paths.outputs(profile, "notebooks", path.name)))


def stamp(path: Path, profile: str) -> None:
    """Note in a notebook's executed copy that its outputs are of the data and settings that there are now."""
    done = paths.outputs(profile, "notebooks", path.name)
    executed = read(done)
    sections = settings.written()[profile]
    found = provenance.sources(provenance.stage_of(path), code(executed), profile, sections)
    executed.metadata.w2w["sources"] = found
    write_text(nbformat.writes(executed, version=4) + "\n", done)


def _differs(file: Path, text: str) -> bool:
    """Whether what DVC compares of it is there, and is not this."""
    return file.is_file() and file.read_bytes() != text.encode()


def _of_the_workbook(path: Path) -> Path:
    known = {notebook.resolve(): notebook for notebook in notebooks()}
    if path.resolve() in known:
        return known[path.resolve()]
    if not os.path.exists(path):  # nor for a name that no file can have
        there = ", ".join(paths.shown(notebook) for notebook in known.values())
        raise FileNotFoundError(f"no notebook {path}: there are {there}")
    raise ValueError(
        f"{path}: is no notebook of {paths.shown(paths.NOTEBOOKS)}/, and its outputs would replace the workbook's: "
        "open it in JupyterLab, or put it there as NN_name.ipynb"
    )


def _held_above(lock: Path) -> bool:
    """Whether this process or a program above it holds a run's lock."""
    try:
        holder = json.loads((lock.parent / HOLDER).read_bytes())["pid"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return holder in (os.getpid(), *(process.pid for process in psutil.Process().parents()))


def _execute(notebook: NotebookNode, done: Path) -> float:
    """Execute a notebook into the file ``done``; return the seconds it took."""
    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    running, failed = done.with_suffix(".running.ipynb"), done.with_suffix(".failed.ipynb")
    began = time.monotonic()
    try:
        execute_notebook(
            notebook,
            running,
            kernel_name="python3",
            cwd=paths.NOTEBOOKS,
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
            progress_bar=False,  # the notebooks' own bars show, with their ETA
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
        )
    except PapermillExecutionError as error:
        os.replace(running, failed)
        raise ValueError(_explain(error, failed)) from None
    except DeadKernelError:
        os.replace(running, failed)
        raise ValueError(NO_MEMORY.format(paths.shown(failed))) from None
    os.replace(running, done)
    failed.unlink(missing_ok=True)
    return time.monotonic() - began


def _set_parameters(notebook: NotebookNode, path: Path, values: dict[str, str]) -> None:
    # in place of papermill's injected cell, so that the executed copy states its parameters once
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for name, value in values.items():
        line = re.compile(rf'^{name} = "[^"\n]*"', re.MULTILINE)
        (cell,) = [cell for cell in cells if line.search(cell.source)][:1] or [None]
        if cell is None:
            raise ValueError(f'{paths.shown(path)} has no cell tagged `parameters` with a line `{name} = "..."`')
        start, stop = line.search(cell.source).span()
        cell.source = f"{cell.source[:start]}{name} = {json.dumps(value)}{cell.source[stop:]}"


def _explain(error, failed: Path) -> str:
    """One line where the library refused an input; the whole traceback first where something broke."""
    trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    frames = re.findall(r"^(?:File (.+?):\d+|Cell In)", trace, flags=re.MULTILINE)
    refused = frames and frames[-1] and Path(frames[-1]).expanduser().is_relative_to(paths.PACKAGE)
    if refused and error.ename in ("ValueError", "FileNotFoundError"):
        return f"{error.evalue} (stopped in {paths.shown(failed)})"
    print(error, file=sys.stderr)
    return f"{error.ename} in {paths.shown(failed)}: {error.evalue}"


def _note_cost(name: str, profile: str, seconds: float) -> str:
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    cost = {"seconds": round(seconds, 1), "peak_memory_bytes": peak}
    write_text(json.dumps(cost) + "\n", paths.outputs(profile, "runtimes", f"{name}.json"))
    minutes, rest = divmod(round(seconds), 60)
    return f"{name}: {minutes} min {rest:02} s, largest process {peak / 2**30:.1f} GiB"
