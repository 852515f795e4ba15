"""Pickled pandas frames, read without running anything that the pickle names.

Each class and function of pandas and NumPy in the pickle is replaced by an object that keeps what it is given and does
nothing; any other name is refused. The frame is then put together from plain bytes, texts and numbers.
"""

import io
import math
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import pandas as pd

from w2w_lib.files.regular import regular_file
from w2w_lib.inputs import described

LARGEST = 2**28  # bytes of a pickle; that of the release's 64,974 x 40 labels has 39 million
LIBRARIES = ("pandas", "numpy")
OTHERS = {("_codecs", "encode"), ("builtins", "slice"), ("__builtin__", "slice")}
NUMBERS = re.compile(r"b1|[iu][1248]|f[248]")  # NumPy's names of truth values, whole and floating-point numbers
PLAIN = (str, int, float, bool, type(None))


class _Inert:
    """Stands in for a class or function: keeps its arguments and its state."""

    name = ""

    def __new__(cls, *args: Any) -> "_Inert":
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Inert]:
        if module.split(".")[0] not in LIBRARIES and (module, name) not in OTHERS:
            raise ValueError(f"it names {module}.{name}, which is no part of a frame: nothing of it was run")
        return type(name, (_Inert,), {"name": name})


def read_frame(path: str | Path, expected: str, remedy: str) -> pd.DataFrame:
    """The frame in a file that ``torch.save`` or ``DataFrame.to_pickle`` wrote, of numbers and texts.

    Read are frames of pandas 1.3 and newer whose columns are NumPy arrays and whose index is plain. FileNotFoundError
    where there is no file; ValueError for a truncated one, anything but such a frame, and names of other modules.
    """
    path = regular_file(path, expected, remedy)
    try:
        return _as_frame(_unpickled(_pickle_in(path)))
    except Exception as error:  # whatever a damaged or hostile pickle leads to
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: is no plain pandas frame ({reason}); expected {expected}; {remedy}") from None


def _pickle_in(path: Path) -> bytes:
    """The bytes of the pickle: the file itself, or ``data.pkl`` in an archive of ``torch.save``."""
    if not is_zipfile(path):
        if (size := path.stat().st_size) > LARGEST:
            raise ValueError(f"{size} bytes, more than {LARGEST}")
        return path.read_bytes()
    with ZipFile(path) as archive:
        names = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
        if len(names) != 1 or names[0].file_size > LARGEST:
            raise BadZipFile(f"an archive without a data.pkl of at most {LARGEST} bytes")
        return archive.read(names[0])


def _unpickled(data: bytes) -> Any:
    """What the pickle describes, of stand-ins; ValueError for one that would take memory that it does not fill."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):  # fails where it is truncated
        if "PUT" in opcode.name and argument > count:
            raise ValueError(f"memo entry {argument} after {count} operations")
    return _Unpickler(io.BytesIO(data)).load()


def _as_frame(frame: Any) -> pd.DataFrame:
    manager = _arguments_of(_known(frame, "DataFrame").state["_mgr"], "BlockManager")
    blocks, (columns, rows) = manager
    columns, rows = _as_index(columns), _as_index(rows)
    found: dict[int, np.ndarray] = {}
    for block in blocks:
        values, placement, _ = _arguments_of(block, "_unpickle_block")
        values, places = _as_array(values), _as_places(placement, len(columns))
        if values.shape != (len(places), len(rows)) or found.keys() & set(places):
            raise ValueError(f"a block of shape {values.shape} for {len(places)} columns of {len(rows)} rows")
        found |= dict(zip(places, values, strict=True))
    if len(found) != len(columns):
        raise ValueError(f"{len(found)} of {len(columns)} columns have values")
    typed = {place: pd.Series(found[place], rows, found[place].dtype) for place in range(len(columns))}
    return pd.DataFrame(typed, index=rows).set_axis(columns, axis=1)


def _as_index(index: Any) -> pd.Index:
    kind, made = _arguments_of(index, "_new_Index")
    name = made.get("name")
    if not isinstance(name, PLAIN):
        raise ValueError(f"an index named {described(name)}")
    if getattr(kind, "name", None) == "RangeIndex":
        return pd.RangeIndex(*(int(made[part]) for part in ("start", "stop", "step")), name=name)
    if getattr(kind, "name", None) not in ("Index", "Int64Index"):
        raise ValueError(f"an index of kind {getattr(kind, 'name', described(kind))}")
    data = _as_array(made["data"])
    return pd.Index(data, dtype=data.dtype, name=name)


def _as_places(placement: Any, count: int) -> list[int]:
    """Which columns a block holds."""
    if getattr(placement, "name", None) == "slice":
        return list(range(count)[slice(*placement.args)])
    return [range(count)[place] for place in _as_array(placement).tolist()]


def _as_array(array: Any) -> np.ndarray:
    if getattr(array, "name", None) == "_frombuffer":  # pickle protocol 5
        data, kind, shape, order = array.args
    else:
        _, shape, kind, is_fortran, data = _known(array, "_reconstruct").state
        order = "F" if is_fortran else "C"
    (kind, *_), (_, byte_order, *_) = _arguments_of(kind, "dtype"), kind.state
    if kind in ("O8", "O"):
        if not isinstance(data, list) or not all(type(value) in PLAIN for value in data):
            raise ValueError("an array of objects that are no texts or numbers")
        cells = np.empty(len(data), object)
        cells[:] = data
        return cells.reshape(shape)
    if not isinstance(kind, str) or not NUMBERS.fullmatch(kind) or byte_order not in ("<", ">", "|"):
        raise ValueError(f"an array of type {described(kind)}")
    if getattr(data, "name", None) == "encode":  # how protocol 2 writes bytes
        text, encoding = data.args
        if encoding != "latin1":
            raise ValueError(f"bytes in {described(encoding)}")
        data = text.encode("latin1")
    numbers = np.frombuffer(data, np.dtype(kind).newbyteorder(byte_order))
    if math.prod(shape) != len(numbers):
        raise ValueError(f"{len(numbers)} numbers for shape {described(shape)}")
    return numbers.astype(kind).reshape(shape, order=order)


def _known(made: Any, name: str) -> _Inert:
    if not isinstance(made, _Inert) or made.name != name:
        raise ValueError(f"{getattr(made, 'name', None) or described(made)} in the place of {name}")
    return made


def _arguments_of(made: Any, name: str) -> tuple:
    return _known(made, name).args
