"""The authors' release: imported as float64 NumPy has it, and what does not fit refused."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from test_release_frames import Payload
from tiny_base import stable_diffusion_unet, tiny_pipeline
from typer.testing import CliRunner

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.release import files, importing
from w2w_lib.release.directions import as_direction, released_direction
from w2w_lib.release.importing import import_release, on_base, open_import
from w2w_lib.release.random_base import random_stable_diffusion
from w2w_lib.release.synthetic import write_release
from w2w_lib.space.directions import fit_directions
from w2w_lib.space.weight_space import WeightSpace
from w2w_lib.workbook.cli import app

KNOWN, COMPONENTS, MODELS = 20, 12, 300


@pytest.fixture(scope="module")
def base():
    return random_stable_diffusion()


@pytest.fixture(scope="module")
def layout(base):
    return AdapterLayout.of(base.unet, fingerprint(base), "release", 1, 27.0)


@pytest.fixture(scope="module")
def release(layout, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "theirs"
    return folder, write_release(folder, layout, MODELS, 40, KNOWN, with_weights=True)


@pytest.fixture(scope="module")
def imported(release, base, tmp_path_factory):
    return import_release(release[0], tmp_path_factory.mktemp("out") / "ours", COMPONENTS, base, show=lambda text: None)


@pytest.fixture
def theirs(release, tmp_path, quick_disk) -> Path:
    """A copy to damage, without the weights."""
    ignored = shutil.ignore_patterns("weights_datasets")
    return Path(shutil.copytree(release[0], tmp_path / "theirs", ignore=ignored))


def numbers(folder: Path, name: str) -> np.ndarray:
    return torch.load(folder / name, weights_only=True).double().numpy()


def their_z(folder: Path, theta: np.ndarray) -> np.ndarray:
    return (theta - numbers(folder, "mean.pt")) / numbers(folder, "std.pt")


def test_project_and_unproject_are_theirs(release, imported):
    """Truth: c = z V, theta = (c V^T) * std + mean in float64, from the files."""
    folder, planted = release
    basis = numbers(folder, "V.pt")[:, :COMPONENTS]
    theta = planted.weights(slice(0, 5)).double().numpy()
    expected = their_z(folder, theta) @ basis
    np.testing.assert_allclose(imported.project(torch.tensor(theta).float()), expected, rtol=1e-4, atol=1e-4)
    back = (expected @ basis.T) * numbers(folder, "std.pt") + numbers(folder, "mean.pt")
    np.testing.assert_allclose(imported.unproject(torch.tensor(expected).float()), back, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(imported.coefficients, numbers(folder, "proj_1000pc.pt")[:, :COMPONENTS])


def test_negative_deviations_keep_their_sign(release, imported):
    folder = release[0]
    negative = numbers(folder, "std.pt") < 0
    assert negative.sum() == 3 and ((imported.scale.numpy() < 0) == negative).all()
    coefficients = 5 * np.ones(COMPONENTS)
    z = numbers(folder, "V.pt")[:, :COMPONENTS] @ coefficients
    expected = (numbers(folder, "mean.pt") + z * numbers(folder, "std.pt"))[negative]
    found = imported.unproject(torch.tensor(coefficients).float())[torch.tensor(negative)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    flipped = numbers(folder, "mean.pt")[negative] - (expected - numbers(folder, "mean.pt")[negative])
    assert (abs(found.numpy() - flipped) > 1e-5).all()


def test_samples_have_their_moments(release, imported):
    proj = numbers(release[0], "proj_1000pc.pt")[:, :COMPONENTS]
    count = 20_000
    drawn = imported.sample(count, 0).double().numpy()
    error = proj.std(0, ddof=1) / count**0.5
    assert (abs(drawn.mean(0) - proj.mean(0)) < 5 * error).all()
    np.testing.assert_allclose(drawn.std(0), proj.std(0, ddof=1), rtol=0.03)


def test_what_is_written(release, imported, layout, base, tmp_path):
    folder, planted = release
    said = []
    import_release(folder, tmp_path / "ours", COMPONENTS, base, said.append)
    assert len(said) == 1 and "planted numbers" in said[0] and "non-commercial" in said[0]
    space, labels = open_import(tmp_path / "ours")
    assert space.layout == layout and space.source == imported.source and space.ids == list(planted.labels.index)
    pd.testing.assert_frame_equal(
        labels.astype(int) * 2 - 1, planted.labels, check_names=False, check_index_type=False, check_column_type=False
    )
    record = json.loads((tmp_path / "ours" / "source.json").read_text())
    assert record["negative standard deviations"] == 3 and not record["not checked"]
    for name in files.FILES:
        data = (folder / name).read_bytes()
        assert record["files"][name] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert sorted(p.name for p in (tmp_path / "ours").iterdir()) == [
        "labels.parquet",
        "source.json",
        "space.safetensors",
    ]


def test_column_major_components_and_files_in_a_folder(release, theirs, imported, base, tmp_path):
    (theirs / "files").mkdir()
    for name in files.FILES:
        (theirs / name).rename(theirs / "files" / name)
    basis = torch.load(theirs / "files" / "V.pt")
    torch.save(basis.T.contiguous().T, theirs / "files" / "V.pt")
    torch.save(torch.load(theirs / "files" / "mean.pt")[None], theirs / "files" / "mean.pt")
    space = import_release(theirs, tmp_path / "ours", COMPONENTS, base, show=lambda text: None)
    torch.testing.assert_close(space.components, imported.components, rtol=0, atol=0)
    record = json.loads((tmp_path / "ours" / "source.json").read_text())
    assert "all_weights.pt is not there" in record["not checked"][0]


def test_components_are_read_in_parts(release, monkeypatch):
    expected = torch.load(release[0] / "V.pt")[:, :7].T
    monkeypatch.setattr(importing, "CHUNK", 1000)
    found = importing._first_columns(release[0] / "V.pt", 7, torch.float32)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_labels_lead_to_the_planted_directions(release, imported):
    """Truth: the directions that were planted, in units of the coefficients' deviations."""
    planted = release[1]
    labels = (planted.labels > 0).astype(int)
    found = fit_directions(imported, labels, method="class means")
    truth = planted.normals[:COMPONENTS]
    cosines = [float(found[name].score.float() @ truth[:, i]) for i, name in enumerate(labels)]
    assert min(cosines) > 0.9


