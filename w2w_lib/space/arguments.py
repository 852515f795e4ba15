"""The doors of the space's functions: rows of numbers, identities, seeds, and what they are made of."""

import hashlib
import json
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from w2w_lib.files.tensors import floating
from w2w_lib.inputs import known_seed, some, texts

CHUNK = 2**24  # numbers that are worked on at a time: what a step needs beside the matrix itself


def parts(rows: Tensor) -> Iterator[Tensor]:
    """A matrix a few rows at a time, ``CHUNK`` numbers at most (one row at least)."""
    yield from rows.split(max(1, CHUNK // max(1, rows.shape[1])))


def finite_rows(
    what: str, values: Tensor, width: int, names: Sequence[str] | None = None, axes: int | None = None
) -> Tensor:
    """Rows of ``width`` finite numbers, in fp32; ValueError for anything else, or another number of ``axes``.

    The error names the rows, by ``names`` where there are some. Memory is bounded by ``CHUNK`` where they are in fp32.
    """
    values = floating(what, values).float()
    if values.shape[-1:] != (width,) or values.ndim != (axes or values.ndim):
        also = "" if axes is None else f"; expected {axes} axes"
        raise ValueError(f"{what}: expected rows of {width:,} numbers, found shape {tuple(values.shape)}{also}")
    good = [torch.isfinite(part).all(1) for part in parts(values.detach().reshape(values.shape[:-1].numel(), width))]
    fine = torch.cat(good).tolist()
    if bad := [row for row, one in enumerate(fine) if not one]:
        named = [names[row] if names and len(names) == len(fine) else str(row) for row in bad]
        raise ValueError(f"{what}: rows {some(named)} hold NaN or infinite numbers")
    return values


def unique_ids(ids: Sequence[str], count: int) -> list[str]:
    """Identities, ``count`` of them; ValueError for another number of them, or one that is there twice."""
    ids = texts("ids", ids)
    if len(ids) != count:
        raise ValueError(f"{len(ids)} ids for {count} models: expected one for each")
    if len(set(ids)) < count:
        seen = set()
        raise ValueError(f"ids {some([i for i in ids if i in seen or seen.add(i)])} are there more than once")
    return ids


def generator(seed: int) -> torch.Generator:
    """PyTorch's random stream of a seed."""
    return torch.Generator().manual_seed(known_seed(seed))


def rows_fingerprint(ids: Sequence[str], weights: Tensor) -> str:
    """Sixteen hexadecimal digits of which models these are: ids and weights, in whatever order the rows lie."""
    rows = (hashlib.sha256(row.contiguous().numpy()).hexdigest() for part in parts(weights) for row in part)
    return digest(sorted(zip(ids, rows, strict=True)))


def digest(content, *tensors: Tensor) -> str:
    """Sixteen hexadecimal digits of what JSON can hold and of tensors' shapes and numbers."""
    found = hashlib.sha256(json.dumps([content, [list(t.shape) for t in tensors]]).encode())
    for tensor in tensors:
        for part in parts(tensor.reshape(-1, tensor.shape[-1])):
            found.update(part.contiguous().view(torch.uint8).numpy())
    return found.hexdigest()[:16]
