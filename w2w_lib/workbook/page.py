"""What a reader of the repository's page sees: where it lies, and the proof that it is current."""

import hashlib
import json
from pathlib import Path

from nbformat import NotebookNode

from w2w_lib.files.regular import regular_file
from w2w_lib.inputs import some
from w2w_lib.workbook import paths, settings
from w2w_lib.workbook.provenance import differences, md5, sources, stage_of
from w2w_lib.workbook.runner import code, code_cells, fingerprint, notebooks, read

PROVENANCE = "provenance.json"
WITHDRAWN = {"withdrawn": True}  # in place of the record of a run


def check(profile: str) -> list[str]:
    """Why the outputs in `notebooks/` are not those of the present sources; empty when they are."""
    sections, records = published_settings(profile), records_of(profile)
    found = [_stale(path, profile, sections, records) for path in notebooks()]
    gone = sorted(records.keys() - {path.stem for path in notebooks()})
    return [f"{paths.shown(path)}: {why}" for path, why in zip(notebooks(), found, strict=True) if why] + [
        f"{paths.shown(paths.NOTEBOOKS / name)}.ipynb: was published and is gone: `git restore` it" for name in gone
    ]


def folder(profile: str) -> Path:
    """Where the numbers of a profile's published notebooks lie, and what they come from."""
    return paths.PUBLISHED / paths.profile_name(profile)


def records_of(profile: str) -> dict:
    """By notebook, what its published outputs come from."""
    path = folder(profile) / PROVENANCE
    return read_json(path, "`git restore` it, or `make publish`") if path.exists() else {}


def metrics_of(profile: str, stage: str) -> Path:
    """Where a stage's published numbers lie."""
    return folder(profile) / "metrics" / f"{stage}.json"


def published_settings(profile: str) -> dict:
    """A profile's settings as everybody has them, without local.yaml; but for its base, where it is given there."""
    if settings.require(profile) in (found := settings.published()):
        given = {} if found[profile]["base"].get("model") else {"base": settings.written()[profile]["base"]}
        return found[profile] | given
    raise ValueError(f"profile {profile!r} is described in local.yaml alone: expected one of {', '.join(found)}")


def _stale(path: Path, profile: str, sections: dict, records: dict) -> str | None:
    notebook, rerun = read(path), f"{how_to_run(path, profile)}, then `make publish`"
    if is_withdrawn(path, notebook, profile, records):
        return None
    if not any(cell.outputs for cell in code_cells(notebook)):
        return f"holds no outputs: {rerun}"
    if not ran_in(notebook, notebook, profile):
        return f"its code is not the code that made its outputs: {rerun}"
    if not is_intact(notebook, profile):
        return "was saved from Jupyter with other outputs: run `make publish` (or git restore it)"
    if records.get(path.stem, WITHDRAWN) == WITHDRAWN:
        return f"{paths.shown(folder(profile) / PROVENANCE)} does not say what its outputs come from: {rerun}"
    record, stage = records[path.stem], stage_of(path)
    if record["code"] != fingerprint(notebook):
        return f"{paths.shown(folder(profile) / PROVENANCE)} is of other code: {rerun}"
    if changed := differences(record["sources"], sources(stage, code(notebook), profile, sections)):
        return f"its outputs are of another {some(changed, 3)}: {rerun}"
    if not metrics_of(profile, stage).is_file() or md5(metrics_of(profile, stage)) != record["metrics"]:
        return (
            f"{paths.shown(metrics_of(profile, stage))} is not what it measured: run `make publish` (or git restore it)"
        )
    made = {name: value for other in records.values() for name, value in other.get("made", {}).items()}
    if other := [name for name, value in record["read"].items() if made.get(name) != value]:
        return f"its outputs come from another {some(other, 3)} than what is published of it: {rerun}"
    return None


def is_withdrawn(path: Path, notebook: NotebookNode, profile: str, records: dict) -> bool:
    """Whether a notebook was withdrawn and claims nothing: no outputs and no numbers."""
    shown = any(cell.outputs for cell in code_cells(notebook))
    return records.get(path.stem) == WITHDRAWN and not shown and not metrics_of(profile, stage_of(path)).exists()


def ran_in(executed: NotebookNode, notebook: NotebookNode, profile: str) -> bool:
    """Whether an executed copy is of this profile and of the notebook's code."""
    mark = executed.metadata.get("w2w", {})
    return (mark.get("profile"), mark.get("code_md5")) == (profile, fingerprint(notebook))


def is_intact(notebook: NotebookNode, profile: str) -> bool:
    """Whether a notebook's outputs are those that were published under its code."""
    mark = notebook.metadata.get("w2w", {})
    return ran_in(notebook, notebook, profile) and mark.get("outputs_md5") == outputs_md5(notebook)


def outputs_md5(notebook: NotebookNode) -> str:
    """MD5 of all that a notebook shows below its code."""
    shown = [[cell.execution_count, cell.outputs] for cell in code_cells(notebook)]
    return hashlib.md5(json.dumps(shown, sort_keys=True).encode()).hexdigest()


def how_to_run(path: Path, profile: str) -> str:
    """The command that executes a notebook."""
    return "run `make base`" if path.stem.startswith("00") else f"run `make reproduce PROFILE={profile}`"


def read_json(path: Path, remedy: str) -> dict:
    """A JSON object from disk; ValueError of one line for a file that is none."""
    regular_file(path, "JSON", remedy)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{paths.shown(path)}: is no JSON; {remedy}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{paths.shown(path)}: holds a {type(found).__name__}, not a JSON object; {remedy}")
    return found
