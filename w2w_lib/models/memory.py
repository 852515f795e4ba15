"""How many rows go through a model at once: a plan from the free memory, and what to do when it was wrong."""

import traceback
from collections.abc import Callable, Iterator
from typing import TypeVar

import psutil
import torch

from w2w_lib.inputs import whole_number

SHARE = 0.7  # of the free memory that may be planned to be filled
OUT_OF_MEMORY = ("allocate memory", "out of memory", "could not create a primitive", "ALLOC_FAILED", "bad_alloc")
Result = TypeVar("Result")


def room(device: torch.device) -> int:
    """Bytes of a device's memory that may be filled."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what PyTorch keeps for later, the driver calls used
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = psutil.virtual_memory().available
    return int(SHARE * free)


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """Bytes that ``work`` takes of a GPU's memory at its peak, beside what is there already."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before


def halved(size: int, error: RuntimeError | MemoryError, none_fits: str) -> int:
    """Half as many rows, after an error for want of memory; any other error is raised again.

    MemoryError that says ``none_fits`` where it was one row.
    """
    known = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    if not known and not any(words in str(error) for words in OUT_OF_MEMORY):
        raise error
    if size == 1:
        raise MemoryError(none_fits) from error
    traceback.clear_frames(error.__traceback__)  # they hold what did not fit
    return size // 2


class BatchSize:
    """At most so many rows at once, as fit into a GPU's free memory; fewer from then on where they did not fit.

    ``single`` is a pass of one row: on a GPU it runs once, to see what memory it takes. ``what`` names a row.
    """

    def __init__(self, most: int, device: torch.device, single: Callable[[], object], what: str):
        self.size, self.what = whole_number("rows at once", most), what
        if device.type == "cuda" and most > 1:
            self.size = max(1, min(most, room(device) // max(1, peak_bytes(device, single))))

    def run(self, total: int, work: Callable[[slice], Result]) -> Iterator[Result]:
        """What ``work`` makes of each part of ``total`` rows, in their order."""
        start = 0
        while start < total:
            part = slice(start, min(start + self.size, total))
            try:
                done = work(part)
            except (RuntimeError, MemoryError) as error:
                none_fits = f"not even one {self.what} fits in memory: close other programs, or use a smaller base"
                self.size = halved(part.stop - start, error, none_fits)
                continue
            start = part.stop
            yield done
