"""How many adapters train at once: a plan from the free memory, and what to do when it was wrong."""

import traceback
from concurrent.futures import BrokenExecutor

import psutil
import torch

from w2w_lib.inputs import whole_number

SHARE = 0.7  # of the free memory that fleets may plan to fill
WORKER_BYTES = 10**9  # of a worker's interpreter, libraries and copy of the base
OUT_OF_MEMORY = ("allocate memory", "out of memory", "could not create a primitive", "ALLOC_FAILED", "bad_alloc")


def plan(workers: int, fleet_size: int, bytes_each: int, device: torch.device) -> tuple[int, int]:
    """At most so many workers, and adapters in each one's fleet, as fit into the free memory; at least one of each."""
    workers, fleet_size = whole_number("workers", workers), whole_number("fleet_size", fleet_size)
    bytes_each = whole_number("bytes_each", bytes_each)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what PyTorch keeps for later, the driver calls used
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = psutil.virtual_memory().available
    room = SHARE * free
    workers = max(1, min(workers, int(room / WORKER_BYTES / 2)))
    of_each = room / workers - (WORKER_BYTES if workers > 1 else 0)
    return workers, max(1, min(fleet_size, int(of_each / bytes_each)))


def halved_fleet(size: int, error: RuntimeError | MemoryError) -> int:
    """Half as many, after an error for want of memory; any other error is raised again."""
    if isinstance(error, BrokenExecutor):
        raise MemoryError(
            "a worker process was killed, most likely for want of memory: use fewer workers or a smaller fleet (or it "
            "could not start: a script that uses workers needs `if __name__ == '__main__':`); finished people are kept"
        ) from error
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    if not known and not any(words in str(error) for words in OUT_OF_MEMORY):
        raise error
    if size == 1:
        raise MemoryError("not even one adapter fits in memory: lower instance_batch, or use a smaller base") from error
    traceback.clear_frames(error.__traceback__)  # they hold what did not fit
    return size // 2
