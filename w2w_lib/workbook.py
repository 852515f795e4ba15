"""The notebooks as a pipeline: strip to their code, run one, publish the outputs, check that these are current.

DVC depends on a listing of each notebook's code cells (`outputs/.stripped/*.py`), so neither outputs nor prose
nor a save in Jupyter changes a stage.
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
from nbstripout import strip_output
from ruamel.yaml import YAML

from w2w_lib import paths, profiles

LARGE = 3_000_000  # bytes; a page of the repository with more than this renders slowly
CELL_METADATA = ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled")
WIDGET = "application/vnd.jupyter.widget-view+json"


def notebooks() -> list[Path]:
    """The workbook's notebooks, in order."""
    return sorted(paths.NOTEBOOKS.glob("[0-9]*.ipynb"))


def code(notebook: NotebookNode) -> str:
    """What a notebook does, as text: its code cells with their tags, without prose, outputs, ids or counts."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    heads = [" ".join(["# %%", *cell.metadata.get("tags", [])]) for cell in cells]
    return "".join(f"{head}\n{cell.source.strip()}\n\n" for head, cell in zip(heads, cells, strict=True))


def fingerprint(notebook: NotebookNode) -> str:
    """The md5 of a notebook's code, which is also what DVC records for its stripped copy."""
    return hashlib.md5(code(notebook).encode()).hexdigest()


def stripped(notebook: Path) -> Path:
    """Where the listing of a notebook's code lies."""
    return paths.STRIPPED / f"{notebook.stem}.py"


def strip() -> list[Path]:
    """Bring the listings up to date, touching only those that differ; return these."""
    changed = []
    for path in notebooks():
        listing, text = stripped(path), code(read(path))
        if not listing.exists() or listing.read_text(encoding="utf-8") != text:
            _write(listing, text)
            changed.append(listing)
    for orphan in set(paths.STRIPPED.glob("*.py")) - {stripped(path) for path in notebooks()}:
        orphan.unlink()
    return changed


def run(notebook: Path, profile: str, timeout: int) -> str:
    """Execute a notebook in a profile with papermill into `outputs/<profile>/notebooks`; return its cost in words."""
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    if profile not in profiles.names():
        profiles.load(profile, "base")  # raises, saying which are known
    source = read(notebook)
    if stripped(notebook).exists() and stripped(notebook).read_text(encoding="utf-8") != code(source):
        raise ValueError(
            f"{paths.shown(notebook)} was edited since DVC looked at it: run `w2w strip` (or `make reproduce`)"
        )
    source.metadata.w2w = _mark(source, profile)
    _set_profile(source, profile, notebook)

    done = paths.outputs(profile, "notebooks", notebook.name)
    done.parent.mkdir(parents=True, exist_ok=True)
    failed = done.with_suffix(".failed.ipynb")
    running = done.with_suffix(".running.ipynb")
    began = time.monotonic()
    try:
        execute_notebook(
            source,
            running,
            kernel_name="python3",
            cwd=paths.NOTEBOOKS,
            execution_timeout=timeout,
            config=Config({"KernelManager": {"transport_encryption": "auto"}}),
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
        )
    except PapermillExecutionError as error:
        os.replace(running, failed)
        raise ValueError(_explain(error, failed)) from None
    os.replace(running, done)
    failed.unlink(missing_ok=True)
    return _note_cost(notebook.stem, profile, time.monotonic() - began)


def publish(profile: str) -> list[tuple[Path, int]]:
    """Put the outputs of a profile's executed notebooks under the present cells; return sizes in bytes.

    Prose is taken as it stands now, code must be the code that ran. Nothing is written unless all are in order.
    """
    published, problems = {}, []
    for path in notebooks():
        executed = paths.outputs(profile, "notebooks", path.name)
        notebook = read(path)
        if not executed.exists() and _is_published(notebook, profile):
            continue  # the shipped base model was trained elsewhere
        elif not executed.exists():
            problems.append(f"{paths.shown(executed)} does not exist: {_how_to_run(path, profile)}")
        elif read(executed).metadata.get("w2w") != _mark(notebook, profile):
            problems.append(
                f"{paths.shown(executed)} ran other code than {path.name} holds: {_how_to_run(path, profile)}"
            )
        else:
            published[path] = _with_outputs(notebook, read(executed))
    if problems:
        raise ValueError("nothing published:\n  " + "\n  ".join(problems))
    for path, notebook in published.items():
        _write(path, nbformat.writes(notebook, version=4) + "\n")
    return [(path, path.stat().st_size) for path in published]


def check(profile: str) -> list[str]:
    """What keeps the outputs in `notebooks/` from being those of the present sources; empty when they are."""
    strip()
    lock = paths.ROOT / "dvc.lock"
    stages = (YAML(typ="safe").load(lock) or {}).get("stages", {}) if lock.exists() else {}
    found = [_stale(path, profile, stages) for path in notebooks()]
    return [f"{paths.shown(path)}: {why}" for path, why in zip(notebooks(), found, strict=True) if why]


