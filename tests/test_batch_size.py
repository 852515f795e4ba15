"""How many rows go through a model at once: what fits is planned on a GPU, and what did not fit is tried in halves."""

from itertools import chain

import pytest
import torch

from w2w_lib.models import memory
from w2w_lib.models.memory import BatchSize


def fitting(most):
    """Work on rows of which so many fit, and the sizes that were tried."""
    tried = []

    def work(part: slice) -> list[int]:
        tried.append(part.stop - part.start)
        if tried[-1] > most:
            raise torch.OutOfMemoryError
        return list(range(part.start, part.stop))

    return work, tried


def test_what_did_not_fit_is_tried_in_halves_and_in_order():
    work, tried = fitting(3)
    sizes = BatchSize(8, torch.device("cpu"), lambda: None, "row")
    assert [*chain(*sizes.run(10, work))] == [*range(10)]
    assert tried == [8, 4, 2, 2, 2, 2, 2]
    assert [*chain(*sizes.run(3, work))] == [0, 1, 2] and tried[-2:] == [2, 1]  # and so it stays


def test_a_single_row_that_does_not_fit_is_named():
    work, _ = fitting(0)
    with pytest.raises(MemoryError, match="not even one picture fits in memory"):
        list(BatchSize(2, torch.device("cpu"), lambda: None, "picture").run(2, work))


def test_other_errors_are_raised_as_they_are():
    def work(part: slice) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(BatchSize(2, torch.device("cpu"), lambda: None, "row").run(2, work))


@pytest.mark.parametrize(("free", "each", "size"), [(100, 7, 10), (60, 7, 6), (5, 7, 1), (100, 0, 16)])
def test_a_gpu_gets_as_many_as_fit_into_its_free_memory(monkeypatch, free, each, size):
    """Seven tenths of it, over what a single row takes at its peak."""
    monkeypatch.setattr(memory, "peak_bytes", lambda device, work: each)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1000))
    assert BatchSize(16, torch.device("cuda"), lambda: None, "row").size == size
