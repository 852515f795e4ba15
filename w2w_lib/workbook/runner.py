"""The notebooks as a pipeline: list their code for DVC, execute one in a profile.

DVC depends on a listing of each notebook's code cells (`outputs/.stripped/*.py`), so neither outputs nor
prose nor a save in Jupyter changes a stage; and on one of each profile's own pictures of people, if it has any.
"""

import hashlib
import json
import os
import re
import resource
import sys
import time
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from w2w_lib.files.atomic import write_text
from w2w_lib.workbook import paths, profiles


def notebooks() -> list[Path]:
    """The workbook's notebooks, in order."""
    return sorted(paths.NOTEBOOKS.glob("[0-9]*.ipynb"))


def read(path: Path) -> NotebookNode:
    """A notebook from disk."""
    return nbformat.read(path, as_version=4)


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


def strip() -> list[Path]:
    """Bring the listings up to date, touching only those that differ; return these."""
    listings = {listing(path): code(read(path)) for path in notebooks()}
    listings |= {paths.STRIPPED / f"{profile}.people": text for profile, text in profiles.sources().items()}
    changed = [path for path, text in listings.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in changed:
        write_text(listings[path], path)
    for orphan in set(paths.STRIPPED.glob("[!.]*")) - set(listings):
        orphan.unlink()
    return changed


def run(path: Path, profile: str) -> str:
    """Execute a notebook in a profile into `outputs/<profile>/notebooks`; return what it cost, in words."""
    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    profiles.require(profile)
    notebook = read(path)
    if listing(path).exists() and listing(path).read_text(encoding="utf-8") != code(notebook):
        raise ValueError(f"{paths.shown(path)} was edited since DVC looked at it: run `w2w strip` first")
    notebook.metadata.w2w = {"profile": profile, "code_md5": fingerprint(notebook)}
    _set_profile(notebook, profile, path)

    done = paths.outputs(profile, "notebooks", path.name)
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
        raise ValueError(
            f"the notebook's process was killed, most likely for want of memory (stopped in {paths.shown(failed)}): "
            "close other programs or lower the sizes in params.yaml; what is finished is kept"
        ) from None
    os.replace(running, done)
    failed.unlink(missing_ok=True)
    return _note_cost(path.stem, profile, time.monotonic() - began)


def _set_profile(notebook: NotebookNode, profile: str, path: Path) -> None:
    # in place of papermill's injected cell, so that the executed copy states its parameters once
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source, found = re.subn(r'\Aprofile = "[^"\n]*"', f'profile = "{profile}"', cell.source)
            if found:
                return
    raise ValueError(f'{paths.shown(path)} has no cell tagged `parameters` whose first line is `profile = "pocket"`')


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
