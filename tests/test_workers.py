"""Fleets in several processes, and processes killed: the same adapters, each once, none lost."""

import os
import subprocess
import sys
import time
from functools import partial
from multiprocessing import get_context
from threading import RLock

import psutil
import pytest
import torch
from tiny_base import tiny_pipeline
from tiny_fleet import RECIPE, WITHIN
from tqdm import tqdm

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.training import fleet as fleet_module
from w2w_lib.training.fleet import Fleet
from w2w_lib.training.weights_dataset import WeightsDataset


def test_two_runs_never_train_the_same_people(layout, images, prior, tmp_path, pipeline, monkeypatch):
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    dataset, train, refused = fleet.dataset(tmp_path), fleet.train, []

    def train_while_another_run_begins(*group, **how):
        other = fleet.dataset(tmp_path)
        monkeypatch.setattr(other, "lock", partial(other.lock, timeout=0))
        with pytest.raises(TimeoutError, match=f"{tmp_path}/.lock has been held .* by process {os.getpid()} on "):
            Fleet(pipeline, layout, RECIPE, prior).train_all(images, other)
        refused.append(other)
        return train(*group, **how)

    monkeypatch.setattr(fleet, "train", train_while_another_run_begins)
    fleet.train_all(images, dataset, fleet_size=2)
    assert len(refused) == 2 and dataset.ids == list(images)
    Fleet(pipeline, layout, RECIPE, prior).train_all(images, refused[0])  # finds everybody finished


@pytest.mark.slow
def test_workers_train_the_same_adapters(pipeline, images, prior, tmp_path, roomy):
    layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline))
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    for workers in (1, 2):
        dataset = fleet.dataset(tmp_path / str(workers))
        fleet.train_all(images, dataset, fleet_size=2, workers=workers)
        dataset.verify()
    one, two = (WeightsDataset.open(tmp_path / str(workers)).weights(list(images)) for workers in (1, 2))
    assert (one - two).norm() < WITHIN * (one - fleet.initial).norm()


def train_with_workers(folder, images, prior):
    pipeline = tiny_pipeline()
    layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline))
    fleet_module.plan = lambda workers, size, *_: (workers, size)  # in a process of its own
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    fleet.train_all(images, fleet.dataset(folder), fleet_size=1, workers=2)


@pytest.mark.slow
def test_workers_end_with_their_parent_and_leave_and_lose_nothing(prior, tmp_path, monkeypatch):
    temporary, tmp_path = tmp_path / "temporary", tmp_path / "rows"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    images = dict.fromkeys([f"person-{i}" for i in range(2_000)], torch.zeros(1, 4, 8, 8))
    parent = get_context("spawn").Process(target=train_with_workers, args=(tmp_path, images, prior))
    parent.start()
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("shard-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) >= 2
    parent.kill()
    parent.join()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    assert not list(temporary.rglob("*"))
    finished = WeightsDataset.open(tmp_path)
    finished.verify()
    assert finished.ids


def die(*args, **kwargs):
    os._exit(9)


@pytest.mark.slow
def test_a_killed_worker_is_an_error_that_says_what_to_do(pipeline, images, prior, tmp_path, roomy):
    layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline))
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    dataset = fleet.dataset(tmp_path)
    fleet.train = die
    with pytest.raises(MemoryError, match="fewer workers or a smaller fleet"):
        fleet.train_all(images, dataset, fleet_size=1, workers=2)


WITHOUT_GUARD = """
from contextlib import nullcontext
from functools import partial
import torch
from w2w_lib.training.workers import train_in_groups

start = partial(nullcontext, torch.zeros(10**6))  # more than a pipe holds
next(train_in_groups(start, {"person": torch.zeros(1)}, size=1, workers=2, report=print))
"""


@pytest.mark.slow
def test_workers_that_cannot_start_are_an_error_and_not_a_hang(tmp_path):
    (tmp_path / "script.py").write_text(WITHOUT_GUARD)
    said = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "a script that uses workers needs `if __name__ == '__main__':`" in said.stderr


def train_apart(folder, images, prior):
    """Train in a process of its own, which is returned running."""
    run = get_context("fork").Process(target=train_all_alone, args=(folder, images, prior))
    run.start()
    return run


def train_all_alone(folder, images, prior):
    torch.set_num_threads(1)  # a forked process must not wait for its parent's threads
    tqdm.set_lock(RLock())  # tqdm's own is shared with the parent, which would wait for a killed process for ever
    pipeline = tiny_pipeline()
    layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline), "paper", rank=1, alpha=3)
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    fleet.train_all(images, fleet.dataset(folder), fleet_size=1)


@pytest.mark.slow
def test_twenty_kills_lose_no_finished_row_and_change_none(prior, tmp_path):
    rng = torch.Generator().manual_seed(9)
    images = {f"person-{i:02d}": torch.randn(4, 4, 8, 8, generator=rng) for i in range(24)}
    train_apart(tmp_path / "whole", images, prior).join()
    folder, kills, finished = tmp_path / "killed", 0, 0
    while finished < len(images):
        run = train_apart(folder, images, prior)
        while kills < 20 and run.is_alive() and len(list(folder.glob("shard-*"))) == finished:
            run.join(0.01)  # until somebody is finished: so every run is killed in the middle
        run.join(0.3 * float(torch.rand((), generator=rng)) if kills < 20 else None)
        kills += run.is_alive()
        run.kill()
        run.join()
        before, finished = finished, len(list(folder.glob("shard-*")))
        assert finished > before
        if finished == len(images) and kills < 20:  # done before the last kill: begin again, with more to redo
            for shard in sorted(folder.glob("shard-*"))[::2]:
                shard.unlink()
            finished = len(images) // 2
    assert kills == 20
    whole, killed = WeightsDataset.open(tmp_path / "whole"), WeightsDataset.open(folder)
    killed.verify()
    assert sorted(killed.ids) == list(images)
    torch.testing.assert_close(killed.weights(list(images)), whole.weights(list(images)), rtol=0, atol=0)
