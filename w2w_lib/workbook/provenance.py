"""What decides a notebook's outputs besides its own code: library, data, settings, and what earlier stages made."""

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from w2w_lib.workbook import modules, paths
from w2w_lib.workbook.yaml_files import read_mapping

DVC_FILE = "a pipeline of DVC"
SHIPPED = ("data", "benchmarks")  # the other files that a stage depends on are made by the pipeline itself
LIBRARIES = ("torch", "diffusers", "transformers", "numpy")
SKIPPED = "README.md"  # as .dvcignore: a model card holds times


def stage_of(notebook: Path) -> str:
    """The stage of a notebook: `03_space.ipynb` is of `space`."""
    return notebook.stem.partition("_")[2]


def dependencies(stage: str, profile: str, base: str | None = None) -> list[str] | None:
    """What dvc.yaml says that a stage depends on, by path, on this base; None if the profile has no such stage."""
    written = read_mapping(paths.DVC_YAML, DVC_FILE, "`git restore dvc.yaml`")
    try:
        found = written["stages"].get(stage)
        if found is None or (isinstance(found["foreach"], list) and profile not in found["foreach"]):
            return None
        values = {"${item.base}": str(base), "${key}": profile, "${item}": profile}
        return [re.sub(r"\$\{[a-z.]+\}", lambda name: values[name[0]], dep) for dep in found["do"]["deps"]]
    except (LookupError, TypeError, AttributeError):
        raise ValueError(f"{paths.DVC_YAML}: stage {stage!r} is not as we write it; `git restore dvc.yaml`") from None


def sources(stage: str, code: str, profile: str, sections: Mapping[str, Any]) -> dict[str, str]:
    """MD5 of all that a stage's outputs come from beside its notebook's ``code``, by name.

    These are the library's modules that the code reaches, shipped data, and the profile's settings of the stage. A
    stage that is not in the profile's pipeline is the base, which ships: it depends on the model and the classifier
    themselves and not on the code that once trained them, and on the benchmark that it shows. ``sections`` are the
    profile's settings, as written.
    """
    model = sections["base"].get("model")
    listed = dependencies(stage, profile, model)
    found = {} if listed is None else modules.hashes(code)
    if listed is None:
        training = sections["base"].get("training")
        if stage != "base" or not training:
            raise ValueError(
                f"profile {profile!r} has no stage {stage!r}: expected one of dvc.yaml, or a base.training"
            )
        listed = [training["out"], training["classifier"]["file"], paths.shown(paths.ENCODERS)]
    listed = [name for name in listed if name == model or Path(name).parts[0] in SHIPPED]
    found |= {paths.shown(file): md5(file) for file in _files(paths.ROOT / name for name in listed)}
    written = json.dumps(sections.get(stage), sort_keys=True, default=str)
    return found | {f"{paths.PARAMS.name}: {profile}.{stage}": hashlib.md5(written.encode()).hexdigest()}


def differences(recorded: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """The names under which two records have different hashes, or which one of them does not have."""
    return sorted(name for name in recorded.keys() | present.keys() if recorded.get(name) != present.get(name))


def locked(profile: str) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """MD5 of what each stage of a profile read and made, by path, as DVC recorded its last run."""
    lock = paths.DVC_LOCK
    stages = read_mapping(lock, "the record of DVC", "remove it").get("stages", {}) if lock.exists() else {}
    try:
        return {
            name.removesuffix(f"@{profile}"): (_hashes(entry, "deps"), _hashes(entry, "outs"))
            for name, entry in stages.items()
            if name.endswith(f"@{profile}")
        }
    except (LookupError, TypeError, AttributeError):
        raise ValueError(f"{lock}: is no record of DVC; remove it, and run `make reproduce`") from None


def md5(file: Path) -> str:
    """MD5 of a file, as DVC computes it."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()


def versions() -> dict[str, str]:
    """What outputs were made with, for information."""
    made_with = {name: version(name) for name in LIBRARIES}
    return made_with | {"python": platform.python_version(), "machine": platform.platform()}


def _hashes(entry: Mapping[str, Any], kind: str) -> dict[str, str]:
    return {one["path"]: one["md5"] for one in entry.get(kind, [])}


def _files(given: Iterable[Path]) -> Iterator[Path]:
    for path in given:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in inside if file.is_file() and file.name != SKIPPED)
