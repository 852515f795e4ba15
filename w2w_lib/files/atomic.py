"""Files that are complete or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from w2w_lib.files.regular import path_of

if TYPE_CHECKING:
    import torch


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A file beside ``path`` to write to: it replaces ``path`` if the block ends well, and is removed if not.

    Its name is no other writer's. It is on the disk before it is renamed, and the rename is on the disk before the
    block ends, so that a crash leaves the old file or the new one. It is as readable as the umask says. OSError where
    ``path`` is a folder, pipe or device, which a rename would put an end to.
    """
    path = writable(path, "a file to write")
    partial = path.with_name(f".{uuid4().hex[:12]}.partial{path.suffix}")
    partial.touch()
    mode = partial.stat().st_mode  # what the umask leaves: some libraries write for their user alone
    try:
        yield partial
        partial.chmod(mode)
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def writable(path: str | Path, expected: str) -> Path:
    """A path at which a file is or may be; OSError for a folder, pipe or device."""
    path = path_of(path, f"the name of {expected}")
    if os.path.exists(path) and not os.path.isfile(path):
        kind = "a folder" if os.path.isdir(path) else "no regular file"
        raise OSError(f"{path}: is {kind}; expected the name of {expected}; give another name")
    return path


def write_text(text: str, path: str | Path) -> None:
    """Write a text file in UTF-8; its folder is made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def save_tensors(tensors: dict[str, "torch.Tensor"], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with these tensors and this metadata; its folder is made."""
    from safetensors.torch import save_file  # imports PyTorch, seconds that who writes texts does not need

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata)


def remove_partial_files(folder: str | Path) -> None:
    """Remove what writers that were killed left in ``folder``; nobody may be writing there."""
    for partial in Path(folder).glob(".*.partial*"):
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
