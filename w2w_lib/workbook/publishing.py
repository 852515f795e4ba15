"""The outputs a reader of the repository's page sees: put under the notebooks, and proved to be current."""

import base64
import hashlib
import json
from pathlib import Path

import nbformat
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from nbstripout import strip_output
from ruamel.yaml import YAML

from w2w_lib.files.atomic import write_text
from w2w_lib.workbook import paths
from w2w_lib.workbook.runner import code_cells, fingerprint, listing, notebooks, read, strip

LARGE = 3_000_000  # bytes; a page of the repository with more than this renders slowly
VOLATILE = ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled")  # cell metadata
BAR = "%|"  # what every line of tqdm has; it ends in "]" unless something was written behind it
WIDGET = "application/vnd.jupyter.widget-view+json"


def publish(profile: str) -> list[tuple[Path, int]]:
    """Put the outputs of a profile's executed notebooks under the present cells; return sizes in bytes.

    Prose is taken as it stands now; the code must be the code that ran. All are written, or none.
    """
    published, problems = {}, []
    for path in notebooks():
        notebook, executed = read(path), paths.outputs(profile, "notebooks", path.name)
        if executed.exists() and _ran(read(executed), notebook, profile):
            published[path] = _with_outputs(notebook, read(executed))
        elif executed.exists():
            problems.append(f"{paths.shown(executed)} ran other code: {_how_to_run(path, profile)}")
        elif not _intact(notebook, profile):  # a fresh clone has published outputs and no executed copy
            problems.append(f"{paths.shown(executed)} does not exist: {_how_to_run(path, profile)}")
    if problems:
        raise ValueError("nothing published:\n  " + "\n  ".join(problems))
    for path, notebook in published.items():
        write_text(nbformat.writes(notebook, version=4) + "\n", path)
        if picture := _hero(notebook):
            paths.HERO.parent.mkdir(exist_ok=True)
            paths.HERO.write_bytes(picture)
    return [(path, path.stat().st_size) for path in published]


def check(profile: str) -> list[str]:
    """Why the outputs in `notebooks/` are not those of the present sources; empty when they are."""
    strip()
    lock = paths.ROOT / "dvc.lock"
    stages = YAML(typ="safe").load(lock)["stages"] if lock.exists() else {}
    found = [_stale(path, profile, stages) for path in notebooks()]
    return [f"{paths.shown(path)}: {why}" for path, why in zip(notebooks(), found, strict=True) if why]


def _stale(path: Path, profile: str, stages: dict) -> str | None:
    notebook, rerun = read(path), f"{_how_to_run(path, profile)}, then `make publish`"
    if not any(cell.outputs for cell in code_cells(notebook)):
        return f"holds no outputs: {rerun}"
    if not _ran(notebook, notebook, profile):
        return f"its code is not the code that made its outputs: {rerun}"
    if not _intact(notebook, profile):
        return "was saved from Jupyter with other outputs: run `make publish` (or git restore it)"
    for name, stage in stages.items():
        recorded = {dep["path"]: dep["md5"] for dep in stage.get("deps", [])}
        if stage["cmd"].split()[-1] == profile and paths.shown(listing(path)) in recorded:
            if recorded[paths.shown(listing(path))] != fingerprint(notebook):
                return f"stage {name} last ran other code: {rerun}"
            changed = _changed_sources(name)
            return f"stage {name} is out of date ({', '.join(changed)}): {rerun}" if changed else None
    return f"no stage of profile {profile} in dvc.lock ran it: {rerun}"


def _hero(notebook: NotebookNode) -> bytes | None:
    """The picture of the cell tagged ``cover``, which opens the README."""
    heroes = (cell for cell in code_cells(notebook) if "cover" in cell.metadata.get("tags", []))
    pictures = (o.data["image/png"] for cell in heroes for o in cell.outputs if "image/png" in o.get("data", {}))
    return next((base64.b64decode(picture) for picture in pictures), None)


def _ran(executed: NotebookNode, notebook: NotebookNode, profile: str) -> bool:
    mark = executed.metadata.get("w2w", {})
    return (mark.get("profile"), mark.get("code_md5")) == (profile, fingerprint(notebook))


def _intact(notebook: NotebookNode, profile: str) -> bool:
    mark = notebook.metadata.get("w2w", {})
    return _ran(notebook, notebook, profile) and mark.get("outputs_md5") == _outputs_md5(notebook)


def _outputs_md5(notebook: NotebookNode) -> str:
    shown = [[cell.execution_count, cell.outputs] for cell in code_cells(notebook)]
    return hashlib.md5(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def _changed_sources(stage: str) -> list[str]:
    # DVC compares. Data and outputs do not count: a fresh clone has none. Nor does a frozen stage's source:
    # the base model is what its notebook shows, also after the library moved on.
    from dvc.repo import Repo

    with Repo(str(paths.ROOT)) as repo:
        entries = [entry for entry in repo.status([stage]).get(stage, []) if isinstance(entry, dict)]
    changed = [name for entry in entries for name in entry.get("changed deps", {})]
    return [name for name in changed if name.startswith(("w2w_lib", paths.PARAMS.name))]


def _how_to_run(path: Path, profile: str) -> str:
    return "run `make base`" if path.stem.startswith("00") else f"run `make reproduce PROFILE={profile}`"


def _with_outputs(notebook: NotebookNode, executed: NotebookNode) -> NotebookNode:
    for cell, ran in zip(code_cells(notebook), code_cells(executed), strict=True):
        CoalesceStreamsPreprocessor().preprocess_cell(ran, {}, 0)  # of a progress bar only its last state
        cell.outputs = [kept for output in ran.outputs if (kept := _presentable(output))]
    keys = ["metadata.widgets", "metadata.papermill", *(f"cell.metadata.{key}" for key in VOLATILE)]
    strip_output(notebook, keep_output=True, keep_count=False, keep_id=True, extra_keys=keys)
    notebook.metadata.w2w = executed.metadata.w2w | {"outputs_md5": _outputs_md5(notebook)}
    return notebook


def _presentable(output: NotebookNode) -> NotebookNode | None:
    if output.output_type == "stream":
        if output.name == "stderr":  # a library's warnings, with the paths of one machine, tell a reader nothing
            lines = (line.strip() for line in output.text.split("\n"))
            output.text = "\n".join(line for line in lines if BAR in line and line.endswith("]"))
        return output if output.text.strip() else None
    if WIDGET in output.get("data", {}):  # a widget needs a kernel; the static strip beside it stays
        del output.data[WIDGET]
        return output if set(output.data) - {"text/plain"} else None
    return output
