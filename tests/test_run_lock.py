"""One run at a time fills a dataset; the next is told which, and waits for no one who has stopped."""

import os
import signal
import socket
import time
from contextlib import contextmanager
from multiprocessing import get_context

import pytest
import torch

from w2w_lib.training.weights_dataset import WeightsDataset


@pytest.fixture
def dataset(layout, tmp_path):
    return WeightsDataset.create(tmp_path / "rows", layout, {}, layout.initial())


def hold(folder, taken):
    with WeightsDataset.open(folder).lock():
        taken.set()
        time.sleep(60)


@contextmanager
def holder(dataset):
    """Another process that holds the lock."""
    context = get_context("fork")
    taken = context.Event()
    process = context.Process(target=hold, args=(dataset.folder, taken))
    process.start()
    try:
        assert taken.wait(30)
        yield process
    finally:
        process.kill()
        process.join()


def append(dataset, identity="a"):
    dataset.append([identity], torch.zeros(1, dataset.layout.dimension), torch.zeros(1))


@pytest.mark.parametrize("stopped", [False, True])
def test_who_comes_second_is_told_who_is_first(dataset, stopped):
    with holder(dataset) as process:
        if stopped:
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.1)
        began = time.monotonic()
        with pytest.raises(TimeoutError) as busy, dataset.lock(timeout=0.3):
            pass
        assert 0.2 < time.monotonic() - began < 5
        said = str(busy.value)
        assert str(dataset.folder / ".lock") in said and "\n" not in said
        assert f"process {process.pid} on {socket.gethostname()!r} ({'stopped' if stopped else 'sleeping'})" in said
        assert dataset.ids == []  # reading waits for nobody


def test_a_killed_holder_holds_nothing(dataset):
    with holder(dataset) as process:
        process.kill()
        process.join()
        (dataset.folder / ".0123456789ab.partial.safetensors").write_bytes(b"half")
        with dataset.lock(timeout=0):
            append(dataset)
    assert dataset.ids == ["a"] and not list(dataset.folder.glob("*.partial*"))


def test_a_holder_who_does_not_say_who_it_is_is_another_process(dataset):
    with holder(dataset):
        (dataset.folder / ".lock-holder.json").write_text("{")
        with pytest.raises(TimeoutError, match="by another process: wait for that run, or end it"):
            with dataset.lock(timeout=0):
                pass


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_lies_in_the_place_of_the_holders_name_holds_up_nobody(dataset, make):
    name = dataset.folder / ".lock-holder.json"
    make(name)
    with dataset.lock(timeout=0):
        append(dataset)
        if name.is_file():  # what we wrote there
            name.unlink()
            make(name)
        with pytest.raises(TimeoutError, match="by another process: wait for that run"):
            with WeightsDataset.open(dataset.folder).lock(timeout=0):
                pass
    assert dataset.ids == ["a"]


def test_a_folder_in_the_place_of_the_lock_is_named(layout, tmp_path):
    (tmp_path / "rows" / ".lock").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"\.lock: cannot be locked .*remove it"):
        WeightsDataset.create(tmp_path / "rows", layout, {}, layout.initial())


def test_rows_are_added_within_a_run_and_the_lock_is_given_back_at_its_end(dataset):
    with dataset.lock():
        append(dataset, "a")
        with dataset.lock():
            append(dataset, "b")
        with pytest.raises(TimeoutError, match=f"process {os.getpid()} "):
            with WeightsDataset.open(dataset.folder).lock(timeout=0):
                pass
    with WeightsDataset.open(dataset.folder).lock(timeout=0):
        pass
    assert dataset.ids == ["a", "b"] and not (dataset.folder / ".lock-holder.json").exists()


def test_a_time_out_is_a_number(dataset):
    with pytest.raises(ValueError, match="timeout: expected a finite number"):
        with dataset.lock(timeout=float("nan")):
            pass
