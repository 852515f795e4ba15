"""Files of the authors' release that do not fit, and what else stops an import: one line each, nothing written."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_release import COMPONENTS, KNOWN, MODELS
from test_release_frames import Payload

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.release import files
from w2w_lib.release.importing import import_release
from w2w_lib.release.synthetic import write_release


def numbers(folder: Path, name: str) -> np.ndarray:
    return torch.load(folder / name, weights_only=True).double().numpy()


def refusal(folder, out, narrow_base, said, kind=ValueError, components=COMPONENTS) -> str:
    """One line that says so; nothing was written."""
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(kind, match=said) as caught:
        import_release(folder, out, components, narrow_base, show=lambda text: None)
    text = str(caught.value)
    assert "\n" not in text and sorted(out.parent.rglob("*")) == before and not out.exists()
    return text


def changed(path: Path, change) -> None:
    torch.save(change(torch.load(path, weights_only=False)), path)


def with_entry(tensor, index, value):
    tensor[index] = value
    return tensor


@pytest.mark.parametrize("name", files.FILES)
def test_a_missing_file(theirs, narrow_base, tmp_path, name):
    (theirs / name).unlink()
    assert name in refusal(
        theirs, tmp_path / "out", narrow_base, "no such file; expected .* download", FileNotFoundError
    )


@pytest.mark.parametrize("name", files.FILES)
def test_an_empty_or_truncated_file(theirs, narrow_base, tmp_path, name):
    whole = (theirs / name).read_bytes()
    for part in (whole[: len(whole) // 2], whole[:-1] if name.endswith(".pt") else whole[:-3], b""):
        (theirs / name).write_bytes(part)
        assert name in refusal(theirs, tmp_path / "out", narrow_base, "download it again")


@pytest.mark.parametrize("name", ["mean.pt", "std.pt", "V.pt", "proj_1000pc.pt", "identity_df.pt"])
def test_a_download_with_a_hole(theirs, narrow_base, tmp_path, name):
    data = bytearray((theirs / name).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 512] = bytes(512)
    (theirs / name).write_bytes(data)
    assert name in refusal(theirs, tmp_path / "out", narrow_base, "expected")


@pytest.mark.parametrize("name", [*files.FILES, files.ALL_WEIGHTS])
@pytest.mark.parametrize("how", ["torch", "bare", "inside"])
def test_a_pickle_with_code_never_runs(theirs, narrow_base, tmp_path, name, how):
    marker, path = tmp_path / "ran", theirs / name
    path.parent.mkdir(parents=True, exist_ok=True)
    genuine = torch.load(path, weights_only=False) if path.suffix == ".pt" and path.exists() else torch.ones(3)
    evil = [genuine, Payload(marker)] if how == "inside" else Payload(marker)
    torch.save(evil, path, _use_new_zipfile_serialization=how != "bare")
    text = refusal(theirs, tmp_path / "out", narrow_base, "expected")
    assert path.name in text and not marker.exists()
    if name.endswith(".pt"):
        torch.load(path, weights_only=False)
        assert marker.exists()  # the payload is one


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("std.pt", lambda t: with_entry(t, 7, 0.0), "std.pt .*is 0 for the numbers 7; expected none"),
        ("std.pt", lambda t: with_entry(t, 7, float("nan")), "std.pt .*NaN"),
        ("mean.pt", lambda t: with_entry(t, 7, float("inf")), "mean.pt .*infinite"),
        ("mean.pt", lambda t: t[:-1].clone(), "mean.pt .*of shape"),
        ("mean.pt", lambda t: t.double(), "mean.pt: holds a tensor of torch.float64; expected one tensor of"),
        ("V.pt", lambda t: t.bfloat16(), "V.pt: holds a tensor of torch.bfloat16"),
        ("V.pt", lambda t: t.T.contiguous(), "V.pt .*it is transposed"),
        ("V.pt", lambda t: with_entry(t, (3, 4), float("nan")), "V.pt .*NaN"),
        ("V.pt", lambda t: t * 1.1, "V.pt .*not orthonormal"),
        ("V.pt", lambda t: torch.ones(1, 1).expand(t.shape), "V.pt: has not the numbers of its shape"),
        ("V.pt", lambda t: {"V": t}, "V.pt: holds dict"),
        ("proj_1000pc.pt", lambda t: t.T.contiguous(), "proj_1000pc.pt .*(transposed|fewer models|more components)"),
        ("proj_1000pc.pt", lambda t: t[:, :12].flip(1), "proj_1000pc.pt .*a deviation of .* falls"),
        ("proj_1000pc.pt", lambda t: with_entry(t, 9, 0.0), "proj_1000pc.pt .*only zeros for the models 9"),
        ("proj_1000pc.pt", lambda t: with_entry(t, (9, 2), float("nan")), "proj_1000pc.pt .*NaN"),
        ("proj_1000pc.pt", lambda t: t[:-1].clone(), "300 rows, and coefficients of 299 models"),
        ("identity_df.pt", lambda t: t.iloc[:-1], "299 rows, and coefficients of 300 models"),
        ("identity_df.pt", lambda t: t.sample(frac=1, random_state=0), "labels do not follow from the coefficients"),
        ("identity_df.pt", lambda t: t.replace({-1: 2}), "label .* is 2 in .* expected -1 or 1"),
        (
            "identity_df.pt",
            lambda t: t.set_axis(pd.Index(["a"] * MODELS, dtype=object)),
            "several rows of the same name",
        ),
        ("weight_dimensions.pt", lambda d: dict(reversed(d.items())), "keys are in another order, .* expected sorted"),
        ("weight_dimensions.pt", lambda d: dict(list(d.items())[2:]), "is missing .and 1 more.*of this base"),
        ("weight_dimensions.pt", lambda d: {k: [[3], v[1]] for k, v in d.items()}, "expected {key: .*count"),
        ("weight_dimensions.pt", lambda d: [1], "weight_dimensions.pt: holds list"),
    ],
)
def test_files_that_do_not_fit(theirs, narrow_base, tmp_path, name, change, said):
    changed(theirs / name, change)
    refusal(theirs, tmp_path / "out", narrow_base, said)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("std.pt", lambda t: -t),
        ("mean.pt", lambda t: t.roll(32)),
        ("V.pt", lambda t: t * with_entry(torch.ones(t.shape[1]), 2, -1.0)),
        ("V.pt", lambda t: t.flip(0)),
        ("proj_1000pc.pt", lambda t: t.roll(1, 0)),
    ],
    ids=["std negated", "mean rolled", "a sign of V", "order of keys", "rows one further"],
)
def test_weights_reveal_order_and_sign(release, theirs, narrow_base, tmp_path, name, change, monkeypatch):
    monkeypatch.setattr("w2w_lib.release.checks.check_labels", lambda *arguments: "")
    (theirs / "weights_datasets").symlink_to(release[0] / "weights_datasets")
    changed(theirs / name, change)
    text = refusal(theirs, tmp_path / "out", narrow_base, "differs from z.*in the rows 0 ")
    assert "same signs" in text


def test_weights_reveal_components_that_were_fitted_without_the_signs(release, theirs, narrow_base, tmp_path):
    """Three signs of 6,816 change coefficients by less than what files in 16 bits would be off by."""
    (theirs / "weights_datasets").symlink_to(release[0] / "weights_datasets")
    signs = release[1].std.sign()[:, None]
    changed(theirs / "V.pt", lambda t: t * signs)
    refusal(
        theirs, tmp_path / "out", narrow_base, "coefficients follow from std.pt without signs .1.00 of the difference"
    )


def test_configurations_and_components(theirs, narrow_base, tmp_path):
    out = tmp_path / "out"
    refusal(theirs, out, narrow_base, "components: 41 asked for, V.pt .* has 40; ask for fewer", components=41)
    refusal(theirs, out, narrow_base, "components: expected a whole number", components=0)
    config = json.loads((theirs / "adapter_config.json").read_text())
    for wrong, said in (
        ({"r": 2}, "expected shape .*of rank 2"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"r": 0}, "r:"),
    ):
        (theirs / "adapter_config.json").write_text(json.dumps(config | wrong))
        refusal(theirs, out, narrow_base, said)


def test_other_bases(theirs, narrow_base, narrow_layout, tmp_path, unchecked):
    out = tmp_path / "out"
    refusal(theirs, out, None, "weight_dimensions.pt: .*expected shape .*of this base; give the base")
    (tmp_path / "sdxl").mkdir()
    (tmp_path / "sdxl" / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    refusal(theirs, out, tmp_path / "sdxl", "of class 'StableDiffusionXLPipeline'; expected StableDiffusionPipeline")
    refusal(theirs, out, 3, "base: expected a base that")
    other = tmp_path / "other layers"
    paper = AdapterLayout.of(narrow_base.unet, narrow_layout.base, "paper", 1, 27.0)
    write_release(other, paper, MODELS, 40, KNOWN)
    refusal(other, out, narrow_base, "attn1.to_q.lora_A.weight is missing .*not in the layout")


def test_a_small_disk(release, narrow_base, small_disk):
    refusal(release[0], small_disk / "out", narrow_base, "free, the space takes .*make some")


def test_a_hub_name_shows_the_licence_first_and_takes_only_what_is_read(release, narrow_base, tmp_path, monkeypatch):
    events = []

    def download(name, allow_patterns):
        events.append((name, allow_patterns))
        return str(release[0])

    monkeypatch.setattr(files, "snapshot_download", download)
    import_release("snap/w2w", tmp_path / "out", 5, narrow_base, show=events.append)
    (name, first), shown, (_, second) = events
    assert name == "snap/w2w" and "non-commercial" in shown and all(p.startswith(("LICEN", "README")) for p in first)
    assert {os.path.basename(pattern) for pattern in second} == set(files.FILES)
    assert json.loads((tmp_path / "out" / "source.json").read_text())["release"] == "snap/w2w"

    def offline(name, allow_patterns):
        raise OSError("no\nnetwork")

    monkeypatch.setattr(files, "snapshot_download", offline)
    refusal("snap/w2w", tmp_path / "x" / "out", narrow_base, "the hub|does not give it .no.", FileNotFoundError)
    for wrong in ("./nothing", tmp_path / "nothing", "nothing"):
        refusal(wrong, tmp_path / "x" / "out", narrow_base, "no such folder; expected", FileNotFoundError)


def test_weights_of_another_shape_are_named_before_they_are_projected(release, theirs, narrow_base, tmp_path):
    path = theirs / files.ALL_WEIGHTS
    path.parent.mkdir(parents=True)
    torch.save(torch.zeros(MODELS, 7), path)
    refusal(theirs, tmp_path / "out", narrow_base, r"all_weights.pt in .* of shape \(300, 7\); expected", components=40)
