"""The weights dataset: rows that cannot be lost, doubled or mixed up, whoever writes and whatever fails."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
import safetensors.torch
import torch
from conftest import fill
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_base import stable_diffusion_unet

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.training import provenance, shards
from w2w_lib.training.provenance import checksum
from w2w_lib.training.weights_dataset import WeightsDataset


def random_weights(layout, models, seed=0):
    return torch.randn(models, layout.dimension, generator=torch.Generator().manual_seed(seed)) * 0.2


def begin(folder, layout, **recipe):
    return WeightsDataset.create(folder, layout, recipe, layout.initial())


def filled(folder, layout, *groups):
    """A dataset with one shard for each group of identities."""
    dataset = begin(folder, layout)
    for seed, ids in enumerate(groups):
        dataset.append(ids, random_weights(layout, len(ids), seed), torch.full((len(ids),), 0.5))
    return dataset


def shard_of(folder):
    """The only shard of a dataset."""
    (shard,) = folder.glob("shard-*")
    return shard


def edited(shard, change):
    """Write a shard again after ``change`` of its tensors and records, in place."""
    with safe_open(shard, "pt") as file:
        metadata = file.metadata()
    tensors, rows = load_file(shard), json.loads(metadata["rows"])
    change(tensors, rows)
    save_file(tensors, shard, metadata | {"rows": json.dumps(rows)})


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """Without waiting for the disk, whose own tests are in test_atomic.py."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


# ---------------------------------------------------------------------------------------------------- what is written


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
        (["a", 5], weights, losses, "identity 5"),
        ("ab", weights, losses, "identities: expected a list of texts, found 'ab'"),
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


# ------------------------------------------------------------------------------------------------------ what decides it


def test_rows_made_otherwise_are_not_added_to(layout, tmp_path, monkeypatch):
    dataset, initial = begin(tmp_path, layout, steps=5, timesteps=(0, 1000)), layout.initial()
    recipe = {"steps": 5, "timesteps": [0, 1000]}
    for change, said in (
        ({"layout": replace(layout, base="0" * 16)}, rf"another base model \({layout.base} there, {'0' * 16} here\)"),
        ({"layout": replace(layout, alpha=5.0)}, "another adapter layout"),
        ({"recipe": recipe | {"steps": 6}}, r"another fine-tuning recipe \(steps: 5 there, 6 here\)"),
        ({"recipe": {"steps": 5}}, r"another fine-tuning recipe \(timesteps: \[0, 1000\] there, None here\)"),
        ({"initial": layout.initial(1)}, "another starting vector"),
        ({"dtype": torch.bfloat16}, r"another precision \(float32 there, bfloat16 here\)"),
        ({"recipe": {}, "dtype": torch.float16}, "another fine-tuning recipe .* and another precision"),
    ):
        with pytest.raises(ValueError, match=f"made with {said}.*move the folder away to train these") as refused:
            WeightsDataset.create(tmp_path, **{"layout": layout, "recipe": recipe, "initial": initial} | change)
        assert "\n" not in str(refused.value)
    monkeypatch.setattr(provenance, "training_code", lambda: "other")
    with pytest.raises(ValueError, match="made with another training code: move the folder away"):
        begin(tmp_path, layout, steps=5, timesteps=(0, 1000))
    WeightsDataset.open(tmp_path).verify()  # it can still be read
    assert dataset.header.made_with["torch"] == torch.__version__.split("+")[0]


def test_other_versions_of_the_libraries_are_no_reason_to_train_again(layout, tmp_path, monkeypatch):
    begin(tmp_path, layout)
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "9.9"})
    assert "9.9" not in begin(tmp_path, layout).header.made_with.values()


SOURCE = """
def train(x):
    "How."
    if x < 0:
        raise ValueError(f"{x}: negative")
    return f"{2 * x:.1f}"  # twice
"""


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ("# twice", "# two times", False),
        ('"How."', '"""In another way,\n    at length."""', False),
        ("negative", "below zero", False),
        ("    return", "\n    return", False),
        ("2 * x", "3 * x", True),
        (".1f", ".2f", True),
        ("x < 0", "x <= 0", True),
        ("2 * x", "2 * (x)", False),
    ],
)
def test_the_code_that_trains_is_what_it_does(tmp_path, monkeypatch, old, new, counts):
    monkeypatch.setattr(provenance, "files", lambda package: tmp_path)
    hashes = []
    for text in (SOURCE, SOURCE.replace(old, new)):
        for name in provenance.SOURCES:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text if name == "training/loop.py" else "")
        hashes.append(provenance.training_code.__wrapped__())
    assert (hashes[0] != hashes[1]) == counts


