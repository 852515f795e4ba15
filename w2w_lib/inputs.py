"""The door of every setting and argument: checked once, where it comes in, with errors of one line."""

import difflib
import functools
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pydantic
from pydantic import ConfigDict, Strict, ValidationError

SHOWN = 80  # characters of a wrong value in an error


def checked(cls: type) -> type:
    """A frozen dataclass whose fields are checked by their annotations, pydantic's constraints included.

    What does not fit, and a field that there is not, is a ValueError of one line that names it.
    """
    cls.__annotations__ = {name: _strict(kind) for name, kind in cls.__annotations__.items()}
    made = pydantic.dataclasses.dataclass(cls, frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
    build = made.__init__

    @functools.wraps(build)
    def __init__(self, *args, **values):
        try:
            build(self, *args, **values)
        except ValidationError as error:
            raise ValueError(explain(error, made.__name__, [field.name for field in fields(made)])) from None

    made.__init__ = __init__
    return made


def _strict(kind: Any) -> Any:
    """A whole or real number's annotation that takes neither True nor "5" for one."""
    number = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return Annotated[kind, Strict()] if number in (int, float) else kind


def explain(error: ValidationError, where: str, known: Iterable[str] = ()) -> str:
    """One line for the first thing that pydantic refused, and how many more there are."""
    first, *more = error.errors(include_url=False)
    return f"{where}: {problem(first, known)}" + (f" (and {len(more)} more)" if more else "")


def problem(found: Mapping[str, Any], known: Iterable[str] = ()) -> str:
    """A few words for one of the things that pydantic refused (one of ``ValidationError.errors()``)."""
    name, kind = ".".join(str(part) for part in found["loc"]), found["type"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"no setting {name!r}{nearest(str(found['loc'][-1]), known)}"
    if kind in ("missing", "missing_argument"):
        return f"{name} is missing"
    value = "" if kind == "value_error" else f", found {shown(found['input'])}"
    return f"{name}{': ' if name else ''}{found['msg'].removeprefix('Value error, ')}{value}"


def nearest(name: str, known: Iterable[str]) -> str:
    """ ", did you mean ...?" with the known name most like ``name``, or the known names."""
    known = list(known)
    if close := difflib.get_close_matches(name, known, 1):
        return f", did you mean {close[0]!r}?"
    return f"; expected one of {', '.join(known)}" if known else ""


def whole_number(name: str, value: int, least: int = 1, most: int | None = None) -> int:
    """An argument that counts something; ValueError for a fraction, or one below ``least`` or above ``most``."""
    is_number = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or value != math.floor(value) or value < least or (most is not None and value > most):
        upper = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name}: expected a whole number of at least {least}{upper}, found {value!r}")
    return int(value)


def finite_number(name: str, value: float) -> float:
    """An argument that measures something; ValueError for NaN, infinity and what is no number."""
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, found {value!r}")
    return float(value)


def a_path(value: str | os.PathLike[str], expected: str) -> Path:
    """A path, "~" replaced by the home folder; ValueError for what is no path, such as an array, bytes or ``None``."""
    try:
        if "\0" not in str(value):
            return Path(value).expanduser()
    except (TypeError, RuntimeError):  # no text; a home folder that there is not
        pass
    raise ValueError(f"{shown(value)}: is no path; expected the path of {expected}; name one")


def shown(value: object) -> str:
    """A wrong value as one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."


def of_kind(name: str, value: object, kind: type) -> None:
    """ValueError for an argument that is no ``kind``, such as a path in place of what is in the file."""
    if not isinstance(value, kind):
        raise ValueError(
            f"{name}: expected {kind.__module__.partition('.')[0]}'s {kind.__name__}, found {shown(value)}"
        )


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first few of many names, for an error of one line."""
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
