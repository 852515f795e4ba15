"""Processes that train groups of people side by side, each with one thread.

On a CPU two such processes do more than one process with two threads, which wait for each other after every small
operation. Only the parent writes to disk; a worker ends with it, however it ends.
"""

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from w2w_lib.lora.batched import apply_adapters
from w2w_lib.training.memory import halved_fleet

if TYPE_CHECKING:
    from w2w_lib.training.fleet import Fleet

Train = Callable[[dict[str, Tensor]], Future]
_worker = ExitStack()  # what a worker holds until it ends


def train_in_groups(
    fleet: "Fleet", latents: dict[str, Tensor], size: int, workers: int, say: Callable[[str], None]
) -> Iterator[tuple[list[str], Float[Tensor, "models d"], Float[Tensor, " models"]]]:
    """Train everybody, at most ``size`` at a time by each worker; yield ids, weights and losses of finished groups.

    A group that does not fit in memory is split and goes back to the others.
    """
    todo, sizes = list(latents), set()  # sizes of the groups so far
    running: dict[Future, tuple[list[str], int]] = {}
    with trainers(fleet, workers) as train:
        while todo or running:
            while todo and len(running) < workers:
                ids, todo = todo[:size], todo[size:]
                group = {i: latents[i] for i in ids}
                if fleet.compiled and size in sizes:  # a step is compiled for one size: nobodies fill it up
                    group |= {f"\0nobody {k}": latents[ids[0]] for k in range(size - len(ids))}
                sizes.add(len(group))
                running[train(group)] = ids, len(group)
            for finished in wait(running, return_when=FIRST_COMPLETED).done:
                ids, trained = running.pop(finished)
                try:
                    weights, losses = (torch.as_tensor(x)[: len(ids)] for x in finished.result())
                except (RuntimeError, MemoryError) as error:
                    size, todo = min(size, halved_fleet(trained, error)), ids + todo
                    say(f"{trained} adapters do not fit in memory: going on with {size} at a time")
                    continue
                yield ids, weights, losses


@contextmanager
def trainers(fleet: "Fleet", workers: int) -> Iterator[Train]:
    """A function that takes one group's latents and promises what ``fleet.train`` makes of them.

    With one worker that happens here and at once, with all threads; with more, in as many processes.
    """
    if workers == 1:
        with apply_adapters(fleet.unet, fleet.layout) as bank:
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
    bank = _worker.enter_context(apply_adapters(fleet.unet, fleet.layout))
    _train_in_this_worker = partial(fleet.train, bank=bank)


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def _train_there(latents: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    weights, losses = _train_in_this_worker({i: torch.from_numpy(x) for i, x in latents.items()})
    return weights.numpy(), losses.numpy()
