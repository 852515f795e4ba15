"""Which profiles take part in the pipeline: their bases, people's files and releases, and what DVC reads of these."""

import io
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from w2w_lib.files.atomic import write_if_changed, write_text
from w2w_lib.inputs import a_path
from w2w_lib.people.listing import list_files
from w2w_lib.workbook import paths, settings

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)  # owner/name
SYNTHETIC = ("release", "synthetic")
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


def release(profile: str) -> str:
    """The authors' release that a profile opens, an absolute folder or a hub id; ValueError where it names none."""
    settings.require(profile)
    named = _at(settings.written()[profile], "release", "source")
    if not isinstance(named, str):
        raise ValueError(_without_release(profile))
    folder = paths.ROOT / a_path(named, "a release")
    return str(folder) if os.path.isdir(folder) else named


def opening(profile: str) -> dict[str, Any]:
    """How ``open_base`` opens a profile's base; errors as in ``require_device``."""
    import torch

    require_device(profile)
    base = settings.load(profile).base
    return {"unet_dtype": base.dtype and getattr(torch, base.dtype), "variant": base.variant}


def require_judges(profile: str) -> None:
    """FileNotFoundError, before hours of a run, where the judges of faces and texts have no weights on this machine."""
    if not (settled := settings.load(profile)).has("judge"):
        return
    from w2w_lib.evaluation.face_embedders import load_facenet
    from w2w_lib.evaluation.text_score import ClipScorer

    if settled.judge.face_embedder == "facenet":
        load_facenet(settled.judge.face_weights)
    if settled.judge.clip:
        ClipScorer.load(settled.judge.clip)


def require_device(profile: str) -> None:
    """ValueError for a profile that needs a GPU, on a machine without one."""
    import torch

    if settings.load(profile).base.needs_gpu and not torch.cuda.is_available():
        raise ValueError(
            f"profile {profile!r} needs a CUDA GPU, and PyTorch finds none here; on a CPU it takes days: to run it "
            "anyway, set base.needs_gpu to false for it in local.yaml"
        )


def check_given(profile: str, stages: Collection[str] = paths.STAGES) -> None:
    """ValueError where these stages lack what a user has to name: a folder of people, or the authors' release."""
    sections = settings.written()[profile]
    if set(stages) - {"base", "release"} and _lacks_people(sections):
        raise ValueError(
            f"profile {profile!r} has no people yet: name their folder as people.sets.source of {profile} in local.yaml"
        )
    if "release" in stages and _lacks_release(sections):
        raise ValueError(_without_release(profile))


def enrol(profile: str, source: str | None = None, release: str | None = None) -> None:
    """Make sure that a profile has its base model, and its release, which makes it take part in the pipeline.

    ``source`` is the base's folder, or a hub id that is downloaded; ``release`` the folder of the authors' release, or
    its hub id; the choices are kept in local.yaml.
    """
    settings.require(profile)
    named = _found_release(profile, release) if release else None
    check_given(profile, [stage for stage in paths.STAGES if not (named and stage == "release")])
    if source:
        wished = {name: _at(settings.written()[profile], "base", name) for name in ("variant", "revision")}
        folder, fixed = _found(source, **wished), _base_folder(settings.published().get(profile))
        if fixed is None:
            _record(profile, "base", "model", str(folder))
        elif fixed.resolve() != folder:
            raise ValueError(
                f"profile {profile!r} runs on {paths.shown(fixed)}, as params.yaml says; give BASE={source!r} to a "
                f"profile without a base, such as sd15, or write it to local.yaml yourself"
            )
    sections = settings.written()[profile]
    if named or _at(sections, "people") or _at(sections, "release", "source"):
        base(profile)
    if named:
        _record(profile, "release", "source", named)


def write_pipeline_files() -> list[Path]:
    """Bring what DVC reads of the settings up to date; return the files that changed.

    ``profiles.yaml`` has the profiles that take part with people, each with its base, and those with a release;
    ``settings.yaml`` the settings of all.
    """
    written = settings.written()
    profiles = {name: {"base": paths.shown(folder)} for name, folder in _taking_part(written)}
    taking_part = {"profiles": profiles, "releases": {name: {"release": what} for name, what in _with_release(written)}}
    files = {"profiles.yaml": taking_part, "settings.yaml": written}
    texts = {paths.PIPELINE / name: _dumped(values) for name, values in files.items()}
    return [path for path, text in texts.items() if write_if_changed(text, path)]