def _is_published(notebook: NotebookNode, profile: str) -> bool:
    shows = any(cell.get("outputs") for cell in notebook.cells)
    return shows and notebook.metadata.get("w2w") == _mark(notebook, profile)


def _mark(notebook: NotebookNode, profile: str) -> dict:
    return {"profile": profile, "code_md5": fingerprint(notebook)}


def _stale(path: Path, profile: str, stages: dict) -> str | None:
    notebook, listing = read(path), paths.shown(stripped(path))
    rerun = f"{_how_to_run(path, profile)}, then `make publish`"
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if not any(cell.outputs for cell in cells):
        return f"holds no outputs: {rerun}"
    if any(cell.execution_count for cell in cells):
        return "holds execution counts, so it was saved from Jupyter: `make publish` puts the published outputs back"
    if not _is_published(notebook, profile):
        return f"its code changed since its outputs were made: {rerun}"
    for name, stage in stages.items():
        recorded = {dep["path"]: dep.get("md5") for dep in stage.get("deps", [])}
        if listing in recorded and f"--profile {profile}" in stage["cmd"]:
            if recorded[listing] != fingerprint(notebook):
                return f"stage {name} last ran other code: {rerun}"
            changed = _changed_sources(name)
            return f"stage {name} is out of date ({', '.join(changed)}): {rerun}" if changed else None
    return f"no stage of profile {profile} in dvc.lock ran it: {rerun}"


def _changed_sources(stage: str) -> list[str]:
    # DVC compares; outputs and data are left out, as a fresh clone has none
    from dvc.repo import Repo

    with Repo(str(paths.ROOT)) as repo:
        entries = [entry for entry in repo.status([stage]).get(stage, []) if isinstance(entry, dict)]
    changed = [name for entry in entries for name in entry.get("changed deps", {})]
    return [
        name for name in changed if name.startswith(("w2w_lib", "params.yaml", paths.shown(paths.STRIPPED)))
    ]


def _how_to_run(path: Path, profile: str) -> str:
    return "run `make base`" if path.stem.startswith("00") else f"run `make reproduce PROFILE={profile}`"


def _with_outputs(notebook: NotebookNode, executed: NotebookNode) -> NotebookNode:
    ran = [cell for cell in executed.cells if cell.cell_type == "code" and cell.source.strip()]
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    for cell, source in zip(cells, ran, strict=True):
        cell.outputs = [kept for output in source.outputs if (kept := _presentable(output))]
    notebook.metadata.w2w = executed.metadata.w2w
    keys = ["metadata.widgets", "metadata.papermill", *(f"cell.metadata.{key}" for key in CELL_METADATA)]
    return strip_output(notebook, keep_output=True, keep_count=False, keep_id=True, extra_keys=keys)


def _presentable(output: NotebookNode) -> NotebookNode | None:
    if output.output_type == "stream":  # of a progress bar, only its last state
        lines = [line.rsplit("\r", 1)[-1] for line in output.text.replace("\r\n", "\n").split("\n")]
        output.text = "\n".join(lines)
        return output if output.text.strip() else None
    if WIDGET in output.get("data", {}):  # a widget needs a kernel; the static strip stays
        del output.data[WIDGET]
        return output if set(output.data) - {"text/plain"} else None
    return output


def _set_profile(notebook: NotebookNode, profile: str, path: Path) -> None:
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source, found = re.subn(r'\Aprofile = "[^"\n]*"', f'profile = "{profile}"', cell.source)
            if found:
                return
    raise ValueError(
        f'{paths.shown(path)} has no cell tagged `parameters` whose first line is `profile = "pocket"`'
    )


def _explain(error, failed: Path) -> str:
    """One line where the library refused an input; the whole traceback where something broke."""
    trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    frames = re.findall(r"^File (.+?):\d+|^Cell In", trace, flags=re.MULTILINE)
    refused = frames and frames[-1] and Path(frames[-1]).expanduser().is_relative_to(paths.PACKAGE)
    if not (refused and error.ename in ("ValueError", "FileNotFoundError")):
        print(error, file=sys.stderr)
    return f"{error.evalue} (in {paths.shown(failed)})"


def _note_cost(name: str, profile: str, seconds: float) -> str:
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    cost = {"seconds": round(seconds, 1), "peak_memory_bytes": peak}
    _write(paths.outputs(profile, "runtimes", f"{name}.json"), json.dumps(cost) + "\n")
    return f"{name}: {seconds // 60:.0f} min {seconds % 60:02.0f} s, peak memory {peak / 2**30:.1f} GiB"


def read(path: Path) -> NotebookNode:
    """A notebook from disk."""
    return nbformat.read(path, as_version=4)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
