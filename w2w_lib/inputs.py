"""The door of every setting and argument: checked once, where it comes in, with errors of one line."""

import difflib
import functools
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pydantic
from pydantic import ConfigDict, Field, Strict, ValidationError

SHOWN = 80  # characters of a wrong value in an error
LARGEST_SEED = 2**32 - 1  # NumPy's; PyTorch takes larger ones
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]


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
    if get_origin(kind) is tuple:
        return tuple[tuple(_strict(part) for part in get_args(kind))]
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
    value = "" if kind == "value_error" else f", found {described(found['input'])}"
    return f"{name}{': ' if name else ''}{found['msg'].removeprefix('Value error, ')}{value}"


def nearest(name: str, known: Iterable[str]) -> str:
    """ ", did you mean ...?" with the known name most like ``name``, or the known names."""
    known = list(map(str, known))
    if close := difflib.get_close_matches(str(name), known, 1):
        return f", did you mean {close[0]!r}?"
    return f"; expected one of {', '.join(known)}" if known else ""


def whole_number(name: str, value: int, least: int = 1, most: int | None = None) -> int:
    """An argument that counts something; ValueError for a fraction, or one below ``least`` or above ``most``."""
    if not _is_finite(value) or value != math.floor(value) or value < least or (most is not None and value > most):
        upper = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name}: expected a whole number of at least {least}{upper}, found {described(value)}")
    return int(value)


def known_seed(seed: int) -> int:
    """An argument that is a seed; ValueError for one that NumPy or PyTorch does not take."""
    return whole_number("seed", seed, 0, LARGEST_SEED)


def finite_number(name: str, value: float) -> float:
    """An argument that measures something; ValueError for NaN, infinity and what is no number."""
    if not _is_finite(value):
        raise ValueError(f"{name}: expected a finite number, found {described(value)}")
    return float(value)


def _is_finite(value: Any) -> bool:
    """Whether it is a real number that a float can hold; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def listed(name: str, values: Iterable) -> list:
    """An argument of several things in an order; ValueError for a single text, a set and what holds nothing."""
    if isinstance(values, str | set | frozenset) or not isinstance(values, Iterable):
        raise ValueError(f"{name}: expected a list, found {described(values)}")
    return list(values)


def texts(name: str, values: Iterable[str]) -> list[str]:
    """An argument of several texts in an order, such as identities; ValueError for anything else."""
    values = listed(name, values)
    if wrong := [value for value in values if not isinstance(value, str)]:
        raise ValueError(f"{name}: expected texts, found {described(wrong[0])}")
    return values


def instance(name: str, value: Any, kind: type | tuple[type, ...], expected: str = "") -> None:
    """ValueError for an argument of another class, such as a path in place of what it leads to."""
    if not isinstance(value, kind):
        classes = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{name}: expected {expected or classes}, found {described(value)}")


def with_parts(pipeline: Any, *parts: str) -> None:
    """ValueError for a pipeline that lacks one of these components."""
    if lacking := [part for part in parts if getattr(pipeline, part, None) is None]:
        kind = type(pipeline).__name__
        raise ValueError(f"pipeline of type {kind}: has no {some(lacking)}; expected a base that `open_base` opened")


def described(value: Any) -> str:
    """A wrong value in a few words on one line."""
    text, plain = " ".join(repr(value).split()), isinstance(value, Real | str) or value is None
    text = text if plain else f"{type(value).__name__} {text}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def a_path(value: str | os.PathLike[str], expected: str) -> Path:
    """A path, "~" replaced by the home folder; ValueError for what is no path, such as an array, bytes or ``None``."""
    remedy = "name one"
    try:
        if b"\0" not in os.fsencode(value):
            return Path(value).expanduser()
    except (TypeError, UnicodeEncodeError):  # no text; half a character
        pass
    except RuntimeError:
        remedy = "there is no such user's home"
    raise ValueError(f"{described(value)}: is no path; expected the path of {expected}; {remedy}")


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first few of many names, for an error of one line."""
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