def sources() -> dict[str, str]:
    """What each profile's people are made of: "rendered", or every file of its own (name, bytes, time of change)."""
    written = settings.written()
    return {name: _listing(written[name]) for name, _ in _taking_part(written)}


def release_sources() -> dict[str, str]:
    """What each profile's release is: "synthetic", or all files of it and of its base; and the photograph."""
    written = settings.written()
    return {name: _release_listing(written[name], what) for name, what in _with_release(written)}


def _release_listing(sections: Any, source: str) -> str:
    given = [_at(sections, "release", name) for name in ("photo", "mask")]
    files = [paths.ROOT / a_path(path, "a picture") for path in given if isinstance(path, str)]
    if source != SYNTHETIC[-1]:
        folders = (paths.ROOT / a_path(source, "a release"), _base_folder(sections))
        files += [folder for folder in folders if os.path.isdir(folder)]  # and no name on the hub
    return f"{source}\n" + list_files(*files)


def _listing(sections: Any) -> str:
    given = [_at(sections, "people", "sets", name) for name in ("source", "labels")]
    own = [paths.ROOT / a_path(path, "people's files") for path in given if isinstance(path, str)]
    return list_files(*own) if own else "rendered\n"


def _taking_part(written: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    with_people = ((name, sections) for name, sections in written.items() if _at(sections, "people"))
    ready = ((name, _base_folder(sections)) for name, sections in with_people if not _lacks_people(sections))
    return ((name, folder) for name, folder in ready if folder)


def _with_release(written: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Profiles that open a release, with its folder or hub id, or "synthetic"."""
    for name, sections in written.items():
        source = _at(sections, "release", "source")
        if isinstance(source, str) and _base_folder(sections):
            yield name, source
        elif source is None and _at(sections, *SYNTHETIC):
            yield name, SYNTHETIC[-1]


def _lacks_people(sections: Any) -> bool:
    return bool(_at(sections, "people", "own")) and not _at(sections, "people", "sets", "source")


def _lacks_release(sections: Any) -> bool:
    named = _at(sections, "release", "source") or _at(sections, *SYNTHETIC)
    return bool(_at(sections, "release")) and not named


def _without_release(profile: str) -> str:
    return (
        f"profile {profile!r} has no release: name the authors' with "
        f"`make reproduce PROFILE={profile} BASE=<folder or hub id> RELEASE=<folder or hub id>`"
    )


def _found_release(profile: str, source: str) -> str:
    """What RELEASE names, as it is recorded."""
    written = settings.published().get(profile) or settings.written()[profile]
    if not _at(written, "release"):
        raise ValueError(f"profile {profile!r} has no section release, to which RELEASE={source!r} belongs; use sd15")
    if _at(written, *SYNTHETIC):
        raise ValueError(
            f"profile {profile!r} runs on a synthetic release; give RELEASE={source!r} to a profile without one, such "
            "as sd15"
        )
    given = a_path(source, "a release")
    folder = os.path.isdir(given)
    if not folder and not HUB_ID.fullmatch(source):
        raise FileNotFoundError(f"RELEASE={source!r}: expected a folder, or a hub id (owner/name); there is no folder")
    named = str(given.resolve()) if folder else source
    if not named.isprintable():
        raise ValueError(f"RELEASE={source!r}: expected a folder whose name can be written down; rename it")
    return named


def _base_folder(sections: Any) -> Path | None:
    model = _at(sections, "base", "model")
    return paths.ROOT / a_path(model, "a base model") if model and isinstance(model, str) else None


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


def _record(profile: str, section: str, setting: str, value: str) -> None:
    """Write a setting of a profile into local.yaml, and leave all else there as it is, comments included."""
    text = paths.LOCAL.read_text(encoding="utf-8") if settings.local() else ""
    kept = YAML().load(text) if text else {}
    place = kept
    for name in (profile, section):
        if not isinstance(place.get(name), Mapping):
            place[name] = {}
        place = place[name]
    if place.get(setting) != value:
        place[setting] = value
        lines = [] if text or not paths.LOCAL.exists() else paths.LOCAL.read_text(encoding="utf-8").splitlines(True)
        comments = [line for line in lines if line.lstrip().startswith("#")]  # beside `{}` or `null`, which goes
        write_text("".join(comments) + _dumped(kept), paths.LOCAL)


def _found(source: str, variant: str | None, revision: str | None) -> Path:
    given = a_path(source, "a base model")
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
