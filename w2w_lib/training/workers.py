"""Processes that train groups of people side by side, each with one thread.

On a CPU two such processes do more than one process with two threads, which wait for each other after every small
operation. Only the parent writes to disk; a worker ends with it, however it ends, and nothing is left behind.
"""

import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Lock
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from w2w_lib.training.memory import halved_fleet

Train = Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]  # weights and losses of a group
Start = Callable[[], AbstractContextManager[Train]]  # makes ready to train; a worker process is sent it as a pickle
Submit = Callable[[Mapping[str, Tensor]], Future]
_worker = ExitStack()  # what a worker holds until it ends


class Group(NamedTuple):
    """People who were trained together."""

    ids: list[str]
    weights: Float[Tensor, "models d"]
    losses: Float[Tensor, " models"]
    seconds_each: float  # the group's seconds over its people


def train_in_groups(
    start: Start,
    latents: Mapping[str, Tensor],
    size: int,
    workers: int,
    report: Callable[[str], None],
    same_size: bool = False,
) -> Iterator[Group]:
    """Train everybody, at most ``size`` at a time by each worker, and yield finished groups.

    A group that does not fit in memory is split and goes back to the others. With ``same_size``, as a step is compiled
    for one size, smaller groups are filled up with padding once there was a whole one.
    """
    todo, sizes = list(latents), set()  # sizes of the groups so far
    running: dict[Future, tuple[list[str], int]] = {}
    with trainers(start, workers) as submit:
        while todo or running:
            while todo and len(running) < workers:
                ids, todo = todo[:size], todo[size:]
                group = {i: latents[i] for i in ids}
                if same_size and size in sizes:
                    group |= {f"\0padding {k}": latents[ids[0]] for k in range(size - len(ids))}
                sizes.add(len(group))
                running[submit(group)] = ids, len(group)
            for finished in wait(running, return_when=FIRST_COMPLETED).done:
                ids, trained = running.pop(finished)
                try:
                    weights, losses, seconds = finished.result()
                except (RuntimeError, MemoryError) as error:
                    size, todo = min(size, halved_fleet(trained, error)), ids + todo
                    report(f"{trained} adapters do not fit in memory: going on with {size} at a time")
                    continue
                weights, losses = (torch.as_tensor(x)[: len(ids)] for x in (weights, losses))
                yield Group(ids, weights, losses, seconds / len(ids))


@contextmanager
def trainers(start: Start, workers: int) -> Iterator[Submit]:
    """A function that takes one group's latents and promises its weights, losses and seconds.

    With one worker that happens here and at once, with all threads; with more, in as many processes.
    """
    if workers == 1:
        with start() as train:
            yield partial(_train_here, train)
        return
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _enlist, (receiver, context.Lock()))
    # From a thread: a pipe does not hold a fleet, so that a process that cannot start would block this one for ever.
    threading.Thread(target=_send, args=(sender, pickle.dumps(start), workers), daemon=True).start()
    try:
        yield lambda latents: pool.submit(_train_there, {i: x.numpy() for i, x in latents.items()})
    finally:
        receiver.close()  # with the workers' ends, it lets the thread go
        pool.shutdown(wait=False, cancel_futures=True)


def _send(sender: Connection, pickled: bytes, times: int) -> None:
    with suppress(OSError):  # nobody is there any more
        for _ in range(times):
            sender.send_bytes(pickled)
    sender.close()


def _timed(train: Train, latents: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, float]:
    began = time.perf_counter()
    return *train(latents), time.perf_counter() - began


def _train_here(train: Train, latents: Mapping[str, Tensor]) -> Future:
    promise = Future()
    try:
        promise.set_result(_timed(train, latents))
    except (RuntimeError, MemoryError) as error:
        promise.set_exception(error)
    return promise


def _enlist(receiver: Connection, one_at_a_time: Lock) -> None:
    """Make this new process a worker that trains with one thread as the parent would."""
    global _train_in_this_worker
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with one_at_a_time:
        start = pickle.loads(receiver.recv_bytes())  # from the parent
    _train_in_this_worker = _worker.enter_context(start())


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def _train_there(latents: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, float]:
    tensors = {i: torch.from_numpy(x) for i, x in latents.items()}
    weights, losses, seconds = _timed(_train_in_this_worker, tensors)
    return weights.numpy(), losses.numpy(), seconds
