"""What decides a row: rows that were made otherwise are not added to."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from toy_dataset import begin, filled, random_weights

from w2w_lib.training import provenance
from w2w_lib.training.weights_dataset import WeightsDataset

pytestmark = pytest.mark.usefixtures("quick_disk")


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
    checks = {"files/tensors.py", "inputs.py", "models/fingerprint.py", "training/compilation.py"}
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
    for wrong, said in (("ab", "found 'ab'"), (0, "found 0"), ([["a"]], "expected texts, found list")):
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
