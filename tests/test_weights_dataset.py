"""The weights dataset: rows that cannot be lost, doubled or mixed up, whoever writes and whatever fails."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from conftest import fill
from safetensors import safe_open
from safetensors.torch import save_file
from tiny_base import stable_diffusion_unet

from w2w_lib.files import atomic
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.training.weights_dataset import WeightsDataset


def random_theta(layout, models, seed=0):
    return torch.randn(models, layout.dimension, generator=torch.Generator().manual_seed(seed)) * 0.2


def test_a_real_disk_runs_full(pipeline, layout, small_disk):
    dataset = WeightsDataset.create(small_disk, layout, {})
    dataset.append(["first"], random_theta(layout, 1), torch.zeros(1))
    fill(small_disk)
    with pytest.raises(OSError, match=r"No space left.*rows written before are safe: make room"):
        dataset.append([f"{i}" for i in range(20)], random_theta(layout, 20), torch.zeros(20))
    assert dataset.ids == ["first"]
    dataset.verify()


def test_a_full_disk_leaves_what_was_finished(pipeline, layout, tmp_path, monkeypatch):
    dataset = WeightsDataset.create(tmp_path, layout, {})
    dataset.append(["first"], random_theta(layout, 1), torch.zeros(1))

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "save_file", full)
    with pytest.raises(OSError, match=r"No space left.*rows written before are safe: make room"):
        dataset.append(["second"], random_theta(layout, 1), torch.zeros(1))
    assert dataset.ids == ["first"] and not list(tmp_path.glob(".*partial*"))


def test_what_a_row_says_cannot_be_swapped_doubled_or_nan(pipeline, layout, tmp_path, unchecked):
    dataset = WeightsDataset.create(tmp_path, layout, {"seed": 3})
    weights, losses = random_theta(layout, 2), torch.tensor([0.5, 0.6])
    for ids, bad, said in (
        (["a", "a"], losses, "identities a are in .* already"),
        (["a", "b"], losses[:1], r"losses of shape \(1,\): expected .* and \(2,\)"),
        (["a", "b"], losses * torch.nan, "losses of a, b hold NaN"),
    ):
        with pytest.raises(ValueError, match=said):
            dataset.append(ids, weights, bad)
    dataset.append(["of/two", "b"], weights, losses, {"b": "of b"})
    dataset.verify()
    assert dataset.pictures() == {"of/two": None, "b": "of b"} and dataset.losses()["b"] == losses[1]
    torch.testing.assert_close(dataset.weights(["b", "of/two"]), weights.flip(0), rtol=0, atol=0)
    (shard,) = tmp_path.glob("shard-*")
    with safe_open(shard, "pt") as file:
        rows, tensors = (
            json.loads(file.metadata()["rows"]),
            {name: file.get_tensor(name) for name in ("weights", "loss")},
        )
    assert {row["seed"] for row in rows} == {3}
    rows[0]["id"], rows[1]["id"] = rows[1]["id"], rows[0]["id"]
    save_file(tensors, shard, {"rows": json.dumps(rows)})
    with pytest.raises(ValueError, match=r"row 0 \(b\) differs from its checksum"):
        dataset.verify()
    (tmp_path / "header.json").write_text("{")
    with pytest.raises(ValueError, match=r"header.json: not the header of a weights dataset"):
        WeightsDataset.open(tmp_path)


def test_many_may_begin_and_fill_one_dataset_at_once(layout, tmp_path):
    def fill(folder: Path, k: int) -> str | None:
        try:
            dataset = WeightsDataset.create(folder, layout, {})
            dataset.append([f"own-{k}", "shared"], random_theta(layout, 2, k), torch.zeros(2))
        except ValueError as error:
            return str(error)

    for i in range(20):
        with ThreadPoolExecutor(4) as pool:
            said = [*filter(None, pool.map(partial(fill, tmp_path / str(i)), range(4)))]
        assert len(said) == 3 and all("identities shared are in" in error for error in said)
        dataset = WeightsDataset.open(tmp_path / str(i))
        dataset.verify()
        assert len(dataset.ids) == 2


def test_a_dataset_is_of_one_base_and_one_layout(pipeline, layout, tmp_path):
    WeightsDataset.create(tmp_path, layout, {})
    with pytest.raises(ValueError, match=r"another base model \(.* there, other here\)"):
        WeightsDataset.create(tmp_path, replace(layout, base="other"), {})
    with pytest.raises(ValueError, match="another adapter layout"):
        WeightsDataset.create(tmp_path, replace(layout, alpha=5.0), {})


def test_the_papers_dataset_opens_without_being_read(tmp_path):
    """65,000 models with the release's layers, 26 GB, as sparse files that are zero but for one row."""
    layout = AdapterLayout.of(stable_diffusion_unet(), "sd15", "release")
    WeightsDataset.create(tmp_path, layout, {})
    d, models, shards = layout.dimension, 65_000, 65
    each = models // shards
    for k in range(shards):
        sparse_shard(tmp_path / f"shard-{k:02d}.safetensors", [f"{k * each + i:05d}" for i in range(each)], d)
    last = tmp_path / f"shard-{shards - 1:02d}.safetensors"
    planted = torch.arange(d, dtype=torch.float32)
    with last.open("r+b") as file:
        file.seek(-(4 * d + 4 * each), os.SEEK_END)  # the last row; losses come after it
        file.write(planted.numpy().tobytes())
    process = psutil.Process()
    before = process.memory_info().rss
    dataset = WeightsDataset.open(tmp_path)
    assert len(dataset.ids) == models
    rows = dataset.weights(["64999", "00000"])
    assert torch.equal(rows[0], planted) and not rows[1].any()
    assert process.memory_info().rss - before < 2**29


def sparse_shard(path: Path, ids: list[str], d: int) -> None:
    rows = json.dumps([{"id": i, "seed": 0, "pictures": None, "sha256": "0" * 64} for i in ids])
    split = 4 * d * len(ids)
    tensors = {
        "weights": {"dtype": "F32", "shape": [len(ids), d], "data_offsets": [0, split]},
        "loss": {"dtype": "F32", "shape": [len(ids)], "data_offsets": [split, split + 4 * len(ids)]},
    }
    header = json.dumps({"__metadata__": {"rows": rows}} | tensors).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + split + 4 * len(ids))
