"""The authors' release: imported as float64 NumPy has it."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_release import COMPONENTS, KNOWN
from tiny_base import stable_diffusion_unet, tiny_pipeline
from typer.testing import CliRunner

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.release import files, importing
from w2w_lib.release.directions import as_direction, released_direction
from w2w_lib.release.importing import import_release, on_base, open_import
from w2w_lib.release.random_base import random_stable_diffusion
from w2w_lib.space.directions import fit_directions
from w2w_lib.space.weight_space import WeightSpace
from w2w_lib.workbook.cli import app


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


def test_what_is_written(release, imported, narrow_layout, narrow_base, tmp_path):
    folder, planted = release
    said = []
    import_release(folder, tmp_path / "ours", COMPONENTS, narrow_base, said.append)
    assert len(said) == 1 and "planted numbers" in said[0] and "non-commercial" in said[0]
    space, labels = open_import(tmp_path / "ours")
    assert space.layout == narrow_layout and space.source == imported.source and space.ids == list(planted.labels.index)
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


def test_column_major_components_and_files_in_a_folder(release, theirs, imported, narrow_base, tmp_path):
    (theirs / "files").mkdir()
    for name in files.FILES:
        (theirs / name).rename(theirs / "files" / name)
    basis = torch.load(theirs / "files" / "V.pt")
    torch.save(basis.T.contiguous().T, theirs / "files" / "V.pt")
    torch.save(torch.load(theirs / "files" / "mean.pt")[None], theirs / "files" / "mean.pt")
    space = import_release(theirs, tmp_path / "ours", COMPONENTS, narrow_base, show=lambda text: None)
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


def test_a_space_gets_a_base(release, imported, narrow_base, tmp_path):
    other = random_stable_diffusion()
    with torch.no_grad():
        other.unet.conv_in.weight += 1
    own = on_base(imported, other)
    assert own.layout.base == fingerprint(other) != imported.layout.base
    with pytest.raises(ValueError, match=r"adapter tensor .* is"):
        on_base(imported, tiny_pipeline())


@pytest.mark.slow
def test_an_interrupted_import_leaves_what_was_there(release, narrow_base, tmp_path, monkeypatch, quick_disk):
    out, folder = tmp_path / "ours", release[0]
    import_release(folder, out, 5, narrow_base, show=lambda text: None)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def killed(self, path):
        Path(path).write_text("half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WeightSpace, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            import_release(folder, out, COMPONENTS, narrow_base, show=lambda text: None)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
    (tmp_path / ".ours.importing").mkdir()  # of a process that was killed outright
    import_release(folder, out, COMPONENTS, narrow_base, show=lambda text: None)
    assert len(open_import(out)[0].components) == COMPONENTS
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(ValueError, match="something else is there; expected an earlier import"):
        import_release(folder, tmp_path / "mine", 5, narrow_base)


@pytest.mark.slow
def test_the_command(release, narrow_base, tmp_path):
    narrow_base.save_pretrained(tmp_path / "base")
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
    narrow_layout = AdapterLayout.of(stable_diffusion_unet(), files.RELEASED_ON, "release", 1, 27.0)
    torch.save({f.key: [[f.size], torch.Size(f.shape)] for f in narrow_layout.factors}, tmp_path / files.DIMENSIONS)
    (tmp_path / "adapter_config.json").write_text('{"r": 1, "lora_alpha": 27, "target_modules": ["to_q", "to_v"]}')
    found = files.read_layout({name: tmp_path / name for name in files.FILES}, None)
    assert found == narrow_layout and found.dimension == 99_648
    starts = np.cumsum([0, *(f.size for f in found.factors)])
    assert starts[next(i for i, f in enumerate(found.factors) if "mid_block" in f.key)] == 35_968


@pytest.mark.parametrize(("with_weights", "within"), [(True, 0.1), (False, 0.3)])
def test_more_components_than_coefficients(release, theirs, narrow_base, narrow_layout, tmp_path, with_weights, within):
    """Truth: the planted deviations, which fall as k^-0.35, and projections in float64."""
    planted = release[1]
    folder = release[0] if with_weights else theirs
    space = import_release(folder, tmp_path / "out", 40, narrow_base, show=lambda text: None)
    assert space.known == KNOWN and space.components.shape == (40, narrow_layout.dimension)
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


def test_components_in_bf16(release, narrow_base, tmp_path):
    """Half the file; a weight vector differs by the rounding of 8 bits."""
    folder, planted = release
    exact, half = (
        import_release(folder, tmp_path / str(dtype), 20, narrow_base, show=lambda text: None, dtype=dtype)
        for dtype in (torch.float32, torch.bfloat16)
    )
    sizes = [(tmp_path / str(d) / "space.safetensors").stat().st_size for d in (torch.float32, torch.bfloat16)]
    assert half.components.dtype == torch.bfloat16 and sizes[1] < 0.65 * sizes[0]
    c = planted.coefficients[:3, :20].contiguous()
    change, rounded = (space.unproject(c) - space.mean for space in (exact, half))
    assert 0 < ((change - rounded).norm() / change.norm()).item() < 2**-8
    with pytest.raises(ValueError, match=r"dtype torch\.float16: expected one of"):
        import_release(folder, tmp_path / "out", 20, narrow_base, dtype=torch.float16)