def refusal(folder, out, base, said, kind=ValueError, components=COMPONENTS) -> str:
    """One line that says so; nothing was written."""
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(kind, match=said) as caught:
        import_release(folder, out, components, base, show=lambda text: None)
    text = str(caught.value)
    assert "\n" not in text and sorted(out.parent.rglob("*")) == before and not out.exists()
    return text


def changed(path: Path, change) -> None:
    torch.save(change(torch.load(path, weights_only=False)), path)


def with_entry(tensor, index, value):
    tensor[index] = value
    return tensor


@pytest.mark.parametrize("name", files.FILES)
def test_a_missing_file(theirs, base, tmp_path, name):
    (theirs / name).unlink()
    assert name in refusal(theirs, tmp_path / "out", base, "no such file; expected .* download", FileNotFoundError)


@pytest.mark.parametrize("name", files.FILES)
def test_an_empty_or_truncated_file(theirs, base, tmp_path, name):
    whole = (theirs / name).read_bytes()
    for part in (whole[: len(whole) // 2], whole[:-1] if name.endswith(".pt") else whole[:-3], b""):
        (theirs / name).write_bytes(part)
        assert name in refusal(theirs, tmp_path / "out", base, "download it again")


@pytest.mark.parametrize("name", ["mean.pt", "std.pt", "V.pt", "proj_1000pc.pt", "identity_df.pt"])
def test_a_download_with_a_hole(theirs, base, tmp_path, name):
    data = bytearray((theirs / name).read_bytes())
    middle = len(data) // 2
    data[middle : middle + 512] = bytes(512)
    (theirs / name).write_bytes(data)
    assert name in refusal(theirs, tmp_path / "out", base, "expected")


@pytest.mark.parametrize("name", [*files.FILES, files.ALL_WEIGHTS])
@pytest.mark.parametrize("how", ["torch", "bare", "inside"])
def test_a_pickle_with_code_never_runs(theirs, base, tmp_path, name, how):
    marker, path = tmp_path / "ran", theirs / name
    path.parent.mkdir(parents=True, exist_ok=True)
    genuine = torch.load(path, weights_only=False) if path.suffix == ".pt" and path.exists() else torch.ones(3)
    evil = [genuine, Payload(marker)] if how == "inside" else Payload(marker)
    torch.save(evil, path, _use_new_zipfile_serialization=how != "bare")
    text = refusal(theirs, tmp_path / "out", base, "expected")
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
def test_files_that_do_not_fit(theirs, base, tmp_path, name, change, said):
    changed(theirs / name, change)
    refusal(theirs, tmp_path / "out", base, said)


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
def test_weights_reveal_order_and_sign(release, theirs, base, tmp_path, name, change, monkeypatch):
    monkeypatch.setattr("w2w_lib.release.checks.check_labels", lambda *arguments: "")
    (theirs / "weights_datasets").symlink_to(release[0] / "weights_datasets")
    changed(theirs / name, change)
    text = refusal(theirs, tmp_path / "out", base, "differs from z.*in the rows 0 ")
    assert "same signs" in text


def test_weights_reveal_components_that_were_fitted_without_the_signs(release, theirs, base, tmp_path):
    """Three signs of 6,816 change coefficients by less than what files in 16 bits would be off by."""
    (theirs / "weights_datasets").symlink_to(release[0] / "weights_datasets")
    signs = release[1].std.sign()[:, None]
    changed(theirs / "V.pt", lambda t: t * signs)
    refusal(theirs, tmp_path / "out", base, "coefficients follow from std.pt without signs .1.00 of the difference")


def test_configurations_and_components(theirs, base, tmp_path):
    out = tmp_path / "out"
    refusal(theirs, out, base, "components: 41 asked for, V.pt .* has 40; ask for fewer", components=41)
    refusal(theirs, out, base, "components: expected a whole number", components=0)
    config = json.loads((theirs / "adapter_config.json").read_text())
    for wrong, said in (
        ({"r": 2}, "expected shape .*of rank 2"),
        ({"lora_alpha": None}, "lora_alpha"),
        ({"r": 0}, "r:"),
    ):
        (theirs / "adapter_config.json").write_text(json.dumps(config | wrong))
        refusal(theirs, out, base, said)


def test_other_bases(theirs, base, layout, tmp_path, unchecked):
    out = tmp_path / "out"
    refusal(theirs, out, None, "weight_dimensions.pt: .*expected shape .*of this base; give the base")
    (tmp_path / "sdxl").mkdir()
    (tmp_path / "sdxl" / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    refusal(theirs, out, tmp_path / "sdxl", "of class 'StableDiffusionXLPipeline'; expected StableDiffusionPipeline")
    refusal(theirs, out, 3, "base: expected a base that")
    other = tmp_path / "other layers"
    paper = AdapterLayout.of(base.unet, layout.base, "paper", 1, 27.0)
    write_release(other, paper, MODELS, 40, KNOWN)
    refusal(other, out, base, "attn1.to_q.lora_A.weight is missing .*not in the layout")


def test_a_space_gets_a_base(release, imported, base, tmp_path):
    other = random_stable_diffusion()
    with torch.no_grad():
        other.unet.conv_in.weight += 1
    own = on_base(imported, other)
    assert own.layout.base == fingerprint(other) != imported.layout.base
    with pytest.raises(ValueError, match=r"adapter tensor .* is"):
        on_base(imported, tiny_pipeline())


@pytest.mark.slow
def test_an_interrupted_import_leaves_what_was_there(release, base, tmp_path, monkeypatch, quick_disk):
    out, folder = tmp_path / "ours", release[0]
    import_release(folder, out, 5, base, show=lambda text: None)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def killed(self, path):
        Path(path).write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WeightSpace, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            import_release(folder, out, COMPONENTS, base, show=lambda text: None)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
    (tmp_path / ".ours.importing").mkdir()  # of a process that was killed outright
    import_release(folder, out, COMPONENTS, base, show=lambda text: None)
    assert len(open_import(out)[0].components) == COMPONENTS
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="something else is there; expected an earlier import"):
        import_release(folder, tmp_path / "mine", 5, base)


def test_a_small_disk(release, base, small_disk):
    refusal(release[0], small_disk / "out", base, "free, the space takes .*make some")


def test_a_hub_name_shows_the_licence_first_and_takes_only_what_is_read(release, base, tmp_path, monkeypatch):
    events = []

    def download(name, allow_patterns):
        events.append((name, allow_patterns))
        return str(release[0])

    monkeypatch.setattr(files, "snapshot_download", download)
    import_release("snap/w2w", tmp_path / "out", 5, base, show=events.append)
    (name, first), shown, (_, second) = events
    assert name == "snap/w2w" and "non-commercial" in shown and all(p.startswith(("LICEN", "README")) for p in first)
    assert {os.path.basename(pattern) for pattern in second} == set(files.FILES)
    assert json.loads((tmp_path / "out" / "source.json").read_text())["release"] == "snap/w2w"

    def offline(name, allow_patterns):
        raise OSError("no\nnetwork")

    monkeypatch.setattr(files, "snapshot_download", offline)
    refusal("snap/w2w", tmp_path / "x" / "out", base, "the hub|does not give it .no.", FileNotFoundError)
    for wrong in ("./nothing", tmp_path / "nothing", "nothing"):
        refusal(wrong, tmp_path / "x" / "out", base, "no such folder; expected", FileNotFoundError)


@pytest.mark.slow
def test_the_command(release, base, tmp_path):
    base.save_pretrained(tmp_path / "base")
    words = ["import-release", str(release[0]), str(tmp_path / "out"), "--components", "5"]
    done = CliRunner().invoke(app, [*words, "--base", str(tmp_path / "base")])
    assert done.exit_code == 0, done.exception
    assert "non-commercial" in done.output and "300 models and 5 components" in done.output


def test_a_licence_is_shown_as_plain_text(tmp_path):
    (tmp_path / "LICENSE").write_text("Snap\x1b[2J\n" + "line\n" * 100)
    text = files.licence(tmp_path)
    assert "\x1b" not in text and "(41 more lines in" in text and text.endswith(files.NON_COMMERCIAL)


def test_the_layout_at_full_size(tmp_path):
    """The release's order: 99,648 numbers, the mid block from 35,968."""
    layout = AdapterLayout.of(stable_diffusion_unet(), files.RELEASED_ON, "release", 1, 27.0)
    torch.save({f.key: [[f.size], torch.Size(f.shape)] for f in layout.factors}, tmp_path / files.DIMENSIONS)
    (tmp_path / "adapter_config.json").write_text('{"r": 1, "lora_alpha": 27, "target_modules": ["to_q", "to_v"]}')
    found = files.read_layout({name: tmp_path / name for name in files.FILES}, None)
    assert found == layout and found.dimension == 99_648
    starts = np.cumsum([0, *(f.size for f in found.factors)])
    assert starts[next(i for i, f in enumerate(found.factors) if "mid_block" in f.key)] == 35_968


@pytest.mark.parametrize(("with_weights", "within"), [(True, 0.1), (False, 0.3)])
def test_more_components_than_coefficients(release, theirs, base, layout, tmp_path, with_weights, within):
    """Truth: the planted deviations, which fall as k^-0.35, and projections in float64."""
    planted = release[1]
    folder = release[0] if with_weights else theirs
    space = import_release(folder, tmp_path / "out", 40, base, show=lambda text: None)
    assert space.known == KNOWN and space.components.shape == (40, layout.dimension)
    expected = planted.coefficients.std(0)
    torch.testing.assert_close(space.std[:KNOWN], expected[:KNOWN])
    torch.testing.assert_close(space.std, expected, rtol=within, atol=0)
    told = json.loads((tmp_path / "out" / "source.json").read_text())["standard deviations"]
    assert ("300 rows" in told) if with_weights else ("extrapolated from component 20" in told)
    theta = planted.weights(slice(0, 3))
    expected = their_z(folder, theta.double().numpy()) @ numbers(folder, "V.pt")
    np.testing.assert_allclose(space.project(theta), expected, rtol=1e-4, atol=1e-3)
    # Directions move along the known components alone, and samples along all of them.
    labels = planted.labels > 0
    released = released_direction(space, labels, "Male")
    assert released[:KNOWN].all() and not released[KNOWN:].any()
    ours, unit = as_direction(space, "Male", released)
    step = released @ space.components * space.scale
    torch.testing.assert_close(ours.step(space, unit), step, rtol=1e-3, atol=1e-5 * step.abs().max().item())
    sampled = space.sample(4000, seed=0)
    torch.testing.assert_close(sampled.std(0), space.std, rtol=0.06, atol=0)
    assert space.nearest(space.project(planted.weights(slice(5, 6))))[0] == [[space.ids[5]]]


def test_components_in_bf16(release, base, tmp_path):
    """Half the file; a weight vector differs by the rounding of 8 bits."""
    folder, planted = release
    exact, half = (
        import_release(folder, tmp_path / str(dtype), 20, base, show=lambda text: None, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    sizes = [(tmp_path / str(d) / "space.safetensors").stat().st_size for d in (torch.float32, torch.bfloat16)]
    assert half.components.dtype == torch.bfloat16 and sizes[1] < 0.65 * sizes[0]
    c = planted.coefficients[:3, :20].contiguous()
    change, rounded = (space.unproject(c) - space.mean for space in (exact, half))
    assert 0 < ((change - rounded).norm() / change.norm()).item() < 2**-8
    with pytest.raises(ValueError, match=r"dtype torch\.float16: expected one of"):
        import_release(folder, tmp_path / "out", 20, base, dtype=torch.float16)


def test_weights_of_another_shape_are_named_before_they_are_projected(release, theirs, base, tmp_path):
    path = theirs / files.ALL_WEIGHTS
    path.parent.mkdir(parents=True)
    torch.save(torch.zeros(MODELS, 7), path)
    refusal(theirs, tmp_path / "out", base, r"all_weights.pt in .* of shape \(300, 7\); expected", components=40)
