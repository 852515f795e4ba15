"""The weights dataset: rows that cannot be lost, doubled or mixed up, whoever writes and whatever fails."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from w2w_lib import weights_dataset
from w2w_lib.weights_dataset import WeightsDataset


def random_theta(layout, models, seed=0):
    return torch.randn(models, layout.dimension, generator=torch.Generator().manual_seed(seed)) * 0.2


def test_a_real_disk_runs_full(pipeline, layout, small_disk):
    dataset = WeightsDataset.create(small_disk, layout, {})
    dataset.append(["first"], random_theta(layout, 1), torch.zeros(1))
    (small_disk / "somebody's film").write_bytes(bytes(os.statvfs(small_disk).f_bavail * 4096 - 4096))
    with pytest.raises(OSError, match=r"No space left.*rows written before are safe: make room"):
        dataset.append([f"{i}" for i in range(20)], random_theta(layout, 20), torch.zeros(20))
    assert dataset.read_ids() == ["first"]
    dataset.verify()


def test_a_full_disk_leaves_what_was_finished(pipeline, layout, tmp_path, monkeypatch):
    dataset = WeightsDataset.create(tmp_path, layout, {})
    dataset.append(["first"], random_theta(layout, 1), torch.zeros(1))

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights_dataset, "save_file", full)
    with pytest.raises(OSError, match=r"No space left.*rows written before are safe: make room"):
        dataset.append(["second"], random_theta(layout, 1), torch.zeros(1))
    assert dataset.read_ids() == ["first"] and not list(tmp_path.glob(".*partial"))


def test_what_a_row_says_cannot_be_swapped_doubled_or_nan(pipeline, layout, tmp_path):
    dataset = WeightsDataset.create(tmp_path, layout, {"seed": 3})
    theta, losses = random_theta(layout, 2), torch.tensor([0.5, 0.6])
    for ids, bad, said in (
        (["a", "a"], losses, "identities a are in .* already"),
        (["a", "b"], losses[:1], r"losses of shape \(1,\): expected .* and \(2,\)"),
        (["a", "b"], losses * torch.nan, "losses of a, b hold NaN"),
    ):
        with pytest.raises(ValueError, match=said):
            dataset.append(ids, theta, bad)
    dataset.append(["of/two", "b"], theta, losses, {"b": "of b"})
    dataset.verify()
    assert dataset.pictures() == {"of/two": None, "b": "of b"} and dataset.losses()["b"] == losses[1]
    torch.testing.assert_close(dataset.theta(["b", "of/two"]), theta.flip(0), rtol=0, atol=0)
    (shard,) = tmp_path.glob("shard-*")
    with safe_open(shard, "pt") as file:
        rows, tensors = json.loads(file.metadata()["rows"]), {name: file.get_tensor(name) for name in ("theta", "loss")}
    assert {row["seed"] for row in rows} == {3}
    rows[0]["id"], rows[1]["id"] = rows[1]["id"], rows[0]["id"]
    save_file(tensors, shard, {"rows": json.dumps(rows)})
    with pytest.raises(ValueError, match=r"row 0 \(b\) differs from its checksum"):
        dataset.verify()
    (tmp_path / "header.json").write_text("{")
    with pytest.raises(ValueError, match=r"header.json: not the header of a weights dataset"):
        WeightsDataset.open(tmp_path)


def test_many_may_begin_and_fill_one_dataset_at_once(layout, tmp_path):
    def fill(k: int) -> None:
        for i in range(20):
            folder = tmp_path / str(i)
            with suppress(ValueError):  # somebody else was quicker
                WeightsDataset.create(folder, layout, {}).append(["a"], random_theta(layout, 1, k), torch.zeros(1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fill, range(4)))
    for i in range(20):
        dataset = WeightsDataset.open(tmp_path / str(i))
        dataset.verify()
        assert dataset.read_ids() == ["a"]
