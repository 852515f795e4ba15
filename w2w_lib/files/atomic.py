"""Files that are complete or not there."""

import json
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from w2w_lib.inputs import described

if TYPE_CHECKING:
    import torch

SIZE_BYTES, METADATA = 8, "__metadata__"  # of a safetensors file: the header's size comes first


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A file beside ``path`` to write to: it replaces ``path`` if the block ends well, and is removed if not.

    Its name is no other writer's. It is on the disk before it is renamed, and the rename is on the disk before the
    block ends, so that a crash leaves the old file or the new one. It is as readable as the umask says. ValueError
    where there can be no such file, or something else is there.
    """
    path = destination(path)
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


def write_text(text: str, path: str | Path) -> None:
    """Write a text file in UTF-8; its folder is made."""
    make_folder(destination(path).parent)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_if_changed(text: str, path: str | Path) -> bool:
    """Write a text file where it says something else, or is none; whether it was written."""
    path, data = Path(path), text.encode("utf-8")
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return False
    write_text(text, path)
    return True


def save_tensors(tensors: dict[str, "torch.Tensor"], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with these tensors and this metadata; its folder is made."""
    from safetensors.torch import save_file  # imports PyTorch, seconds that who writes texts does not need

    make_folder(destination(path).parent)
    with replacing(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata)
        _sort_metadata(partial)


def _sort_metadata(path: Path) -> None:
    """Write the metadata of a safetensors file by name, in place: its library's order is another in every process."""
    with path.open("r+b") as file:
        (size,) = struct.unpack("<Q", file.read(SIZE_BYTES))
        header = json.loads(file.read(size))
        if metadata := header.get(METADATA):
            header[METADATA] = dict(sorted(metadata.items()))
            file.seek(SIZE_BYTES)
            file.write(json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(size))


def remove_partial_files(folder: str | Path) -> None:
    """Remove what writers that were killed left in ``folder``; nobody may be writing there."""
    for partial in Path(folder).glob(".*.partial*"):
        if partial.is_symlink() or not partial.is_dir():
            partial.unlink(missing_ok=True)


def make_folder(folder: str | Path) -> Path:
    """A folder, made if there is none; ValueError where there can be none."""
    try:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, TypeError, ValueError) as error:  # a file in its way, too long a name; no path; a NUL
        reason = getattr(error, "strerror", None) or error
        found = f"{_named(folder)}: cannot be made ({reason})"
        raise ValueError(f"{found}; expected a folder, or nothing yet; name another") from None
    return folder


def destination(path: str | Path) -> Path:
    """The path of a file to write; ValueError where there can be none, or something else is there."""
    try:
        path, found = Path(path), None
        if not stat.S_ISREG(mode := path.stat().st_mode):  # a pipe or a device would not survive the rename
            found = f"{'a folder' if stat.S_ISDIR(mode) else 'no regular file'} is there"
    except FileNotFoundError:  # it is new
        pass
    except (OSError, TypeError, ValueError) as error:  # below a file, too long a name; no path; a NUL
        found = getattr(error, "strerror", None) or error
    if found:
        raise ValueError(f"{_named(path)}: cannot be written ({found}); expected the path of a file")
    return path


def _named(path: object) -> str:
    return str(path) if isinstance(path, Path) else described(path)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
