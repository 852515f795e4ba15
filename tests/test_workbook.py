"""The workbook as a pipeline, on checkouts of this repository: its stages on toy notebooks, then smoke."""

import ast
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import pytest
from conftest import Checkout, copy_repository, toy_checkout, write_notebook
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image
from ruamel.yaml import YAML
from tiny_base import narrow_stable_diffusion

from w2w_lib.people.people_set import People
from w2w_lib.workbook import paths, publishing, runner

UP_TO_DATE = "Data and pipelines are up to date."


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A toy checkout whose smoke profile was reproduced; not to be changed."""
    checkout = toy_checkout(tmp_path_factory.mktemp("toy") / "w2w")
    checkout.reproduce("smoke")
    return checkout


@pytest.fixture
def own(toy, tmp_path):
    """A copy of it, to be changed."""
    return Checkout(shutil.copytree(toy.root, tmp_path / "w2w"))


def edit(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def change_parameters(checkout, profile: str, section: str, **changes) -> None:
    yaml = YAML()
    params = yaml.load(checkout.root / "params.yaml")
    params[profile][section].update(changes or {"more": 1})
    yaml.dump(params, checkout.root / "params.yaml")


def save_from_jupyter(path) -> None:
    """What JupyterLab leaves in a notebook that was opened, run and saved."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.kernelspec = {"name": "other", "display_name": "Other", "language": "python"}
    for count, cell in enumerate(runner.code_cells(notebook), 1):
        cell.execution_count = count
        cell.metadata.execution = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
        cell.outputs = [new_output("stream", name="stdout", text="seen\n")]
    nbformat.write(notebook, path)


def test_reproduced_profile_is_clean_and_a_second_run_does_nothing(toy):
    said = toy.reproduce("smoke")
    assert "Running" not in said and UP_TO_DATE in said
    assert UP_TO_DATE in toy.changed("smoke")


def test_saving_from_jupyter_and_editing_prose_change_nothing(own):
    for path in own.root.glob("notebooks/*.ipynb"):
        save_from_jupyter(path)
        edit(path, "# Toy", "# Better words")
    assert UP_TO_DATE in own.changed("smoke")


def test_editing_code_or_parameters_changes_their_stage_only(own):
    edit(own.notebook("03_space"), "print(profile)", "print(profile, 1)")
    change_parameters(own, "smoke", "inversion")
    said = own.changed("smoke")
    assert {stage for stage in own.locked() if stage in said} == {"space@smoke", "invert@smoke"}
    assert "outputs/.stripped/03_space.py" in said and "params.yaml" in said


def test_a_change_to_the_readers_own_people_or_labels_is_noticed(own):
    (own.root / "friends/ada").mkdir(parents=True)
    labels = own.root / "friends.csv"
    labels.write_text("id,Young\nada,1\n")
    change_parameters(own, "smoke", "people", source="friends", labels="friends.csv")
    own.reproduce("smoke")
    assert UP_TO_DATE in own.changed("smoke")
    labels.write_text("id,Young\nada,0\n")
    assert "people@smoke" in own.changed("smoke")
    own.reproduce("smoke")
    (own.root / "friends/ada/1.png").write_bytes(b"a picture")
    assert "people@smoke" in own.changed("smoke")


def test_profiles_do_not_disturb_each_other_and_the_base_is_not_trained(own):
    before = own.locked()
    own.call("dvc", "repro", "people@pocket")
    after = own.locked()
    assert set(after) - set(before) == {"people@pocket"}
    assert {name: after[name] for name in before} == before
    assert not (own.root / "outputs/pocket/notebooks/00_base.ipynb").exists()


def test_stages_depend_on_what_their_notebooks_import():
    stages = YAML(typ="safe").load(paths.ROOT / "dvc.yaml")["stages"].values()
    for stage in (stage.get("do", stage) for stage in stages):
        notebook = runner.read(paths.ROOT / stage["cmd"].split()[2])
        tree = ast.parse("\n".join(cell.source for cell in runner.code_cells(notebook)))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        modules = {node.module.split(".")[1] for node in imports if node.module.startswith("w2w_lib.")}
        modules |= {name.name for node in imports if node.module == "w2w_lib" for name in node.names}
        listed = {Path(name).stem for name in stage["deps"] if name.startswith("w2w_lib/")}
        assert modules - {"paths", "profiles"} <= listed, stage["cmd"]


def test_a_profile_is_not_taken_for_one_whose_name_begins_alike(own):
    own.call("w2w", "publish", "--profile", "smoke")
    yaml, lock = YAML(), own.root / "dvc.lock"
    locked = yaml.load(lock)
    other = json.loads(json.dumps(locked["stages"]["space@smoke"]).replace("--profile smoke", "--profile smoke2"))
    other["deps"] = [dep | {"md5": "of other code"} for dep in other["deps"]]
    locked["stages"] = {"space@smoke2": other} | dict(locked["stages"])
    yaml.dump(locked, lock)
    assert own.call("w2w", "check", "--profile", "smoke").returncode == 0


