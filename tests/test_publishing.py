"""What a reader of the repository's page sees: put under the notebooks, and proved to be current."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import Checkout, enter, toy_checkout
from nbformat.v4 import new_output
from ruamel.yaml import YAML
from test_workbook import choose, edit, save_from_jupyter

from w2w_lib.training.provenance import training_code
from w2w_lib.workbook import cli, page, paths, pipeline, provenance, publishing, runner, settings


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A toy checkout that looks as if its smoke profile had been reproduced; not to be changed."""
    checkout = toy_checkout(tmp_path_factory.mktemp("ran") / "w2w")
    with pytest.MonkeyPatch.context() as monkeypatch:
        enter(checkout.root, monkeypatch)
        pipeline.prepare()
        for path in runner.notebooks():
            pretend_to_run(path)
    return checkout


@pytest.fixture
def own(ran, tmp_path, monkeypatch):
    """A copy of it, to be changed, which this process takes for the repository."""
    root = Path(shutil.copytree(ran.root, tmp_path / "w2w"))
    enter(root, monkeypatch)
    return Checkout(root)


def pretend_to_run(path: Path, printed: str = "smoke\n", profile: str = "smoke", **numbers: float) -> None:
    """What a run of a notebook leaves: its executed copy, its metrics, and an entry of dvc.lock."""
    stage, notebook = provenance.stage_of(path), runner.read(path)
    notebook.metadata.w2w = {
        "profile": profile,
        "code_md5": runner.fingerprint(notebook),
        "sources": provenance.sources(stage, runner.code(notebook), profile, settings.written()[profile]),
        "ran": {"began": "2026-01-01T00:00:00+00:00"},
    }
    for count, cell in enumerate(runner.code_cells(notebook), 1):
        cell.execution_count, cell.metadata.papermill = count, {"duration": 1.0}
    runner.code_cells(notebook)[-1].outputs = [new_output("stream", name="stdout", text=printed)]
    executed = paths.outputs(profile, "notebooks", path.name)
    executed.parent.mkdir(parents=True, exist_ok=True)

    nbformat.write(notebook, executed)
    paths.metrics(profile, stage).write_text(json.dumps({"value": 1.0} | numbers))
    locked(stage, profile)


def locked(stage: str, profile: str = "smoke", **changed: str) -> None:
    """Note in dvc.lock what a stage read and made; ``changed`` has other hashes, by name."""
    file = paths.ROOT / "dvc.lock"
    lock = YAML(typ="safe").load(file) if file.exists() else {"schema": "2.0", "stages": {}}
    (notebook,) = (path for path in runner.notebooks() if provenance.stage_of(path) == stage)
    files = [paths.outputs(profile, "notebooks", notebook.name), paths.metrics(profile, stage)]
    made = {paths.shown(path): provenance.md5(path) for path in files}
    made |= {f"outputs/{profile}/{name}": f"of {name}" for name in MADE.get(stage, [])}
    read = {f"outputs/{profile}/{name}": f"of {name}" for name in READ.get(stage, [])}
    lock["stages"][f"{stage}@{profile}"] = {
        "deps": [{"path": path, "md5": changed.get(Path(path).name, md5)} for path, md5 in read.items()],
        "outs": [{"path": path, "md5": md5} for path, md5 in made.items()],
    }
    YAML().dump(lock, file)


MADE = {
    "people": ["people"],
    "finetune": ["weights"],
    "space": ["space"],
    "edit": ["directions"],
    "invert": ["inversions"],
    "scale": ["scale"],
}
READ = {
    "finetune": ["people"],
    "space": ["people", "weights"],
    "edit": ["people", "weights", "space"],
    "scale": ["people", "weights"],
}


def problems() -> str:
    return "\n".join(page.check("smoke"))


def refusal() -> str:
    with pytest.raises(ValueError, match="nothing published") as refused:
        publishing.publish("smoke")
    return str(refused.value)


def test_publishing_keeps_outputs_numbers_and_what_they_come_from(own):
    assert "03_space.ipynb: holds no outputs: run `make reproduce PROFILE=smoke`" in problems()
    publishing.publish("smoke")
    assert problems() == ""
    published = runner.read(own.notebook("03_space"))
    cells = runner.code_cells(published)
    assert cells[0].source.startswith('profile = "pocket"') and cells[-1].outputs[0].text == "smoke\n"
    assert not any(cell.execution_count or "papermill" in cell.metadata for cell in cells)
    assert set(published.metadata) == {"w2w"} and "sources" not in published.metadata.w2w
    folder = own.root / "published/smoke"
    assert json.loads((folder / "metrics/space.json").read_text()) == {"value": 1.0}
    record = json.loads((folder / "provenance.json").read_text())["03_space"]
    assert record["read"] == {"outputs/smoke/people": "of people", "outputs/smoke/weights": "of weights"}
    assert {"params.yaml: smoke.space", "data/base/pocket/model_index.json"} < record["sources"].keys()
    assert "w2w_lib/space/weight_space.py" in record["sources"]
    assert not any("training/fleet" in name or "__pycache__" in name for name in record["sources"])


