"""How many adapters train at once: a plan from the free memory, and what to do when it was wrong."""

from concurrent.futures import BrokenExecutor

import torch

from w2w_lib.inputs import whole_number
from w2w_lib.models.memory import halved, room

WORKER_BYTES = 10**9  # of a worker's interpreter, libraries and copy of the base


def plan(workers: int, fleet_size: int, bytes_each: int, device: torch.device) -> tuple[int, int]:
    """At most so many workers, and adapters in each one's fleet, as fit into the free memory; at least one of each."""
    workers, fleet_size = whole_number("workers", workers), whole_number("fleet_size", fleet_size)
    bytes_each, there = whole_number("bytes_each", bytes_each), room(device)
    workers = max(1, min(workers, int(there / WORKER_BYTES / 2)))
    of_each = there / workers - (WORKER_BYTES if workers > 1 else 0)
    return workers, max(1, min(fleet_size, int(of_each / bytes_each)))


def halved_fleet(size: int, error: RuntimeError | MemoryError) -> int:
    """Half as many, after an error for want of memory; any other error is raised again."""
    if isinstance(error, BrokenExecutor):
        raise MemoryError(
            "a worker process was killed, most likely for want of memory: use fewer workers or a smaller fleet (or it "
            "could not start: a script that uses workers needs `if __name__ == '__main__':`); finished people are kept"
        ) from error
    return halved(size, error, "not even one adapter fits in memory: lower instance_batch, or use a smaller base")