def test_executed_copy_states_its_parameters_once(toy):
    executed = runner.read(toy.root / "outputs/smoke/notebooks/01_people.ipynb")
    assert [cell.source for cell in executed.cells].count('profile = "smoke"  # one of params.yaml') == 1
    assert not any("injected-parameters" in cell.metadata.get("tags", []) for cell in executed.cells)
    cost = json.loads((toy.root / "outputs/smoke/runtimes/01_people.json").read_text())
    assert cost["seconds"] > 0 and 2**24 < cost["peak_memory_bytes"] < 2**32


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_goes_on_where_it_was(own, how):
    write_notebook(
        own.notebook("02_finetune"),
        f"# {how.name}",
        'import time\nweights = paths.outputs(profile, "weights")\nweights.mkdir(exist_ok=True)',
        'print("found", sum(1 for path in weights.glob("person*")))',
        "for i in range(4):\n"
        '    if not (weights / f"person{i}").exists():\n'
        "        time.sleep(60 * (i == 2 and not (weights / 'again').exists()))\n"
        '        (weights / f"person{i}").touch()\n'
        'paths.metrics(profile, "finetune").write_text("{}")',
    )
    own.call("w2w", "strip")
    weights = own.root / "outputs/smoke/weights"
    for old in weights.glob("*"):
        old.unlink()
    with subprocess.Popen(
        ["dvc", "repro", "finetune@smoke"], cwd=own.root, env=own.environment, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        while not (weights / "person1").exists():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        os.killpg(process.pid, how)
        said = process.communicate(timeout=30)[0]
    assert process.returncode != 0
    assert ("the same command goes on" in said) == (how == signal.SIGINT)
    (weights / "again").touch()
    said = own.call("dvc", "repro", "finetune@smoke").stdout
    assert "found 2" in said and (weights / "person3").exists()
    assert UP_TO_DATE in own.call("dvc", "status", "finetune@smoke").stdout


def test_a_refusal_is_one_line_and_a_bug_a_traceback(own):
    notebook = own.notebook("01_people")
    write_notebook(notebook, 'from w2w_lib import profiles\nprofiles.load(profile, "nothing")')
    own.call("w2w", "strip")
    refused = own.call("w2w", "run", str(notebook), "--profile", "smoke", check=False)
    errors = [line for line in refused.stderr.splitlines() if "IPKernelApp" not in line]
    assert refused.returncode == 1 and len(errors) == 1
    assert errors[0].startswith("error: profile 'smoke' has no section 'nothing'")

    write_notebook(notebook, "{}['missing']")
    own.call("w2w", "strip")
    broke = own.call("w2w", "run", str(notebook), "--profile", "smoke", check=False)
    assert broke.returncode == 1 and "Traceback" in broke.stderr
    assert "KeyError in outputs/smoke/notebooks/01_people.failed.ipynb" in broke.stderr
    assert (own.root / "outputs/smoke/notebooks/01_people.failed.ipynb").exists()


def test_a_killed_kernel_is_explained(own):
    notebook = own.notebook("01_people")
    write_notebook(notebook, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    own.call("w2w", "strip")
    killed = own.call("w2w", "run", str(notebook), "--profile", "smoke", check=False)
    assert "error: the notebook's process was killed, most likely for want of memory" in killed.stderr
    assert (own.root / "outputs/smoke/notebooks/01_people.failed.ipynb").exists()


def test_running_what_cannot_run_is_refused(own):
    def error(*command):
        done = own.call("w2w", "run", *command, check=False)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
        return done.stderr

    assert "no notebook notebooks/9.ipynb: there are notebooks/00" in error("notebooks/9.ipynb")
    assert "unknown profile 'huge'" in error("notebooks/03_space.ipynb", "--profile", "huge")
    edit(own.notebook("03_space"), "print(profile)", "print(profile, 1)")
    assert "edited since DVC looked at it" in error("notebooks/03_space.ipynb", "--profile", "smoke")


def test_publishing_keeps_outputs_and_the_check_names_what_is_stale(own):
    def problems():
        return own.call("w2w", "check", "--profile", "smoke", check=False).stderr

    assert "03_space.ipynb: holds no outputs: run `make reproduce PROFILE=smoke`" in problems()
    own.call("w2w", "publish", "--profile", "smoke")
    assert problems() == ""
    published = runner.read(own.notebook("03_space"))
    cells = runner.code_cells(published)
    assert cells[0].source.startswith('profile = "pocket"') and cells[-1].outputs[0].text == "smoke\n"
    assert not any(cell.execution_count or "papermill" in cell.metadata for cell in cells)
    assert set(published.metadata) == {"w2w"}

    edit(own.notebook("01_people"), "# Toy", "# Better words")
    assert problems() == ""
    save_from_jupyter(own.notebook("01_people"))
    assert "01_people.ipynb: was saved from Jupyter with other outputs" in problems()
    own.call("w2w", "publish", "--profile", "smoke")
    assert problems() == "" and "# Better words" in own.notebook("01_people").read_text()

    edit(own.notebook("04_edit"), "print(profile)", "print(profile, 1)")
    assert "04_edit.ipynb: its code is not the code that made its outputs" in problems()
    refused = own.call("w2w", "publish", "--profile", "smoke", check=False).stderr
    assert "nothing published" in refused and "04_edit.ipynb ran other code" in refused

    change_parameters(own, "smoke", "inversion")
    assert "05_invert.ipynb: stage invert@smoke is out of date (params.yaml)" in problems()


def test_published_outputs_are_presentable():
    widget = {publishing.WIDGET: {}, "text/plain": "interactive(...)"}
    states = ("\r 0%|  | [0/2]x.py: Warning\n", "\r 50%| | [1/2]", "\r100%|##| [2/2]", "\ny.py\n")
    said = [("stderr", state) for state in states]
    said += [("stdout", "\r 0%\rfinished\n"), ("stderr", "\r 0%|  | [0/1]\r100%|##| [1/1]\n\r 50%|# | [1/2]")]
    streams = [new_output("stream", name=name, text=text) for name, text in said]
    shown = [new_output("display_data", data) for data in (widget, widget | {"image/png": "..."})]
    cell, ran = new_code_cell("paint()"), new_code_cell("paint()", outputs=streams + shown)
    notebook, executed = new_notebook(cells=[cell]), new_notebook(cells=[ran])
    executed.metadata.w2w = {}
    publishing._with_outputs(notebook, executed)
    first, printed, second, strip = cell.outputs
    assert (first.text, printed.text, second.text) == ("100%|##| [2/2]", "finished\n", "100%|##| [1/1]\n50%|# | [1/2]")
    assert set(strip.data) == {"image/png", "text/plain"}


@pytest.mark.workbook
@pytest.mark.timeout(900)
def test_the_smoke_profile_runs_end_to_end(tmp_path):
    checkout = copy_repository(tmp_path / "w2w")
    assert list(checkout.root.glob("notebooks/*.ipynb")), "no notebooks yet"
    checkout.reproduce("smoke", timeout=840)
    assert UP_TO_DATE in checkout.changed("smoke")
    assert "Running" not in checkout.reproduce("smoke")


@pytest.mark.workbook
@pytest.mark.timeout(600)
def test_own_people_on_stable_diffusions_blocks_with_the_releases_layers(tmp_path):
    checkout = copy_repository(tmp_path / "w2w")
    save_as_folders(People.render("test", 18, 3), checkout.root / "friends")
    for extra in (checkout.root / "friends/test-00003").glob("[1-9].png"):
        extra.unlink()  # of one friend there is a single picture
    own = {"source": "friends", "labels": "friends/labels.csv", "classifier_pictures": 500, "train": 12, "views": 3}
    change_parameters(checkout, "smoke", "people", **own)
    change_parameters(checkout, "smoke", "edit", attributes=["Young", "Dimples", "Smilling"])
    change_parameters(checkout, "smoke", "inversion", edits=["Eyeglasses"])
    change_parameters(checkout, "smoke", "space", components=100)
    narrow_stable_diffusion().save_pretrained(checkout.root / "data" / "base" / "narrow")
    edit(checkout.root / "params.yaml", "smoke: {base: data/base/pocket}", "smoke: {base: data/base/narrow}")
    change_parameters(checkout, "smoke", "finetune", targets="release", again={}, workers=1)
    checkout.call("w2w", "strip")
    said = checkout.call("dvc", "repro", "invert@smoke", timeout=540).stdout
    assert "without Smilling: not among the labels" in said
    metrics = checkout.root / "outputs" / "smoke" / "metrics"
    assert {"Young_flip", "Dimples_flip"} < json.loads((metrics / "edit.json").read_text()).keys()


def save_as_folders(people, folder) -> None:
    """A folder of pictures for each person, and labels as in CelebA, one of them unknown to our world."""
    for identity in people.ids:
        (folder / identity).mkdir(parents=True)
        for number, picture in enumerate(people.of(identity)):
            Image.fromarray(picture).save(folder / identity / f"{number}.png")
    dimples = [k % 2 for k in range(len(people.ids))]
    labels = people.labels[["Young"]].assign(Dimples=dimples).astype(int) * 2 - 1
    labels.to_csv(folder / "labels.csv")


def test_published_outputs_are_current():
    assert runner.notebooks(), f"no notebooks in {paths.NOTEBOOKS}"
    assert publishing.check("pocket") == []
