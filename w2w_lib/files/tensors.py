"""The door of every safetensors file: its tensors, their shapes, types and numbers, and its metadata."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from w2w_lib.files.regular import regular_file
from w2w_lib.inputs import described

FLOATS = ("F64", "F32", "F16", "BF16")  # safetensors' names of the types that we compute with
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)  # the same, PyTorch's
CHUNK = 2**24  # numbers that are looked at at a time


def read_tensors(
    path: str | Path,
    expected: str,
    remedy: str,
    shapes: Mapping[str, str],
    optional: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a safetensors file that holds exactly what it should.

    ``shapes`` has for each tensor its axes by name, such as ``{"mean": "d", "components": "pcs d"}``: axes of one name
    are equally long, and a whole number stands for itself. ``metadata`` has for each entry its Python type, read from
    JSON. ValueError names the file and the first thing that differs: tensors missing or too many, another number of
    axes, lengths that disagree, whole numbers in place of floating-point ones, NaN or infinite numbers, metadata that
    is missing or of another type; FileNotFoundError where there is no file.
    """
    path, axes = regular_file(path, expected, remedy), {**shapes, **(optional or {})}

    def refuse(what: str) -> ValueError:
        return ValueError(f"{path}: {what}; expected {expected}; {remedy}")

    try:
        with safe_open(path, framework="pt") as file:
            names, raw = set(file.keys()), file.metadata() or {}
            if missing := sorted(shapes.keys() - names):
                raise refuse(f"has no tensor {missing[0]!r}")
            if unknown := sorted(names - axes.keys()):
                raise refuse(f"has an unknown tensor {unknown[0]!r}")
            found = {name: file.get_slice(name) for name in sorted(names)}
            if wrong := _misfit({name: (one.get_dtype(), one.get_shape()) for name, one in found.items()}, axes):
                raise refuse(wrong)
            tensors = {name: file.get_tensor(name) for name in found}
    except (SafetensorError, RuntimeError) as error:  # of the file's structure, and of torch where memory is short
        raise refuse(f"is no whole safetensors file, or cannot be read ({error})") from None
    for name, tensor in tensors.items():
        if not finite(tensor):
            raise refuse(f"tensor {name!r} holds NaN or infinite numbers")
    return tensors, {name: _entry(raw, name, kind, refuse) for name, kind in (metadata or {}).items()}


def _misfit(found: dict[str, tuple[str, list[int]]], expected: Mapping[str, str]) -> str | None:
    """What is wrong with types and shapes that a file's header states; nothing has been read yet."""
    lengths: dict[str, int] = {}
    for name, (kind, shape) in found.items():
        axes = expected[name].split()
        if kind not in FLOATS:
            return f"tensor {name!r} is of type {kind}, not one of {', '.join(FLOATS)}"
        if len(shape) != len(axes):
            return f"tensor {name!r} has {len(shape)} axes, not {len(axes)}"
        for axis, length in zip(axes, shape, strict=True):
            wanted = int(axis) if axis.isdigit() else lengths.setdefault(axis, length)
            if length != wanted:
                return f"tensor {name!r} has {length} {axis}, not {wanted}"
    return None


def floating(name: str, value: Any) -> Tensor:
    """An argument that is a tensor of floating-point numbers of 16, 32 or 64 bits in memory; ValueError for others."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: expected a tensor of floating-point numbers, found {described(value)}")
    if value.dtype not in DTYPES or value.layout != torch.strided or value.is_meta:
        found = f"a tensor of {value.dtype}" + ("" if value.layout == torch.strided else f" in {value.layout}")
        found += " without its numbers (meta)" if value.is_meta else ""
        raise ValueError(f"{name}: expected a tensor of floating-point numbers, found {found}; convert it")
    return value


def finite(tensor: Tensor) -> bool:
    """Whether no number is NaN or infinite, in memory bounded by ``CHUNK``."""
    return all(bool(torch.isfinite(part).all()) for part in tensor.reshape(-1).split(CHUNK))


def _entry(raw: dict[str, str], name: str, kind: Any, refuse: Callable[[str], ValueError]) -> Any:
    if name not in raw:
        raise refuse(f"has no metadata {name!r}")
    try:
        return TypeAdapter(kind).validate_json(raw[name], strict=True)
    except ValidationError as error:
        raise refuse(f"metadata {name!r}: {error.errors()[0]['msg']}") from None
