"""Profiles are data: what a stage needs to know about its size stands in `params.yaml`, per profile and stage."""

import os
from pathlib import Path

from ruamel.yaml import YAML

from w2w_lib import paths

LAYOUT = "profiles"  # the top-level key that lists which profiles are stages in dvc.yaml, and on which base


def _params() -> dict:
    # YAML 1.2 as DVC reads it: `1e-4` is a number (PyYAML would hand over a string)
    return YAML(typ="safe").load(paths.PARAMS)


def names() -> list[str]:
    """The profiles that `params.yaml` describes."""
    return [key for key in _params() if key != LAYOUT]


def load(profile: str, section: str) -> dict:
    """The parameters of one stage in one profile, e.g. `load("pocket", "finetune")`."""
    params = _params()
    _require_known(profile, params)
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
    yaml = YAML()  # round trip: comments and order stay
    yaml.width = 200
    document = yaml.load(paths.PARAMS)
    document[LAYOUT][profile] = {"base": paths.shown(folder)}
    scratch = paths.PARAMS.with_suffix(".tmp")
    yaml.dump(document, scratch)
    os.replace(scratch, paths.PARAMS)


def _base_folder(profile: str, params: dict) -> Path:
    _require_known(profile, params)
    return paths.ROOT / params[LAYOUT].get(profile, {"base": f"data/base/{profile}"})["base"]


def _place(folder: Path, source: str) -> None:
    if folder.is_dir() and not folder.is_symlink() and Path(source).resolve() != folder.resolve():
        raise ValueError(
            f"{paths.shown(folder)} already holds a base model; move it away before naming another with BASE={source}"
        )
    if Path(source).is_dir():
        if not (Path(source) / "model_index.json").is_file():
            raise FileNotFoundError(
                f"BASE={source} is no base model: expected a StableDiffusionPipeline folder with a model_index.json"
            )
        if Path(source).resolve() != folder.resolve():
            folder.unlink(missing_ok=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.symlink_to(Path(source).resolve(), target_is_directory=True)
        return
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise FileNotFoundError(f"BASE={source}: no such folder, and no hub id of the form owner/name either")
    from huggingface_hub import snapshot_download

    folder.unlink(missing_ok=True)
    snapshot_download(source, local_dir=folder, ignore_patterns=["*.ckpt", "*.bin", "*.msgpack"])


def _require_known(profile: str, params: dict) -> None:
    known = [key for key in params if key != LAYOUT]
    if profile not in known:
        raise ValueError(
            f"unknown profile {profile!r}: params.yaml knows {', '.join(known)}; use one of these or add a section"
        )