def test_the_check_needs_neither_dvc_nor_outputs_and_names_what_is_stale(own):
    publishing.publish("smoke")
    (own.root / "dvc.lock").unlink()
    (own.root / "outputs").rename(own.root / "gone")
    assert problems() == ""
    edit(own.notebook("01_people"), "# Toy", "# Better words")
    assert problems() == ""
    edit(own.notebook("04_edit"), "print(profile)", "print(profile, 1)")
    edit(own.root / "w2w_lib/training/fleet.py", "\nclass Fleet", "\n# another\nclass Fleet")
    edit(own.root / "params.yaml", "first_seed: 3000", "first_seed: 3001")
    (own.root / "data/classifier/attributes.safetensors").write_text("another")
    (own.root / "published/smoke/metrics/space.json").write_text("{}")
    said = {line.split(": ")[0].removeprefix("notebooks/"): line for line in problems().splitlines()}
    unconcerned = {"00_base.ipynb", "09_release.ipynb"}  # read none of these
    assert set(said) == {path.name for path in runner.notebooks()} - unconcerned
    assert "another data/classifier/attributes.safetensors: run" in said["01_people.ipynb"]
    assert "another w2w_lib/training/fleet.py: run" in said["02_finetune.ipynb"]
    assert "published/smoke/metrics/space.json is not what it measured" in said["03_space.ipynb"]
    assert "its code is not the code that made its outputs" in said["04_edit.ipynb"]
    assert "another params.yaml: smoke.invert, w2w_lib/training/fleet.py: run" in said["05_invert.ipynb"]


def test_the_base_is_stale_when_the_benchmark_that_it_shows_is_another(own):
    publishing.publish("smoke")
    assert problems() == ""
    (own.root / "benchmarks/encoders.json").write_text("another")
    assert "00_base.ipynb: its outputs are of another benchmarks/encoders.json: run" in problems()


def test_a_save_from_jupyter_is_told_apart_and_mended(own):
    publishing.publish("smoke")
    save_from_jupyter(own.notebook("01_people"))
    assert "01_people.ipynb: was saved from Jupyter with other outputs" in problems()
    publishing.publish("smoke")
    assert problems() == ""


def test_what_is_not_of_the_present_sources_is_not_published(own):
    before = own.touched()
    edit(own.notebook("04_edit"), "print(profile)", "print(profile, 1)")
    edit(own.root / "w2w_lib/training/fleet.py", "\nclass Fleet", "\n# another\nclass Fleet")
    choose(own, "smoke", invert__smoothing=2)
    pipeline.prepare()
    pretend_to_run(own.notebook("05_invert"))
    said = refusal()
    assert "04_edit.ipynb: its executed copy ran other code: run `make reproduce PROFILE=smoke`" in said
    assert "02_finetune.ipynb: its executed copy is of another w2w_lib/training/fleet.py" in said
    assert "05_invert.ipynb: its executed copy is of another params.yaml: smoke.invert" in said
    assert not (own.root / "published/smoke").exists() and before == ""


def test_what_the_pipeline_did_not_make_is_not_published(own):
    paths.outputs("smoke", "notebooks", "03_space.ipynb").unlink()
    assert "03_space.ipynb: was not executed" in refusal()
    pretend_to_run(own.notebook("03_space"))
    paths.metrics("smoke", "space").write_text('{"value": 2.0}')
    assert "outputs/smoke/metrics/space.json is not what the pipeline made" in refusal()


def test_weights_by_other_code_are_not_published(own):
    """Those of an interrupted run by the same code are, whichever part of it trained them."""
    header = paths.outputs("smoke", "weights", "train", "header.json")
    header.parent.mkdir(parents=True, exist_ok=True)
    header.write_text(json.dumps({"code": "0" * 64, "made_with": {}}))
    assert "02_finetune.ipynb: weights of train were trained by other code than the present: `rm -r" in refusal()
    header.write_text(json.dumps({"code": training_code(), "made_with": {}}))
    publishing.publish("smoke")


def test_notebooks_of_different_runs_are_told_apart(own):
    locked("space", weights="of other weights")
    publishing.publish("smoke")
    assert "03_space.ipynb: its outputs come from another outputs/smoke/weights than what is published" in problems()
    assert len(problems().splitlines()) == 1


def test_the_model_card_goes_to_its_base(own):
    card = paths.outputs("pocket", "base", "README.md")
    card.write_text("# measured")
    publishing._publish_card("pocket")
    assert (own.root / "data/base/pocket/README.md").read_text() == "# measured"
    publishing._publish_card("smoke")  # whose base is made where its card is


def test_published_outputs_are_current():
    assert runner.notebooks(), f"no notebooks in {paths.NOTEBOOKS}"
    assert page.check("pocket") == []


