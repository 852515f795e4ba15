"""How many adapters fit in memory: planned, and made fewer where they do not."""

import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from threading import Event
from types import SimpleNamespace

import psutil
import pytest
import torch
from tiny_fleet import RECIPE

from w2w_lib.training import memory
from w2w_lib.training import workers as workers_module
from w2w_lib.training.fleet import Fleet


@pytest.mark.parametrize(
    ("free", "fits"),
    [
        (100e9, (2, 32)),  # as asked
        (10e9, (2, 25)),  # 7 GB may be used: 3.5 for each worker, one of which is its own
        (4e9, (1, 28)),  # 2.8 GB: not two workers of twice their own
        (1e8, (1, 1)),
    ],
)
def test_a_fleet_is_planned_from_the_free_memory(monkeypatch, free, fits):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    assert memory.plan(2, 32, int(1e8), torch.device("cpu")) == fits


def test_a_plan_is_of_whole_numbers(unchecked):
    for wrong in ((0, 32, 1), (2, 1.5, 1), (2, 32, 0)):
        with pytest.raises(ValueError, match="expected a whole number of at least 1"):
            memory.plan(*wrong, torch.device("cpu"))


def test_memory_grows_with_the_batch(pipeline, layout, images, prior):
    latents = images["person-0"]
    one, four = (
        Fleet(pipeline, layout, replace(RECIPE, instance_batch=n, prior_weight=0.0), prior).memory_per_model(latents)
        for n in (1, 4)
    )
    assert 3 < four / one < 5


def test_only_a_want_of_memory_makes_a_fleet_smaller():
    assert memory.halved_fleet(5, RuntimeError("bad_alloc")) == 2
    with pytest.raises(RuntimeError, match="shapes"):
        memory.halved_fleet(5, RuntimeError("shapes do not match"))
    with pytest.raises(MemoryError, match="not even one adapter fits"):
        memory.halved_fleet(1, MemoryError())


def test_a_fleet_that_does_not_fit_shrinks(pipeline, layout, images, prior, tmp_path, monkeypatch):
    fleet, sizes, train = Fleet(pipeline, layout, RECIPE, prior), [], Fleet.train

    def train_at_most_one(self, latents, adapters):
        sizes.append(len(latents))
        if len(latents) > 1:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate ...")
        return train(self, latents, adapters=adapters)

    monkeypatch.setattr(Fleet, "train", train_at_most_one)
    dataset = fleet.dataset(tmp_path)
    fleet.train_all(images, dataset, fleet_size=3)
    assert sizes == [3, 1, 1, 1] and sorted(dataset.ids) == sorted(images)


def group_sizes(fleet, layout, people, folder, monkeypatch, fits=lambda group: True):
    """Of the groups in which people are fine-tuned two at a time, where only some fit in memory."""
    sizes = []

    def train(group, adapters):
        sizes.append(len(group))
        if not fits(group):
            raise torch.OutOfMemoryError
        return torch.zeros(len(group), layout.dimension), torch.zeros(len(group))

    monkeypatch.setattr(fleet, "train", train)
    dataset = fleet.dataset(folder)
    fleet.train_all({f"person-{i}": torch.zeros(1, 4, 8, 8) for i in range(people)}, dataset, fleet_size=2)
    assert sorted(dataset.ids) == [f"person-{i}" for i in range(people)]
    return sizes


def test_a_compiled_fleet_fills_groups_up_to_a_size_it_has_had(pipeline, layout, prior, tmp_path, monkeypatch):
    fleets = {
        name: Fleet(pipeline, layout, RECIPE, prior, compiled=name == "compiled") for name in ("eager", "compiled")
    }
    expected = {("eager", 5): [2, 2, 1], ("compiled", 5): [2, 2, 2], ("compiled", 1): [1], ("compiled", 4): [2, 2]}
    for (name, people), sizes in expected.items():
        folder = tmp_path / f"{name}{people}"
        assert group_sizes(fleets[name], layout, people, folder, monkeypatch) == sizes
    # Where the padding does not fit, the person does.
    sizes = group_sizes(
        fleets["compiled"], layout, 3, tmp_path / "full", monkeypatch, lambda group: "\0padding 0" not in group
    )
    assert sizes == [2, 2, 1]


def test_what_did_not_fit_is_let_go_before_the_next_attempt(pipeline, layout, prior, tmp_path, monkeypatch):
    held = []

    def train(group, adapters):
        assert not any(tensor() is not None for tensor in held)
        activations = torch.zeros(1000)
        held.append(weakref.ref(activations))
        if len(group) > 1:
            raise RuntimeError("could not create a primitive")
        return torch.zeros(1, layout.dimension), torch.zeros(1)

    fleet = Fleet(pipeline, layout, RECIPE, prior)
    dataset = fleet.dataset(tmp_path)
    monkeypatch.setattr(fleet, "train", train)
    fleet.train_all({f"person-{i}": torch.zeros(1, 4, 8, 8) for i in range(4)}, dataset, fleet_size=4)
    assert len(held) == 6 and len(dataset.ids) == 4


def test_a_late_failure_does_not_enlarge_the_fleet_again(pipeline, layout, prior, tmp_path, monkeypatch, roomy):
    sizes, shrunk = [], Event()

    def train(group):
        sizes.append(len(group))
        if len(group) == 1:
            shrunk.set()
            return torch.zeros(1, layout.dimension), torch.zeros(1), 1.0
        if "person-4" in group and len(group) == 4:
            assert shrunk.wait(60)  # the first four have failed, and the first two of them, before these do
        raise torch.OutOfMemoryError

    @contextmanager
    def threads(start, workers):
        with ThreadPoolExecutor(workers) as pool:
            yield partial(pool.submit, train)

    monkeypatch.setattr(workers_module, "trainers", threads)
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    dataset = fleet.dataset(tmp_path)
    people = {f"person-{i}": torch.zeros(1, 4, 8, 8) for i in range(8)}
    fleet.train_all(people, dataset, fleet_size=4, workers=2)
    assert sizes == [4, 4, 2] + 8 * [1] and sorted(dataset.ids) == sorted(people)
