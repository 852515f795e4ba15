"""One writer of a folder at a time, for as long as it runs; who comes second is told who is first."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from w2w_lib.files.atomic import remove_partial_files
from w2w_lib.files.regular import regular_file
from w2w_lib.inputs import finite_number

LOCK, HOLDER = ".lock", ".lock-holder.json"
WAIT = 10.0  # seconds for another writer to finish


@contextmanager
def holding(lock: FileLock, timeout: float = WAIT) -> Iterator[bool]:
    """Within the block no other process holds this lock; whether it was not held before, here either.

    The operating system gives it back when the process ends, however it ends. What writers that were killed left in
    the lock's folder is removed first. TimeoutError names the lock's file and the process that holds it.
    """
    try:
        lock.acquire(timeout=max(0.0, finite_number("timeout", timeout)))
    except Timeout:
        raise TimeoutError(_busy(Path(lock.lock_file), timeout)) from None
    except OSError as error:
        what = f"cannot be locked ({error.strerror}); expected a file that this process may write"
        raise ValueError(f"{lock.lock_file}: {what}; remove it, or use a folder of your own") from None
    folder, outermost = Path(lock.lock_file).parent, lock.lock_counter == 1
    try:
        if outermost:
            remove_partial_files(folder)
            with suppress(OSError):  # it is only told to others
                (folder / HOLDER).unlink(missing_ok=True)  # a pipe there would block us
                (folder / HOLDER).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield outermost
    finally:
        if outermost:
            with suppress(OSError):
                (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _busy(lock: Path, timeout: float) -> str:
    holder = "another process"
    # it has just finished, or could not write its name
    with suppress(OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        told = json.loads(regular_file(lock.parent / HOLDER, "the holder's name", "wait").read_bytes())
        holder = f"process {int(told['pid'])} on {str(told['host'])!r}"
        with suppress(psutil.Error):
            if told["host"] == socket.gethostname():
                holder += f" ({psutil.Process(int(told['pid'])).status()})"
    return f"{lock} has been held for more than {timeout:g} s by {holder}: wait for that run, or end it, and run again"
