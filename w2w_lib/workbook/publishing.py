"""The outputs a reader of the repository's page sees: put under the notebooks, and proved to be current."""

import base64
import hashlib
import json
from collections.abc import Collection
from pathlib import Path

import nbformat
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from nbstripout import strip_output

from w2w_lib.files.atomic import replacing, write_text
from w2w_lib.files.regular import regular_file
from w2w_lib.inputs import some
from w2w_lib.training.provenance import training_code
from w2w_lib.workbook import paths, settings
from w2w_lib.workbook.provenance import dependencies, differences, locked, md5, sources, stage_of
from w2w_lib.workbook.runner import code, code_cells, fingerprint, notebooks, read

PROVENANCE = "provenance.json"
WITHDRAWN = {"withdrawn": True}  # in place of the record of a run
BETWEEN = ("people", "weights", "space", "directions", "inversions")  # what stages hand to each other
LARGE = 3_000_000  # bytes; a page of the repository with more than this renders slowly
VOLATILE = ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled")  # cell metadata
BAR = "%|"  # what every line of tqdm has; it ends in "]" unless something was written behind it
WIDGET = "application/vnd.jupyter.widget-view+json"


def folder(profile: str) -> Path:
    """Where the numbers of a profile's published notebooks lie, and what they come from."""
    return paths.PUBLISHED / paths.profile_name(profile)


def publish(profile: str) -> list[tuple[Path, int]]:
    """Put the outputs of a profile's executed notebooks under the present cells; return sizes in bytes.

    Prose is taken as it stands now; the code must be the code that ran, on the present library, data and settings.
    Beside them go the metrics, the record of what all that comes from, and the base's model card. All, or nothing.
    """
    ran = {path: paths.outputs(profile, "notebooks", path.name) for path in notebooks()}
    ran = {path: read(executed) for path, executed in ran.items() if executed.exists()}
    sections, recorded = _sections(profile), locked(profile)
    found = [_refusal(path, ran.get(path), profile, sections, recorded) for path in notebooks()]
    if problems := [f"{paths.shown(path)}: {why}" for path, why in zip(notebooks(), found, strict=True) if why]:
        raise ValueError("nothing published:\n  " + "\n  ".join(problems))
    records = _records(profile)
    for path, executed in ran.items():
        notebook, stage = _with_outputs(read(path), executed), stage_of(path)
        if picture := _hero(notebook):
            with replacing(_in_folder(paths.HERO)) as partial:
                partial.write_bytes(picture)
        write_text(nbformat.writes(notebook, version=4) + "\n", path)
        metrics = paths.metrics(profile, stage).read_text(encoding="utf-8")
        write_text(metrics, _metrics(profile, stage))
        records[path.stem] = _record(path, executed, profile, *recorded.get(stage, ({}, {})))
    write_text(json.dumps(records, indent=1, sort_keys=True) + "\n", folder(profile) / PROVENANCE)
    _publish_card(profile)
    return [(path, path.stat().st_size) for path in ran]


def check(profile: str) -> list[str]:
    """Why the outputs in `notebooks/` are not those of the present sources; empty when they are."""
    sections, records = _sections(profile), _records(profile)
    found = [_stale(path, profile, sections, records) for path in notebooks()]
    gone = sorted(records.keys() - {path.stem for path in notebooks()})
    return [f"{paths.shown(path)}: {why}" for path, why in zip(notebooks(), found, strict=True) if why] + [
        f"{paths.shown(paths.NOTEBOOKS / name)}.ipynb: was published and is gone: `git restore` it" for name in gone
    ]


