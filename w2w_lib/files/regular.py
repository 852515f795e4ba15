"""The first door of every file: it is there, and it is a file that can be read to its end."""

import stat
from pathlib import Path

from w2w_lib.inputs import a_path


def regular_file(path: str | Path, expected: str, remedy: str) -> Path:
    """The path of an existing, non-empty regular file.

    FileNotFoundError where there is none, ValueError for a folder, pipe, socket, device or empty file: one line of
    what was found, what was ``expected`` and the ``remedy``. Nothing is opened, so a named pipe cannot block.
    """
    path = a_path(path, expected)
    try:
        found = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file; expected {expected}; {remedy}") from None
    except (OSError, ValueError) as error:  # too long a name, a loop of links, a closed folder; a NUL, half a character
        what = f"cannot be looked at ({getattr(error, 'strerror', None) or error})"
        raise ValueError(f"{str(path)!r}: {what}; expected {expected}; {remedy}") from None
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise ValueError(f"{path}: is {kind}; expected {expected}; {remedy}")
    if not found.st_size:
        raise ValueError(f"{path}: is empty; expected {expected}; {remedy}")
    return path
