"""What `verify` finds in a dataset that somebody has changed."""

import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from toy_dataset import edited, filled, random_weights, shard_of

from w2w_lib.training import shards
from w2w_lib.training.provenance import checksum
from w2w_lib.training.weights_dataset import WeightsDataset

pytestmark = pytest.mark.usefixtures("quick_disk")


def swap_ids(tensors, rows):
    rows[0]["id"], rows[1]["id"] = rows[1]["id"], rows[0]["id"]


def swap_rows(tensors, rows):
    tensors["weights"] = tensors["weights"].flip(0)


def other_loss(tensors, rows):
    rows[0]["loss"] = 0.25


def more_seconds(tensors, rows):
    rows[0]["seconds"] = 3.0


def not_a_number(tensors, rows):
    tensors["weights"][1, 3] = torch.nan
    about = json.dumps([rows[1]["id"], rows[1]["loss"], rows[1]["pictures"]])
    rows[1]["sha256"] = checksum(tensors["weights"][1], about)  # fits


def one_row_less(tensors, rows):
    tensors["weights"] = tensors["weights"][:1].clone()


def one_record_less(tensors, rows):
    rows.pop()


def other_width(tensors, rows):
    tensors["weights"] = tensors["weights"][:, 1:].clone()


def one_tensor_more(tensors, rows):
    tensors["more"] = torch.zeros(1)


def half_precision(tensors, rows):
    tensors["weights"] = tensors["weights"].half()


def unknown_field(tensors, rows):
    rows[0]["colour"] = "red"


def loss_as_text(tensors, rows):
    rows[0]["loss"] = "0.0"


def odd_identity(tensors, rows):
    rows[0]["id"] = "a\nb"


def the_same_twice(tensors, rows):
    rows[1]["id"] = rows[0]["id"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swap_ids, "its records are those of|differs from its checksum"),
        (swap_rows, r"row 0 \(a\) differs from its checksum"),
        (other_loss, "its records are those of"),
        (more_seconds, "its records are those of"),
        (not_a_number, r"its records are those of|row 1 \(b\) holds NaN"),
        (one_row_less, r"holds weights \['F32', 1, .*not weights \[F32, 2"),
        (one_record_less, r"holds weights \['F32', 2, .*not weights \[F32, 1"),
        (other_width, r"holds weights \['F32', 2, .*not weights \[F32, 2"),
        (one_tensor_more, "holds more "),
        (half_precision, r"holds weights \['F16'"),
        (unknown_field, "no setting 'colour'|colour"),
        (loss_as_text, "records: 0.loss: Input should be a valid number, found '0.0'"),
        (odd_identity, r"identity 'a\\nb': expected a non-empty text"),
        (the_same_twice, r"repeats a of shard-"),
    ],
)
def test_a_changed_shard_is_found(layout, tmp_path, change, said):
    dataset = filled(tmp_path, layout, ["a", "b"])
    edited(shard_of(tmp_path), change)
    for opened in (dataset, WeightsDataset.open(tmp_path)):
        with pytest.raises(ValueError, match=said) as refused:
            opened.verify()
        assert shard_of(tmp_path).name in str(refused.value) and "\n" not in str(refused.value)


def test_nan_is_found_under_a_name_and_a_checksum_that_fit(layout, tmp_path):
    dataset = filled(tmp_path, layout, ["a", "b"])
    shard = shard_of(tmp_path)
    edited(shard, not_a_number)
    with safe_open(shard, "pt") as file:
        rows = [shards.Row(**row) for row in json.loads(file.metadata()["rows"])]
    shard.rename(tmp_path / shards._name(rows))
    with pytest.raises(ValueError, match=r"row 1 \(b\) holds NaN"):
        dataset.verify()


def test_shards_that_do_not_belong_here_are_found(layout, tmp_path):
    other_seed = WeightsDataset.create(tmp_path / "other", layout, {"seed": 1}, layout.initial())
    other_seed.append(["c"], random_weights(layout, 1), torch.zeros(1))
    foreign = shard_of(tmp_path / "other")

    def link(path):
        path.symlink_to(tmp_path / "nowhere")

    for k, (place, said) in enumerate(
        (
            (lambda path: path.write_bytes(foreign.read_bytes()), "belongs to another weights dataset"),
            (lambda path: path.write_bytes(foreign.read_bytes()[:-100]), "is no whole safetensors file"),
            (lambda path: path.write_bytes(b""), "is empty"),
            (lambda path: path.mkdir(), "is a folder"),
            (os.mkfifo, "is no regular file"),
            (lambda path: save_file({"weights": torch.zeros(1, 3)}, path), "records: Invalid JSON"),
        )
    ):
        dataset = filled(tmp_path / str(k), layout, ["a"])
        place(tmp_path / str(k) / "shard-0.safetensors")
        for read in (dataset.verify, dataset.weights, lambda: WeightsDataset.open(tmp_path / str(k)).ids):  # noqa: B023
            with pytest.raises(ValueError, match=said) as refused:
                read()
            assert "shard-0.safetensors" in str(refused.value) and "\n" not in str(refused.value)
    dataset = filled(tmp_path / "link", layout, ["a"])
    link(tmp_path / "link" / "shard-0.safetensors")
    with pytest.raises(FileNotFoundError, match="no such file"):
        dataset.verify()


def test_a_row_that_is_in_two_shards_is_found(layout, tmp_path):
    filled(tmp_path / "one", layout, ["a", "b"])
    filled(tmp_path / "two", layout, ["b", "c"])
    shard = shard_of(tmp_path / "two")
    (tmp_path / "one" / shard.name).write_bytes(shard.read_bytes())
    dataset = WeightsDataset.open(tmp_path / "one")
    for read in (dataset.verify, dataset.weights, lambda: dataset.ids):
        with pytest.raises(ValueError, match="repeats b of shard-"):
            read()