def withdraw(profile: str, names: Collection[str]) -> None:
    """Take outputs, metrics and records of notebooks (by file stem) off the page, until they are published again.

    For results of former sources, where running the notebooks again has to wait. ``check`` lets pass what claims
    nothing. ValueError for a notebook that is not there.
    """
    found, records = {path.stem: path for path in notebooks()}, _records(profile)
    if unknown := sorted(set(names) - found.keys()):
        raise ValueError(f"{some(unknown)}: no notebook of {paths.shown(paths.NOTEBOOKS)}; expected {some(found)}")
    for name in names:
        notebook = read(found[name])
        notebook.metadata.pop("w2w", None)
        stripped = strip_output(notebook, keep_output=False, keep_count=False, keep_id=True)
        write_text(nbformat.writes(stripped, version=4) + "\n", found[name])
        _metrics(profile, stage_of(found[name])).unlink(missing_ok=True)
        records[name] = WITHDRAWN
    write_text(json.dumps(records, indent=1, sort_keys=True) + "\n", folder(profile) / PROVENANCE)


def _withdrawn(path: Path, notebook: NotebookNode, profile: str, records: dict) -> bool:
    """Whether a notebook was withdrawn and claims nothing: no outputs and no numbers."""
    shown = any(cell.outputs for cell in code_cells(notebook))
    return records.get(path.stem) == WITHDRAWN and not shown and not _metrics(profile, stage_of(path)).exists()


def _sections(profile: str) -> dict:
    """A profile's settings as everybody has them, without local.yaml."""
    if settings.require(profile) in (found := settings.published()):
        return found[profile]
    raise ValueError(f"profile {profile!r} is described in local.yaml alone: expected one of {', '.join(found)}")


def _refusal(path: Path, executed: NotebookNode | None, profile: str, sections: dict, recorded: dict) -> str | None:
    """Why the executed copy of a notebook cannot be published."""
    notebook, stage, rerun = read(path), stage_of(path), _how_to_run(path, profile)
    if executed is None:  # a fresh clone has published outputs and no executed copy
        kept = _intact(notebook, profile) or _withdrawn(path, notebook, profile, _records(profile))
        return None if kept else f"was not executed: {rerun}"
    if not _ran(executed, notebook, profile):
        return f"its executed copy ran other code: {rerun}"
    if changed := differences(
        executed.metadata.w2w.get("sources", {}), sources(stage, code(notebook), profile, sections)
    ):
        return f"its executed copy is of another {some(changed, 3)} (params.yaml without local.yaml): {rerun}"
    metrics = paths.metrics(profile, stage)
    if not metrics.is_file():
        return f"has no {paths.shown(metrics)}: {rerun}"
    if dependencies(stage, profile) is not None:
        _, made = recorded.get(stage, ({}, {}))
        files = [paths.outputs(profile, "notebooks", path.name), metrics]
        if by_hand := [paths.shown(file) for file in files if made.get(paths.shown(file)) != md5(file)]:
            return f"{some(by_hand)} is not what the pipeline made: {rerun}"
    weights = f"outputs/{profile}/weights"
    if weights in recorded.get(stage, ({}, {}))[1]:
        if others := sorted(name for name, header in _training(profile).items() if header["code"] != training_code()):
            again = f"`rm -r {weights}`, `uv run dvc repro --force {stage}@{profile}`"
            return (
                f"weights of {some(others)} were trained by other code than the present: {again}, then `make publish`"
            )
    return None


