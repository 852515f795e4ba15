"""The weights dataset: rows that cannot be lost, doubled or mixed up, whoever writes and whatever fails."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil
import pytest
import safetensors.torch
import torch
from conftest import fill
from tiny_base import stable_diffusion_unet
from toy_dataset import begin, filled, random_weights

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.training import shards
from w2w_lib.training.weights_dataset import WeightsDataset

pytestmark = pytest.mark.usefixtures("quick_disk")


def test_a_real_disk_runs_full(layout, small_disk):
    dataset = begin(small_disk, layout)
    dataset.append(["first"], random_weights(layout, 1), torch.zeros(1))
    fill(small_disk)
    with pytest.raises(OSError, match=r"No space left.*rows written before are safe: make room"):
        dataset.append([f"{i}" for i in range(20)], random_weights(layout, 20), torch.zeros(20))
    assert dataset.ids == ["first"]
    dataset.verify()


def test_a_full_disk_leaves_what_was_finished(layout, tmp_path, monkeypatch):
    dataset = filled(tmp_path, layout, ["first"])

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match=r"No space left.*rows written before are safe: make room"):
        dataset.append(["second"], random_weights(layout, 1), torch.zeros(1))
    assert dataset.ids == ["first"] and not list(tmp_path.glob(".*partial*"))


def test_rows_that_cannot_be_are_refused_and_nothing_is_written(layout, tmp_path, unchecked):
    dataset, weights, losses = begin(tmp_path, layout), random_weights(layout, 2), torch.tensor([0.5, 0.6])
    for ids, rows, those, *more in (
        (["a", "a"], weights, losses, "identity 'a' is there twice"),
        (["a", "b"], weights, losses[:1], r"losses of shape \(1,\): expected .* and \(2,\)"),
        (["a", "b"], weights[:, 1:], losses, r"rows of shape .*: expected \(2, "),
        ([], weights[:0], losses[:0], "at least one"),
        (["a", "b"], weights, losses * torch.nan, "losses of a, b hold NaN"),
        (["a", "b"], weights * torch.inf, losses, "losses of a, b hold NaN"),
        (["a", ""], weights, losses, "identity '': expected a non-empty text"),
        (["a", "b\n"], weights, losses, r"identity 'b\\n'"),
        (["a", 5], weights, losses, "ids: expected texts, found 5"),
        ("ab", weights, losses, "ids: expected a list, found 'ab'"),
        (["a", "b"], weights.numpy(), losses, "weights: expected a tensor of floating-point numbers, found ndarray"),
        (["a", "b"], weights.int(), losses, "weights: .* found a tensor of torch.int32"),
        (["a", "b"], weights, [0.5, 0.6], r"losses: .* found list \[0.5, 0.6\]"),
        (["a", "b"], weights.to_sparse(), losses, "weights: .* found a tensor of torch.float32 in torch.sparse_coo"),
        (["a", "b"], weights.double() * 1e300, losses, "weights or losses of a, b hold NaN or infinite"),
        (["a", "b"], weights, losses, ["x"], r"pictures: expected Mapping, found list \['x'\]"),
        (["a", "b"], weights, losses, {"b": 5}, "b: 0.pictures: Input should be a valid string, found 5"),
        (["a", "b"], weights, losses, {"b": b"x"}, "b: .*bytes.* expected pictures as text"),
        (["a", "b"], weights, losses, None, float("nan"), "a: .*found NaN|a: .*finite|a: .*NaN"),
        (["a", "b"], weights, losses, None, -1.0, "a: 0.seconds: Input should be greater than or equal to 0"),
    ):
        with pytest.raises(ValueError, match=more[-1]) as refused:
            dataset.append(ids, rows, those, *more[:-1])
        assert "\n" not in str(refused.value) and not list(tmp_path.glob("shard-*"))
    dataset.append(["a"], weights[:1], losses[:1])
    with pytest.raises(ValueError, match=r"a: in .* already; nothing was written"):
        dataset.append(["b", "a"], weights, losses)
    assert dataset.ids == ["a"]


def test_rows_come_back_as_they_were_with_what_is_known_of_them(layout, tmp_path):
    dataset, weights = begin(tmp_path, layout), random_weights(layout, 3)
    dataset.append(["of/two", "b"], weights[:2], torch.tensor([0.1, 0.6]), {"b": "of b"}, 1.5)
    dataset.append(["Ä"], weights[2:], torch.tensor([0.3]))
    dataset.verify()
    assert dataset.ids == ["b", "of/two", "Ä"]
    assert dataset.pictures() == {"of/two": None, "b": "of b", "Ä": None}
    assert dataset.seconds() == {"of/two": 1.5, "b": 1.5}
    assert torch.tensor(list(dataset.losses().values())).equal(torch.tensor([0.6, 0.1, 0.3]))
    assert dataset.weights(["Ä", "b", "Ä", "of/two"]).equal(weights[[2, 1, 2, 0]])
    assert dataset.weights().equal(weights[[1, 0, 2]])
    batches = list(dataset.batches(2))
    assert [ids for ids, _ in batches] == [["b", "of/two"], ["Ä"]]
    assert torch.cat([rows for _, rows in batches]).equal(dataset.weights())
    with pytest.raises(ValueError, match=r"c, d: not in .*; expected some of its 3 identities"):
        dataset.weights(["b", "c", "d"])
    with pytest.raises(ValueError, match="rows: expected a whole number of at least 1"):
        next(dataset.batches(0))


def test_groups_whose_first_names_share_a_long_prefix_are_two_shards(layout, tmp_path):
    long = "a person of a very long name " * 10
    dataset = filled(tmp_path, layout, [f"{long}1"], [f"{long}2"])
    dataset.verify()
    assert dataset.ids == [f"{long}1", f"{long}2"] and len(list(tmp_path.glob("shard-*"))) == 2


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_are_as_readable_as_the_umask_says(layout, tmp_path, umask):
    before = os.umask(umask)
    try:
        filled(tmp_path / "rows", layout, ["a"])
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "rows").iterdir()}
    assert set(modes.values()) == {0o666 & ~umask}, modes


def test_many_may_begin_and_fill_one_dataset_at_once(layout, tmp_path):
    def append_two(folder: Path, k: int) -> str | None:
        try:
            begin(folder, layout).append([f"own-{k}", "shared"], random_weights(layout, 2, k), torch.zeros(2))
        except ValueError as error:
            return str(error)

    for i in range(4):
        with ThreadPoolExecutor(4) as pool:
            said = [*filter(None, pool.map(partial(append_two, tmp_path / str(i)), range(4)))]
        assert len(said) == 3 and all("shared: in" in error for error in said)
        dataset = WeightsDataset.open(tmp_path / str(i))
        dataset.verify()
        assert len(dataset.ids) == 2


def test_every_shard_is_looked_at_once(layout, tmp_path, monkeypatch):
    opened, open_shard = [], shards.safe_open
    monkeypatch.setattr(shards, "safe_open", lambda path, **how: opened.append(path) or open_shard(path, **how))
    dataset = begin(tmp_path, layout)
    with dataset.lock():
        for k in range(20):
            dataset.append([f"{k:02d}"], random_weights(layout, 1, k), torch.zeros(1))
    assert len(dataset.ids) == len(dataset.losses()) == 20 and not opened  # it wrote them itself
    reader = WeightsDataset.open(tmp_path)
    assert len(reader.ids) == 20 and len(opened) == 20
    dataset.append(["new"], random_weights(layout, 1), torch.zeros(1))
    assert len(reader.ids) == 21 and len(opened) == 21
    reader.weights(["03", "17"])
    assert len(opened) == 23


def test_the_papers_dataset_opens_without_being_read(tmp_path):
    """65,000 models with the release's layers, 26 GB, as sparse files that are zero but for one row."""
    layout = AdapterLayout.of(stable_diffusion_unet(), "5d15" * 4, "release")
    dataset = begin(tmp_path, layout)
    d, models, groups = layout.dimension, 65_000, 65
    each = models // groups
    for k in range(groups):
        ids = [f"{k * each + i:05d}" for i in range(each)]
        sparse_shard(tmp_path / f"shard-{k:02d}.safetensors", ids, d, dataset.header.digest())
    planted = torch.arange(d, dtype=torch.float32)
    with (tmp_path / f"shard-{groups - 1:02d}.safetensors").open("r+b") as file:
        file.seek(-4 * d, os.SEEK_END)
        file.write(planted.numpy().tobytes())
    process, began = psutil.Process(), time.process_time()
    before = process.memory_info().rss
    dataset = WeightsDataset.open(tmp_path)
    assert len(dataset.ids) == models
    rows = dataset.weights(["64999", "00000"])
    assert torch.equal(rows[0], planted) and not rows[1].any()
    ids, batch = next(dataset.batches(100))
    assert ids[-1] == "00099" and batch.shape == (100, d)
    assert process.memory_info().rss - before < 2**29
    assert time.process_time() - began < 10  # of the processor: it takes 1, reading 26 GB more


def sparse_shard(path: Path, ids: list[str], d: int, dataset: str) -> None:
    rows = json.dumps([{"id": i, "loss": 0.0, "pictures": None, "seconds": None, "sha256": "0" * 64} for i in ids])
    end = 4 * d * len(ids)
    tensors = {"weights": {"dtype": "F32", "shape": [len(ids), d], "data_offsets": [0, end]}}
    header = json.dumps({"__metadata__": {"rows": rows, "dataset": dataset}} | tensors).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
