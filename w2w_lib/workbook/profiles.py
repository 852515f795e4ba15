"""Profiles are data: the size of every stage stands in `params.yaml`, per profile and stage."""

import re
from pathlib import Path

from ruamel.yaml import YAML

from w2w_lib.files.atomic import write_text
from w2w_lib.workbook import paths

LAYOUT = "profiles"  # the top-level key that lists which profiles are stages in dvc.yaml, and on which base


def _params() -> dict:
    # YAML 1.2 as DVC reads it: `1e-4` is a number (PyYAML would hand over a string)
    return YAML(typ="safe").load(paths.PARAMS)


def require(profile: str, params: dict | None = None) -> None:
    """Refuse a profile that `params.yaml` does not describe."""
    known = [key for key in params or _params() if key != LAYOUT]
    if profile not in known:
        raise ValueError(f"unknown profile {profile!r}: params.yaml knows {', '.join(known)}; use one or add a section")


def load(profile: str, section: str) -> dict:
    """The parameters of one stage in one profile, e.g. `load("pocket", "finetune")`."""
    params = _params()
    require(profile, params)
    if section not in params[profile]:
        raise ValueError(
            f"profile {profile!r} has no section {section!r} in params.yaml; it has "
            f"{', '.join(params[profile])}: use one of these or add the section"
        )
    return params[profile][section]


def base(profile: str) -> Path:
    """The folder of the base model (a `StableDiffusionPipeline`) that a profile personalises."""
    folder = _base_folder(profile, _params())
    if not (folder / "model_index.json").is_file():
        raise FileNotFoundError(
            f"no base model for profile {profile!r}: expected a StableDiffusionPipeline folder at "
            f"{paths.shown(folder)}; name one with `make reproduce PROFILE={profile} BASE=<folder or hub id>`"
        )
    return folder


def sources() -> dict[str, str]:
    """What each profile's people are made of: "rendered", or every file of its own (name, bytes, time of change)."""
    params = _params()
    found = {}
    for profile in params[LAYOUT]:
        settings = params[profile].get("people", {})
        own = [paths.ROOT / settings[name] for name in ("source", "labels") if settings.get(name)]
        files = sorted(file for path in own for file in [path, *path.rglob("*")] if file.is_file())
        facts = ((paths.shown(file), file.stat()) for file in files)
        lines = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in facts] if own else ["rendered"]
        found[profile] = "\n".join(lines) + "\n"
    return found


def enrol(profile: str, source: str | None = None) -> None:
    """Make sure that a profile has its base model in place and its stages in `dvc.yaml`.

    `source` is a folder (linked, not copied) or a hub id (downloaded).
    """
    params = _params()
    folder = _base_folder(profile, params)
    if source:
        _place(folder, source)
    base(profile)
    if profile in params[LAYOUT]:
        return
    # one line of text more: a dump would lay out the whole file anew
    line = f"{LAYOUT}:\n  {profile}: {{base: {paths.shown(folder)}}}\n"
    text = re.sub(rf"^{LAYOUT}:.*\n", line, paths.PARAMS.read_text(encoding="utf-8"), count=1, flags=re.MULTILINE)
    write_text(text, paths.PARAMS)


def _base_folder(profile: str, params: dict) -> Path:
    require(profile, params)
    return paths.ROOT / params[LAYOUT].get(profile, {"base": f"data/base/{profile}"})["base"]


def _place(folder: Path, source: str) -> None:
    if folder.is_dir() and not folder.is_symlink():
        raise ValueError(f"{paths.shown(folder)} already holds a base model; move it away before giving BASE={source}")
    if Path(source).is_file():
        raise ValueError(
            f"BASE={source} is a file, expected a folder: write it as one with "
            "`StableDiffusionPipeline.from_single_file(file).save_pretrained(folder)`"
        )
    found = Path(source).resolve() if Path(source).is_dir() else _download(source)
    if not (found / "model_index.json").is_file():
        raise FileNotFoundError(
            f"BASE={source} is no base model: expected a folder with the model_index.json of a StableDiffusionPipeline"
        )
    folder.unlink(missing_ok=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(found, target_is_directory=True)


def _download(hub_id: str) -> Path:
    wanted = f"BASE={hub_id}: expected a folder, or a hub id (owner/name)"
    if hub_id.count("/") != 1 or hub_id.startswith((".", "/", "~")):
        raise FileNotFoundError(f"{wanted}; there is no such folder")
    from diffusers import StableDiffusionPipeline

    try:
        return Path(StableDiffusionPipeline.download(hub_id, safety_checker=None))
    except OSError as error:
        raise FileNotFoundError(f"{wanted}; the hub did not give it: {str(error).splitlines()[0]}") from error