def test_the_code_that_trains_is_all_that_the_loop_imports():
    """But for what opens files and checks arguments, every module of ours that the training loop uses counts."""
    import ast

    package = Path(provenance.__file__).parents[1]
    checks = {"files/tensors.py", "inputs.py", "training/compilation.py"}
    for source in provenance.SOURCES:
        for node in ast.walk(ast.parse((package / source).read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("w2w_lib."):
                imported = node.module.removeprefix("w2w_lib.").replace(".", "/") + ".py"
                assert imported in {*provenance.SOURCES, *checks}, f"{source} imports {imported}"


def test_the_stored_start_is_the_one_that_counts(layout, tmp_path, unchecked):
    initial = layout.initial()
    WeightsDataset.create(tmp_path, layout, {}, initial)
    rounded = WeightsDataset.create(tmp_path, layout, {}, initial * (1 + 1e-4))
    assert rounded.initial.equal(initial)
    save_file({"initial": initial * 2}, tmp_path / "initial.safetensors")
    with pytest.raises(ValueError, match=r"initial.safetensors: differs from the header's checksum"):
        WeightsDataset.open(tmp_path).verify()
    (tmp_path / "initial.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"initial.safetensors: no such file"):
        WeightsDataset.open(tmp_path).verify()
    for bad, said in (
        (initial[1:], "found shape"),
        (initial * torch.nan, "found NaN"),
        (initial.numpy(), "expected a tensor of floating-point numbers, found ndarray"),
        (initial.int(), "expected a tensor of floating-point numbers, found a tensor of torch.int32"),
    ):
        with pytest.raises(ValueError, match=f"initial: {said}"):
            WeightsDataset.create(tmp_path / "new", layout, {}, bad)


def test_a_dataset_that_cannot_be_begun_leaves_nothing(layout, tmp_path, unchecked):
    initial = layout.initial()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder, recipe, dtype, said in (
        ("new", {"lr": float("nan")}, torch.float32, "recipe: expected finite numbers, texts, lists"),
        ("new", {"folder": tmp_path}, torch.float32, "recipe: .*not JSON serializable"),
        ("new", {"name": "\udcff"}, torch.float32, "recipe: .*surrogates"),
        ("new", [1], torch.float32, r"recipe: expected dict, found list \[1\]"),
        ("new", {}, "float32", "dtype: expected dtype, found 'float32'"),
        ("new", {}, torch.int8, "dtype: expected one of floating-point numbers, found torch.int8"),
        ("file", {}, torch.float32, "file: cannot be made"),
        ("file/rows", {}, torch.float32, r"cannot be "),
        ("link", {}, torch.float32, "cannot be made"),
        ("n" * 300, {}, torch.float32, "cannot be made"),
    ):
        with pytest.raises(ValueError, match=said) as refused:
            WeightsDataset.create(tmp_path / folder, layout, recipe, initial, dtype)
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="layout: expected AdapterLayout, found None"):
        WeightsDataset.create(tmp_path / "new", None, {}, initial)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_nothing_is_added_where_the_dataset_has_gone(layout, tmp_path):
    dataset = filled(tmp_path / "rows", layout, ["a"])
    (tmp_path / "rows").rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError, match=r"header.json: no such file; .* open the dataset where it is now"):
        dataset.append(["b"], random_weights(layout, 1), torch.zeros(1))
    assert not (tmp_path / "rows").exists()


def test_identities_to_read_are_a_list_of_texts(layout, tmp_path, unchecked):
    dataset = filled(tmp_path, layout, ["a", "b"])
    for wrong, said in (("ab", "found 'ab'"), (0, "found 0"), ([["a"]], r"identity list \[.*: expected a text")):
        for read in (dataset.weights, dataset.require_only):
            with pytest.raises(ValueError, match=said):
                read(wrong)


def test_a_shard_that_is_overwritten_while_it_is_read_is_named(layout, tmp_path):
    rest = filled(tmp_path, layout, ["a"], ["b"]).batches(1)
    next(rest)
    for shard in tmp_path.glob("shard-*"):
        shard.write_bytes(b"x" * 10)
    with pytest.raises(ValueError, match=r"shard-.*: is no whole safetensors file"):
        next(rest)


def test_a_fingerprint_is_of_the_rows_and_not_of_their_shards_or_times(layout, tmp_path):
    weights, losses = random_weights(layout, 3), torch.zeros(3)
    one, two = begin(tmp_path / "one", layout), begin(tmp_path / "two", layout)
    one.append(["a", "b", "c"], weights, losses, seconds=1.0)
    for k in (2, 0, 1):
        two.append(["abc"[k]], weights[k : k + 1], losses[:1], seconds=2.0)
    assert one.fingerprint() == two.fingerprint()
    two.append(["d"], weights[:1], losses[:1])
    assert one.fingerprint() != two.fingerprint()
    assert one.fingerprint() != begin(tmp_path / "three", layout, steps=1).fingerprint()


def test_a_header_that_is_none_is_refused_in_one_line(layout, tmp_path):
    begin(tmp_path, layout)
    path = tmp_path / "header.json"
    header = json.loads(path.read_text())
    for text, said in (
        ("{", "JSONDecodeError"),
        ("[]", "valid dictionary"),
        (json.dumps({k: v for k, v in header.items() if k != "code"}), "code is missing"),
        (json.dumps(header | {"cod": "x"}), "no setting 'cod', did you mean 'code'"),
        (json.dumps(header | {"dtype": 5}), "dtype: Input should be a valid string, found 5"),
        (json.dumps(header | {"layout": {}}), "header.json: "),
        (b"\xff\xfe", "header.json: "),
    ):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match=said) as refused:
            WeightsDataset.open(tmp_path)
        assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)
        assert "move the folder away to train these people again" in str(refused.value)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match=r"header.json: is no regular file"):
        WeightsDataset.open(tmp_path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"header.json: no such file.*run the fine-tuning first"):
        WeightsDataset.open(tmp_path)


# ---------------------------------------------------------------------------------------------------- what is found out


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


# ------------------------------------------------------------------------------------------------- at the paper's size


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
