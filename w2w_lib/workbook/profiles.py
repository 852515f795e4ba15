"""Which profiles take part in the pipeline: their base models, their people's files, and what DVC reads of both."""

import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from w2w_lib.files.atomic import write_if_changed, write_text
from w2w_lib.people.listing import list_files
from w2w_lib.workbook import paths, settings

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)  # owner/name
INDEX = "model_index.json"  # what makes a folder a pipeline's; whether it is a right one, `open_base` finds out


def base(profile: str) -> Path:
    """The folder of the base model that a profile personalises; FileNotFoundError where there is none."""
    settings.require(profile)
    folder = _base_folder(settings.written()[profile])
    if folder is None or not os.path.isfile(folder / INDEX):
        there = "" if folder is None else f" at {paths.shown(folder)}"
        raise FileNotFoundError(
            f"no base model for profile {profile!r}: expected a StableDiffusionPipeline folder{there}; "
            f"name one with `make reproduce PROFILE={profile} BASE=<folder or hub id>`"
        )
    return folder


def opening(profile: str) -> dict[str, Any]:
    """How ``open_base`` opens a profile's base; errors as in ``require_device``."""
    import torch

    require_device(profile)
    base = settings.load(profile).base
    return {"unet_dtype": base.dtype and getattr(torch, base.dtype), "variant": base.variant}


def require_device(profile: str) -> None:
    """ValueError for a profile that needs a GPU, on a machine without one."""
    import torch

    if settings.load(profile).base.needs_gpu and not torch.cuda.is_available():
        raise ValueError(
            f"profile {profile!r} needs a CUDA GPU, and PyTorch finds none here; on a CPU it takes days: to run it "
            "anyway, set base.needs_gpu to false for it in local.yaml"
        )


def enrol(profile: str, source: str | None = None) -> None:
    """Make sure that a profile has its base model, which makes it take part in the pipeline.

    ``source`` is a folder, or a hub id that is downloaded; the choice is kept in local.yaml.
    """
    settings.require(profile)
    if source:
        wished = {name: _at(settings.written()[profile], "base", name) for name in ("variant", "revision")}
        folder, fixed = _found(source, **wished), _base_folder(settings.published().get(profile))
        if fixed is None:
            _record(profile, folder)
        elif fixed.resolve() != folder:
            raise ValueError(
                f"profile {profile!r} runs on {paths.shown(fixed)}, as params.yaml says; give BASE={source!r} to a "
                f"profile without a base, such as sd15, or write it to local.yaml yourself"
            )
    base(profile)


def write_pipeline_files() -> list[Path]:
    """Bring what DVC reads of the settings up to date; return the files that changed.

    ``profiles.yaml`` has the profiles that take part, each with its base; ``settings.yaml`` the settings of all.
    """
    written = settings.written()
    profiles = {name: {"base": paths.shown(folder)} for name, folder in _taking_part(written)}
    files = {"profiles.yaml": {"profiles": profiles}, "settings.yaml": written}
    texts = {paths.PIPELINE / name: _dumped(values) for name, values in files.items()}
    return [path for path, text in texts.items() if write_if_changed(text, path)]


def sources() -> dict[str, str]:
    """What each profile's people are made of: "rendered", or every file of its own (name, bytes, time of change)."""
    written = settings.written()
    return {name: _listing(written[name]) for name, _ in _taking_part(written)}


def _listing(sections: Any) -> str:
    given = [_at(sections, "people", "sets", name) for name in ("source", "labels")]
    own = [paths.ROOT / paths.expanded(path) for path in given if isinstance(path, str)]
    return list_files(*own) if own else "rendered\n"


def _taking_part(written: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    return ((name, folder) for name, sections in written.items() if (folder := _base_folder(sections)))


def _base_folder(sections: Any) -> Path | None:
    model = _at(sections, "base", "model")
    return paths.ROOT / paths.expanded(model) if model and isinstance(model, str) else None


def _at(sections: Any, *names: str) -> Any:
    """A setting among settings that nobody has checked yet; None if there is none."""
    for name in names:
        sections = sections.get(name) if isinstance(sections, Mapping) else None
    return sections


def _dumped(values: Mapping) -> str:
    yaml, text = YAML(), io.StringIO()
    yaml.width = 10_000  # no line of settings is that long
    yaml.dump(values, text)
    return text.getvalue()


def _record(profile: str, folder: Path) -> None:
    """Write a profile's base into local.yaml, and leave all else there as it is, comments included."""
    text = paths.LOCAL.read_text(encoding="utf-8") if settings.local() else ""
    kept = YAML().load(text) if text else {}
    place = kept
    for name in (profile, "base"):
        if not isinstance(place.get(name), Mapping):
            place[name] = {}
        place = place[name]
    if place.get("model") != str(folder):
        place["model"] = str(folder)
        lines = [] if text or not paths.LOCAL.exists() else paths.LOCAL.read_text(encoding="utf-8").splitlines(True)
        comments = [line for line in lines if line.lstrip().startswith("#")]  # beside `{}` or `null`, which goes
        write_text("".join(comments) + _dumped(kept), paths.LOCAL)


def _found(source: str, variant: str | None, revision: str | None) -> Path:
    given = paths.expanded(source)
    if os.path.isfile(given):  # False for a name that no file can have
        raise ValueError(
            f"BASE={source!r} is a file, expected a folder: write it as one with "
            "`StableDiffusionPipeline.from_single_file(file).save_pretrained(folder)`"
        )
    folder = given.resolve() if os.path.isdir(given) else _download(source, variant, revision)
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(
            f"BASE={source!r} is no base model: expected a folder with the {INDEX} of a StableDiffusionPipeline"
        )
    if not str(folder).isprintable():
        raise ValueError(f"BASE={source!r}: expected a folder whose name can be written down; rename it")
    return folder


def _download(hub_id: str, variant: str | None, revision: str | None) -> Path:
    if not HUB_ID.fullmatch(hub_id):
        raise FileNotFoundError(f"BASE={hub_id!r}: no such folder; expected a folder, or a hub id (owner/name)")
    from w2w_lib.models.base import fetch_base

    return fetch_base(hub_id, variant, revision)
