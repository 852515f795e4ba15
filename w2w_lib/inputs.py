"""The door of every setting and argument: checked once, where it comes in, with errors of one line."""

import difflib
import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import fields

import pydantic
from pydantic import ConfigDict, ValidationError


def checked(cls: type) -> type:
    """A frozen dataclass whose fields are checked by their annotations, pydantic's constraints included.

    What does not fit, and a field that there is not, is a ValueError of one line that names it.
    """
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


def explain(error: ValidationError, where: str, known: Iterable[str] = ()) -> str:
    """One line for the first thing that pydantic refused, and how many more there are."""
    first, *more = error.errors(include_url=False)
    name, kind = ".".join(str(part) for part in first["loc"]), first["type"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        text = f"no setting {name!r}{nearest(str(first['loc'][-1]), known)}"
    elif kind in ("missing", "missing_argument"):
        text = f"{name} is missing"
    else:
        found = f", found {first['input']!r}" if kind != "value_error" else ""
        text = f"{name}: {first['msg'].removeprefix('Value error, ')}{found}"
    return f"{where}: {text}" + (f" (and {len(more)} more)" if more else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """ ", did you mean ...?" with the known name most like ``name``, or the known names."""
    known = list(known)
    if close := difflib.get_close_matches(name, known, 1):
        return f", did you mean {close[0]!r}?"
    return f"; expected one of {', '.join(known)}" if known else ""


def whole_number(name: str, value: int, least: int = 1, most: int | None = None) -> int:
    """An argument that counts something; ValueError for a fraction, or one below ``least`` or above ``most``."""
    is_whole = not isinstance(value, bool) and isinstance(value, (int, float)) and value == math.floor(value)
    if not is_whole or value < least or (most is not None and value > most):
        upper = "" if most is None else f" and at most {most}"
        raise ValueError(f"{name}: expected a whole number of at least {least}{upper}, found {value!r}")
    return int(value)


def finite_number(name: str, value: float) -> float:
    """An argument that measures something; ValueError for NaN and infinity."""
    if not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, found {value!r}")
    return float(value)


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first few of many names, for an error of one line."""
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
