"""The door of every YAML file of the workbook: a mapping of plain values, or one line that says why not."""

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from w2w_lib.files.regular import regular_file
from w2w_lib.inputs import some

LARGEST = 1_000_000  # bytes
DEEPEST = 20  # mappings and lists within each other


def read_mapping(path: Path, expected: str, remedy: str) -> dict[str, Any]:
    """The mapping that a YAML 1.2 file holds (as DVC reads it: ``1e-4`` is a number, ``no`` is a word).

    FileNotFoundError where there is no file; ValueError of one line for what is no YAML in UTF-8, no mapping, has a key
    twice or one that is no text, refers to anchors, or is larger or deeper than settings are. Empty files are mappings
    without entries.
    """
    if not (path.is_file() and path.stat().st_size == 0):
        regular_file(path, expected, remedy)

    def refuse(what: str) -> ValueError:
        return ValueError(f"{path}: {what}; expected {expected}; {remedy}")

    if path.stat().st_size > LARGEST:
        raise refuse(f"has more than {LARGEST:,} bytes")
    try:
        text = path.read_bytes().decode("utf-8")
        unwelcome = _unwelcome(text)
        found = None if unwelcome else copy.deepcopy(_values(text))
    except UnicodeDecodeError as error:
        raise refuse(f"byte {error.start} is not UTF-8") from None
    except YAMLError as error:
        raise refuse(f"is no YAML ({_first_line(error)})") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # of a value such as 2020-13-01 or !!bool x
        raise refuse(f"holds a value that cannot be read ({type(error).__name__}: {error})") from None
    if unwelcome:
        raise refuse(unwelcome)
    found = {} if found is None else found
    if not isinstance(found, dict):
        raise refuse(f"holds a {type(found).__name__}, not a mapping")
    if others := [repr(key) for key in _other_keys(found)]:
        raise refuse(f"{some(others)}: no text, put it in quotes as a name")
    return found


@functools.lru_cache(maxsize=4)  # params.yaml is read for each profile, and takes a twentieth of a second
def _values(text: str) -> Any:
    return YAML(typ="safe").load(text)


@functools.lru_cache(maxsize=4)
def _unwelcome(text: str) -> str | None:
    # looked for among the parser's events, before anything is built
    depth = 0
    for event in YAML(typ="safe").parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEEPEST:
            return f"is nested more than {DEEPEST} deep"
        if isinstance(event, AliasEvent):
            return f"line {event.start_mark.line + 1} refers to an anchor (*{event.anchor}): write the value out"
    return None


def _other_keys(values: Any) -> Iterator[Any]:
    """Keys that are no texts: `1` and `"1"` would become one setting."""
    if isinstance(values, dict):
        yield from (key for key in values if not isinstance(key, str))
    for value in values.values() if isinstance(values, dict) else values if isinstance(values, list) else ():
        yield from _other_keys(value)


def _first_line(error: YAMLError) -> str:
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    text = " ".join(str(problem or error).split())
    return f"line {mark.line + 1}: {text}" if mark else text
