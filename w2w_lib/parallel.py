"""One function for many parts, in worker processes, with the results in the order of the parts.

The workers are joblib's: they start without importing the script that calls (so it needs no main guard, and a notebook
can have them), compute on one thread each, stay for the next call, and end with their parent.
"""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import joblib
import psutil

from w2w_lib.inputs import whole_number


def worker_count(workers: int | None) -> int:
    """So many processes; one for each core that this process may use if it is None. ValueError for fewer than 1."""
    return joblib.cpu_count() if workers is None else whole_number("workers", workers)


def in_order(function: Callable, parts: Sequence[tuple], workers: int) -> Iterator[Any]:
    """``function(*part)`` of each part, one after the other; by this process if there is to be one worker."""
    if min(workers, len(parts)) <= 1:
        return (function(*part) for part in parts)
    pool = joblib.Parallel(workers, backend="loky", return_as="generator", max_nbytes=None)
    return pool(joblib.delayed(_in_worker)(function, part) for part in parts)


def _in_worker(function: Callable, part: tuple) -> Any:
    _end_with_parent()
    return function(*part)


@cache
def _end_with_parent() -> None:
    """From now on this worker ends when its parent does, however that ends."""

    def wait(parent: psutil.Process) -> None:
        parent.wait()
        os._exit(1)

    threading.Thread(target=wait, args=(psutil.Process(os.getppid()),), daemon=True).start()
