"""Processes that train groups of people side by side, each with one thread.

On a CPU two such processes do more than one process with two threads, which wait for each other after every small
operation. Only the parent writes to disk; a worker ends with it, however it ends.
"""

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from w2w_lib.bank import wearing

if TYPE_CHECKING:
    from w2w_lib.fleet import Fleet

Train = Callable[[dict[str, Tensor]], Future]
_worker = ExitStack()  # what a worker holds until it ends


@contextmanager
def trainers(fleet: "Fleet", workers: int) -> Iterator[Train]:
    """A function that takes one group's latents and promises what ``fleet.train`` makes of them.

    With one worker that happens here and at once, with all threads; with more, in as many processes.
    """
    if workers == 1:
        with wearing(fleet.unet, fleet.layout) as bank:
            yield partial(_train_here, partial(fleet.train, bank=bank))
        return
    with TemporaryDirectory() as folder:  # a fleet is more than the pipe of a process that cannot start would hold
        pickled_fleet = Path(folder) / "fleet.pickle"
        pickled_fleet.write_bytes(pickle.dumps(fleet))
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _enlist, (pickled_fleet,))
        try:
            yield lambda latents: pool.submit(_train_there, {i: x.numpy() for i, x in latents.items()})
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _train_here(train: Callable, latents: dict[str, Tensor]) -> Future:
    promise = Future()
    try:
        promise.set_result(train(latents))
    except (RuntimeError, MemoryError) as error:
        promise.set_exception(error)
    return promise


def _enlist(pickled_fleet: Path) -> None:
    """Make this new process a worker: the parent's fleet, with one thread."""
    global _train_in_this_worker
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    fleet = pickle.loads(pickled_fleet.read_bytes())
    bank = _worker.enter_context(wearing(fleet.unet, fleet.layout))
    _train_in_this_worker = partial(fleet.train, bank=bank)


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def _train_there(latents: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    theta, losses = _train_in_this_worker({i: torch.from_numpy(x) for i, x in latents.items()})
    return theta.numpy(), losses.numpy()
