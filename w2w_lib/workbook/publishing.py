"""Executed notebooks become what a reader of the repository's page sees: outputs, numbers, and what they come from."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbstripout import strip_output

from w2w_lib.files.atomic import replacing, write_text
from w2w_lib.inputs import some
from w2w_lib.training.provenance import training_code
from w2w_lib.workbook import paths, settings
from w2w_lib.workbook.page import (
    PROVENANCE,
    WITHDRAWN,
    folder,
    how_to_run,
    is_intact,
    is_withdrawn,
    metrics_of,
    outputs_md5,
    published_settings,
    ran_in,
    read_json,
    records_of,
)
from w2w_lib.workbook.presentation import cover, show_outputs
from w2w_lib.workbook.provenance import dependencies, differences, locked, md5, sources, stage_of
from w2w_lib.workbook.runner import code, notebooks, read

BETWEEN = ("people", "weights", "space", "directions", "inversions")  # what stages hand to each other
LARGE = 3_000_000  # bytes; a page of the repository with more than this renders slowly

Recorded = Mapping[str, tuple[dict[str, str], dict[str, str]]]  # by stage, md5 of what it read and made


def publish(profile: str) -> list[tuple[Path, int]]:
    """Put the outputs of a profile's executed notebooks under the present cells; return sizes in bytes.

    Prose is taken as it stands now; the code must be the code that ran, on the present library, data and settings.
    Beside them go the metrics, the record of what all that comes from, and the base's model card. All, or nothing.
    """
    executed = _executed(profile, notebooks())
    recorded = _permitted(profile, executed)
    written = [(path, path, ran) for path, ran in executed.items() if ran]
    for _, _, ran in written:
        if picture := cover(ran):
            with replacing(_in_folder(paths.HERO)) as partial:
                partial.write_bytes(picture)
    _write(profile, written, recorded)
    _publish_card(profile)
    return [(path, path.stat().st_size) for path, _, _ in written]


def keep_beside(profile: str, names: Collection[str]) -> list[tuple[Path, int]]:
    """Put executed notebooks of a profile (by file stem), their metrics and their record into ``published/<profile>``;
    return sizes in bytes.

    For runs that are too long to be repeated whenever a module changes: the page stays another profile's, and
    ``check`` does not ask whether these are current. The record says what they come from. ValueError for what
    ``publish`` refuses, and for a notebook that is not there or was not executed.
    """
    executed = _executed(profile, [_known(name) for name in names])
    if lacking := [path.stem for path, ran in executed.items() if ran is None]:
        raise ValueError(f"nothing kept: {some(lacking)} was not executed in profile {profile!r}")
    recorded = _permitted(profile, executed)
    written = [(path, _in_folder(folder(profile) / "notebooks" / path.name), ran) for path, ran in executed.items()]
    _write(profile, written, recorded)
    return [(target, target.stat().st_size) for _, target, _ in written]


def _executed(profile: str, chosen: Collection[Path]) -> dict[Path, NotebookNode | None]:
    """The executed copies of notebooks, None where there is none."""
    copies = {path: paths.outputs(profile, "notebooks", path.name) for path in chosen}
    return {path: read(copy) if copy.exists() else None for path, copy in copies.items()}


def _permitted(profile: str, executed: Mapping[Path, NotebookNode | None]) -> Recorded:
    """What DVC recorded of the stages; ValueError if one of the notebooks cannot be published."""
    sections, recorded = published_settings(profile), locked(profile)
    found = {path: _refusal(path, ran, profile, sections, recorded) for path, ran in executed.items()}
    if problems := [f"{paths.shown(path)}: {why}" for path, why in found.items() if why]:
        raise ValueError("nothing published:\n  " + "\n  ".join(problems))
    return recorded


def _write(profile: str, written: Collection[tuple[Path, Path, NotebookNode]], recorded: Recorded) -> None:
    """For each notebook, where it goes and its executed copy: outputs, metrics, and a record of what they come from."""
    records = records_of(profile)
    for path, target, executed in written:
        notebook, stage = read(path), stage_of(path)
        show_outputs(notebook, executed)
        mark = {name: executed.metadata.w2w[name] for name in ("profile", "code_md5")}
        notebook.metadata.w2w = mark | {"outputs_md5": outputs_md5(notebook)}
        write_text(nbformat.writes(notebook, version=4) + "\n", target)
        metrics = paths.metrics(profile, stage).read_text(encoding="utf-8")
        write_text(metrics, metrics_of(profile, stage))
        records[path.stem] = _record(path, executed, profile, *recorded.get(stage, ({}, {})))
    write_text(json.dumps(records, indent=1, sort_keys=True) + "\n", folder(profile) / PROVENANCE)


def withdraw(profile: str, names: Collection[str]) -> None:
    """Take outputs, metrics and records of notebooks (by file stem) off the page, until they are published again.

    For results of former sources, where running the notebooks again has to wait. ``check`` lets pass what claims
    nothing. ValueError for a notebook that is not there.
    """
    records, found = records_of(profile), [_known(name) for name in names]
    for path in found:
        notebook = read(path)
        notebook.metadata.pop("w2w", None)
        stripped = strip_output(notebook, keep_output=False, keep_count=False, keep_id=True)
        write_text(nbformat.writes(stripped, version=4) + "\n", path)
        metrics_of(profile, stage_of(path)).unlink(missing_ok=True)
        records[path.stem] = WITHDRAWN
    write_text(json.dumps(records, indent=1, sort_keys=True) + "\n", folder(profile) / PROVENANCE)


def _known(name: str) -> Path:
    """A notebook by its file stem."""
    found = {path.stem: path for path in notebooks()}
    if name not in found:
        raise ValueError(f"{name}: no notebook of {paths.shown(paths.NOTEBOOKS)}; expected one of {', '.join(found)}")
    return found[name]


def _refusal(path: Path, executed: NotebookNode | None, profile: str, sections: dict, recorded: dict) -> str | None:
    """Why the executed copy of a notebook cannot be published."""
    notebook, stage, rerun = read(path), stage_of(path), how_to_run(path, profile)
    if executed is None:  # a fresh clone has published outputs and no executed copy
        kept = is_intact(notebook, profile) or is_withdrawn(path, notebook, profile, records_of(profile))
        return None if kept else f"was not executed: {rerun}"
    if not ran_in(executed, notebook, profile):
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
    found = {header.parent.name: read_json(header, "see what damaged it") for header in headers}
    return {name: {key: header.get(key) for key in ("code", "made_with")} for name, header in found.items()}


def _publish_card(profile: str) -> None:
    """The model card that notebook 00 wrote goes to the base that it describes."""
    training = settings.load(profile).base.training
    card = paths.outputs(profile, "base", "README.md")
    if training and card.is_file() and card.parent != paths.ROOT / training.out:
        write_text(card.read_text(encoding="utf-8"), paths.ROOT / training.out / "README.md")


def _in_folder(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
