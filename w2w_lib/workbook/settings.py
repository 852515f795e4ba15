"""Profiles are data: every setting stands in params.yaml, by profile and stage, and on top of it in local.yaml.

Both files map a profile to its sections, a section to its settings. ``local.yaml`` is of this machine alone: what it
says replaces single settings of ``params.yaml``, or adds profiles. A profile with ``extends`` has all settings of the
profile that it names there, but for those that it gives itself.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from w2w_lib.files.atomic import write_text
from w2w_lib.inputs import nearest, problem
from w2w_lib.workbook import paths
from w2w_lib.workbook.yaml_files import read_mapping

if TYPE_CHECKING:
    from w2w_lib.workbook.sections import Profile

EXPECTED = "settings in YAML, by profile and stage"
REMEDY = "see params.yaml of the repository"
EXTENDS = "extends"  # the entry of a profile that names another
KEPT = "W2W_SETTINGS"  # the variable of the environment that names the settings of a run


def load(profile: str) -> "Profile":
    """All settings of one profile, checked: `load("pocket").finetune.recipe`.

    ValueError of one line for a profile that there is not and for the first setting that does not fit.
    """
    found, problems = _checked(require(profile), written()[profile])
    if problems:
        more = f" (and {len(problems) - 1} more: `w2w check-settings` lists them)" if len(problems) > 1 else ""
        raise ValueError(problems[0] + more)
    return found


def check() -> list[str]:
    """Every problem of every profile's settings, one line each; empty if there is none."""
    try:
        profiles = written()
    except (ValueError, FileNotFoundError) as error:
        return [str(error)]
    return [line for name, sections in profiles.items() for line in _checked(name, sections)[1]]


def require(profile: str) -> str:
    """The name of a profile that is described somewhere; ValueError for another."""
    paths.profile_name(profile)
    if profile not in (known := written()):
        raise ValueError(f"unknown profile {profile!r}{nearest(profile, known)}: {_files()} has no such section")
    return profile


@contextmanager
def kept(file: Path) -> Iterator[None]:
    """Within the block, and in the processes that start in it, the settings are those of now, written to ``file``."""
    write_text(json.dumps(written(), default=str), file)
    before = os.environ.get(KEPT)
    os.environ[KEPT] = str(file)
    try:
        yield
    finally:
        if before is None:
            del os.environ[KEPT]
        else:
            os.environ[KEPT] = before
        file.unlink(missing_ok=True)


def written() -> dict[str, Any]:
    """What is written in the two files, by profile, unchecked but for the profiles' names; in a run, what was then."""
    if KEPT in os.environ:
        return read_mapping(Path(os.environ[KEPT]), EXPECTED, "start the run again")
    merged = _merged(published(), local())
    if not merged:
        raise ValueError(f"{paths.PARAMS}: has no profiles; expected {EXPECTED}; `git restore params.yaml`")
    for name in merged:
        paths.profile_name(name)
    return _extended(merged)


def published() -> dict[str, Any]:
    """What params.yaml says."""
    remedy = "run this in a clone of the repository, or `git restore params.yaml`"
    return _extended(read_mapping(paths.PARAMS, EXPECTED, remedy))


def local() -> dict[str, Any]:
    """What local.yaml says, where there is one."""
    if not paths.LOCAL.exists() and not paths.LOCAL.is_symlink():
        return {}
    return read_mapping(paths.LOCAL, EXPECTED, f"correct or remove it ({REMEDY})")


def _merged(under: Any, over: Any) -> Any:
    if not isinstance(under, Mapping) or not isinstance(over, Mapping):
        return over
    return {**under, **{key: _merged(under[key], value) if key in under else value for key, value in over.items()}}


def _extended(profiles: dict[str, Any]) -> dict[str, Any]:
    """The profiles, each on top of the one that it extends."""
    whole = {name: sections for name, sections in profiles.items() if not _extends(sections)}
    return {name: whole[name] if name in whole else _on_top(name, profiles[name], whole) for name in profiles}


def _on_top(name: str, sections: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
    under, own = sections[EXTENDS], {key: value for key, value in sections.items() if key != EXTENDS}
    if not isinstance(under, str) or under not in whole:
        expected = f"is no profile that extends no other{nearest(str(under), whole)}"
        raise ValueError(f"{_files()}, profile {name}: {EXTENDS}: {str(under)!r} {expected}")
    return _merged(whole[under], own)


def _extends(sections: Any) -> bool:
    return isinstance(sections, Mapping) and EXTENDS in sections


def _checked(name: str, sections: Any) -> "tuple[Profile | None, list[str]]":
    # here, for they import numba: half a second that no command but `w2w check-settings` has to wait
    from w2w_lib.workbook.conflicts import conflicts
    from w2w_lib.workbook.sections import Profile

    where = f"{_files()}, profile {name}"
    try:
        # YAML's plain values are JSON's. Read as such, lists will do for tuples, but no text or truth for a number.
        profile = Profile.model_validate_json(json.dumps(sections, default=str), strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False)
        return None, [f"{where}: {problem(one, _known(Profile, one['loc'][:-1]))}" for one in found]
    except TypeError as error:  # a key that is a list, or the like
        return None, [f"{where}: {error}"]
    return profile, [f"{where}: {conflict}" for conflict in conflicts(profile)]


def _known(model: type, place: tuple) -> list[str]:
    """The names of the settings at a place such as ("finetune", "evaluate")."""
    for part in place:
        kind = _fields(model)[part].annotation
        nested = [one for one in (kind, *get_args(kind)) if isinstance(one, type) and _fields(one)]
        if not nested:
            return []
        model = nested[0]
    return list(_fields(model))


def _fields(model: type) -> Mapping[str, Any]:
    return model.__pydantic_fields__ if _is_model(model) else {}


def _is_model(model: type) -> bool:
    return isinstance(model, type) and (issubclass(model, BaseModel) or is_dataclass(model))


def _files() -> str:
    return f"{paths.PARAMS.name} with {paths.LOCAL.name}" if paths.LOCAL.exists() else paths.PARAMS.name
