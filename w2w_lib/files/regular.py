"""The first door of every file: it is there, and it is a file that can be read to its end."""

import os
import stat
from pathlib import Path

from w2w_lib.inputs import shown


def path_of(path: str | Path, expected: str) -> Path:
    """A path; ValueError for what is no text, and for characters that no path has."""
    try:
        name = os.fsencode(path) if isinstance(path, str | os.PathLike) else b"\0"
    except UnicodeEncodeError:  # half a character
        name = b"\0"
    if b"\0" in name:
        raise ValueError(f"path {shown(path)}: is no path; expected {expected}")
    return Path(path)


def regular_file(path: str | Path, expected: str, remedy: str) -> Path:
    """The path of an existing, non-empty regular file.

    FileNotFoundError where there is none, ValueError for a folder, pipe, socket, device or empty file: one line of
    what was found, what was ``expected`` and the ``remedy``. Nothing is opened, so a named pipe cannot block.
    """
    path = path_of(path, expected)
    try:
        found = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; expected {expected}; {remedy}") from None
    except OSError as error:  # a name that is too long, a loop of links, a folder that may not be entered
        raise ValueError(f"{path}: cannot be looked at ({error.strerror}); expected {expected}; {remedy}") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise ValueError(f"{path}: is {kind}; expected {expected}; {remedy}")
    if not found.st_size:
        raise ValueError(f"{path}: is empty; expected {expected}; {remedy}")
    return path