def test_kept_runs_are_as_they_were_kept():
    for file in paths.PUBLISHED.glob("*/notebooks/*.ipynb"):
        profile, notebook = file.parent.parent.name, runner.read(file)
        record = page.records_of(profile)[file.stem]
        assert page.is_intact(notebook, profile), file
        assert record["code"] == runner.fingerprint(notebook), file
        assert record["metrics"] == provenance.md5(page.metrics_of(profile, provenance.stage_of(file))), file


def test_a_run_is_kept_beside_the_page(own):
    before = own.notebook("07_scale").read_text()
    ((file, _),) = publishing.keep_beside("smoke", ["07_scale"])
    assert file == own.root / "published/smoke/notebooks/07_scale.ipynb"
    assert runner.code_cells(runner.read(file))[-1].outputs[0].text == "smoke\n"
    assert own.notebook("07_scale").read_text() == before
    assert json.loads((own.root / "published/smoke/metrics/scale.json").read_text()) == {"value": 1.0}
    assert list(page.records_of("smoke")) == ["07_scale"] and page.is_intact(runner.read(file), "smoke")
    test_kept_runs_are_as_they_were_kept()
    paths.outputs("smoke", "notebooks", "03_space.ipynb").unlink()
    for name, why in (("99_other", "no notebook"), ("03_space", "was not executed")):
        with pytest.raises(ValueError, match=why):
            publishing.keep_beside("smoke", [name])


def test_a_profile_takes_part_once_it_is_enrolled_and_its_runs_can_be_kept(own):
    cli.enrol("full", str(own.root / "data/base/pocket"), "")
    assert "full" in YAML(typ="safe").load(paths.PIPELINE / "profiles.yaml")["profiles"]
    pretend_to_run(own.notebook("07_scale"), "of 8,000 people\n", "full")
    ((file, _),) = publishing.keep_beside("full", ["07_scale"])
    assert runner.code_cells(runner.read(file))[-1].outputs[0].text == "of 8,000 people\n"
    sources = page.records_of("full")["07_scale"]["sources"]
    assert {"params.yaml: full.scale", "data/base/pocket/model_index.json"} < sources.keys()


@pytest.mark.parametrize("missing", ["source", "metadata", "cell_type", "outputs"])
def test_a_notebook_with_half_a_cell_is_refused(own, missing):
    path = own.notebook("03_space")
    notebook = json.loads(path.read_text())
    del notebook["cells"][1][missing]
    path.write_text(json.dumps(notebook))
    with pytest.raises(ValueError, match=r"03_space\.ipynb: is no notebook"):
        runner.read(path)


def test_a_notebook_that_is_gone_is_not_current(own):
    publishing.publish("smoke")
    own.notebook("03_space").unlink()
    assert "03_space.ipynb: was published and is gone" in problems()
    for path in runner.notebooks():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="holds no notebook"):
        page.check("smoke")


def test_a_withdrawn_notebook_claims_nothing_and_can_be_published_again(own):
    publishing.publish("smoke")
    with pytest.raises(ValueError, match="99_other: no notebook"):
        publishing.withdraw("smoke", ["99_other"])
    publishing.withdraw("smoke", ["07_scale"])
    path, metrics = own.notebook("07_scale"), own.root / "published/smoke/metrics/scale.json"
    assert problems() == "" and not metrics.exists()
    assert not any(cell.outputs or cell.execution_count for cell in runner.code_cells(runner.read(path)))
    records = json.loads((own.root / "published/smoke/provenance.json").read_text())
    assert records["07_scale"] == page.WITHDRAWN and "code" in records["04_edit"]
    path.write_text(
        path.read_text().replace(
            '"outputs": []', '"outputs": [{"output_type": "stream", "name": "stdout", "text": "by hand"}]', 1
        )
    )
    assert "07_scale" in problems()
    publishing.withdraw("smoke", ["07_scale"])
    executed = paths.outputs("smoke", "notebooks", path.name)
    hidden = executed.rename(executed.with_suffix(".hidden"))
    publishing.publish("smoke")
    assert problems() == "" and not metrics.exists()
    hidden.rename(executed)
    publishing.publish("smoke")
    assert problems() == "" and metrics.exists()


@pytest.mark.parametrize("file", ["dvc.lock", "dvc.yaml", "published/smoke/provenance.json"])
def test_records_of_another_form_are_refused(own, file):
    (own.root / file).parent.mkdir(parents=True, exist_ok=True)
    (own.root / file).write_text('{"stages": [1]}' if "dvc" in file else "[1]")
    with pytest.raises(ValueError, match=Path(file).name) as refused:
        publishing.publish("smoke")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("out", ["data/base", "outputs/base_training", "outputs/base_training/new/base"])
def test_another_base_does_not_replace_what_is_none(own, out):
    (own.root / "outputs/base_training/new").mkdir(parents=True)
    (own.root / "local.yaml").write_text(f"smoke: {{base: {{training: {{out: {out}}}}}}}")
    with pytest.raises(ValueError, match=r"base\.training\.out is "):
        pipeline.renew_base("smoke")
    assert (own.root / "data/base/pocket/model_index.json").exists()