def _stale(path: Path, profile: str, sections: dict, records: dict) -> str | None:
    notebook, rerun = read(path), f"{_how_to_run(path, profile)}, then `make publish`"
    if _withdrawn(path, notebook, profile, records):
        return None
    if not any(cell.outputs for cell in code_cells(notebook)):
        return f"holds no outputs: {rerun}"
    if not _ran(notebook, notebook, profile):
        return f"its code is not the code that made its outputs: {rerun}"
    if not _intact(notebook, profile):
        return "was saved from Jupyter with other outputs: run `make publish` (or git restore it)"
    if records.get(path.stem, WITHDRAWN) == WITHDRAWN:
        return f"{paths.shown(folder(profile) / PROVENANCE)} does not say what its outputs come from: {rerun}"
    record, stage = records[path.stem], stage_of(path)
    if record["code"] != fingerprint(notebook):
        return f"{paths.shown(folder(profile) / PROVENANCE)} is of other code: {rerun}"
    if changed := differences(record["sources"], sources(stage, code(notebook), profile, sections)):
        return f"its outputs are of another {some(changed, 3)}: {rerun}"
    if not _metrics(profile, stage).is_file() or md5(_metrics(profile, stage)) != record["metrics"]:
        return (
            f"{paths.shown(_metrics(profile, stage))} is not what it measured: run `make publish` (or git restore it)"
        )
    made = {name: value for other in records.values() for name, value in other.get("made", {}).items()}
    if other := [name for name, value in record["read"].items() if made.get(name) != value]:
        return f"its outputs come from another {some(other, 3)} than what is published of it: {rerun}"
    return None


def _record(path: Path, executed: NotebookNode, profile: str, used: dict[str, str], made: dict[str, str]) -> dict:
    """What a notebook's outputs come from: hashes, and for information when and with what it ran."""
    stage, mark = stage_of(path), executed.metadata.w2w
    between = [f"outputs/{profile}/{name}" for name in BETWEEN]
    return {
        "code": mark["code_md5"],
        "sources": mark["sources"],
        "read": {name: value for name, value in used.items() if name in between},
        "made": {name: value for name, value in made.items() if name in between},
        "metrics": md5(paths.metrics(profile, stage)),
        "training": _training(profile) if f"outputs/{profile}/weights" in made else {},
        "ran": mark["ran"],
    }


def _training(profile: str) -> dict[str, dict]:
    """Of each dataset of weights, what its header says of the code that trained it."""
    headers = sorted(paths.outputs(profile, "weights").glob("*/header.json"))
    found = {header.parent.name: _read_json(header, "see what damaged it") for header in headers}
    return {name: {key: header.get(key) for key in ("code", "made_with")} for name, header in found.items()}


def _publish_card(profile: str) -> None:
    """The model card that notebook 00 wrote goes to the base that it describes."""
    training = settings.load(profile).base.training
    card = paths.outputs(profile, "base", "README.md")
    if training and card.is_file() and card.parent != paths.ROOT / training.out:
        write_text(card.read_text(encoding="utf-8"), paths.ROOT / training.out / "README.md")


def _records(profile: str) -> dict:
    path = folder(profile) / PROVENANCE
    return _read_json(path, "`git restore` it, or `make publish`") if path.exists() else {}


def _read_json(path: Path, remedy: str) -> dict:
    regular_file(path, "JSON", remedy)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise ValueError(f"{paths.shown(path)}: is no JSON; {remedy}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{paths.shown(path)}: holds a {type(found).__name__}, not a JSON object; {remedy}")
    return found


def _metrics(profile: str, stage: str) -> Path:
    return folder(profile) / "metrics" / f"{stage}.json"


def _in_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


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


def _how_to_run(path: Path, profile: str) -> str:
    return "run `make base`" if path.stem.startswith("00") else f"run `make reproduce PROFILE={profile}`"


def _with_outputs(notebook: NotebookNode, executed: NotebookNode) -> NotebookNode:
    for cell, ran in zip(code_cells(notebook), code_cells(executed), strict=True):
        CoalesceStreamsPreprocessor().preprocess_cell(ran, {}, 0)  # of a progress bar only its last state
        cell.outputs = [kept for output in ran.outputs if (kept := _presentable(output))]
    keys = ["metadata.widgets", "metadata.papermill", *(f"cell.metadata.{key}" for key in VOLATILE)]
    strip_output(notebook, keep_output=True, keep_count=False, keep_id=True, extra_keys=keys)
    mark = {name: executed.metadata.w2w[name] for name in ("profile", "code_md5") if name in executed.metadata.w2w}
    notebook.metadata.w2w = mark | {"outputs_md5": _outputs_md5(notebook)}
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
