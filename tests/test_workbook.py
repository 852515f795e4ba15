"""The workbook as a pipeline, on checkouts of this repository: its stages on toy notebooks, then smoke."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from conftest import Checkout, copy_repository, enter, toy_checkout, write_notebook
from filelock import FileLock
from nbformat.v4 import new_output
from PIL import Image
from ruamel.yaml import YAML

from w2w_lib.people.people_set import People
from w2w_lib.release.random_base import random_stable_diffusion
from w2w_lib.workbook import cli, paths, pipeline, runner

TOYS = pytest.mark.slow  # notebooks and DVC
WORKER = """\
import os, subprocess, sys, tempfile, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], start_new_session=True)
pids = [os.getppid(), os.getpid(), worker.pid]
(paths.ROOT / "pids").write_text(" ".join(map(str, [*pids, tempfile.gettempdir()])))
time.sleep(120)
"""
HOLDS = """\
import json, os, pathlib, socket, sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    holder = {"pid": os.getpid(), "host": socket.gethostname()}
    pathlib.Path(sys.argv[1]).with_name(".lock-holder.json").write_text(json.dumps(holder))
    print(flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A toy checkout whose smoke profile was reproduced, made once for all processes of pytest; not to be changed."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    root, done = shared / "toy" / "w2w", shared / "toy-done"
    with FileLock(shared / "toy.lock"):
        if not done.exists():
            toy_checkout(root).reproduce("smoke")
            done.touch()
    return Checkout(root)


@pytest.fixture
def own(toy, tmp_path, monkeypatch):
    """A copy of it, to be changed, which this process takes for the repository."""
    root = Path(shutil.copytree(toy.root, tmp_path / "w2w"))
    enter(root, monkeypatch)
    return Checkout(root)


def edit(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def choose(checkout, profile: str, **settings) -> None:
    """Settings of this checkout alone, in local.yaml: their places with a double underscore for each level."""
    chosen = {}
    for place, value in settings.items():
        *sections, name = [profile, *place.split("__")]
        at = chosen
        for section in sections:
            at = at.setdefault(section, {})
        at[name] = value
    with (checkout.root / "local.yaml").open("w") as file:
        YAML().dump(chosen, file)


def save_from_jupyter(path) -> None:
    """What JupyterLab leaves in a notebook that was opened, run and saved."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.kernelspec = {"name": "other", "display_name": "Other", "language": "python"}
    for count, cell in enumerate(runner.code_cells(notebook), 1):
        cell.execution_count = count
        cell.metadata.execution = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
        cell.outputs = [new_output("stream", name="stdout", text="seen\n")]
    nbformat.write(notebook, path)


def error(monkeypatch, *words: str) -> str:
    """What `w2w` says when it refuses."""
    monkeypatch.setattr(sys, "argv", ["w2w", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return str(left.value.code)


@TOYS
def test_reproducing_makes_everything_and_changes_nothing_that_git_sees(own):
    assert own.touched() == ""
    assert own.changed("smoke") == {}
    said = own.reproduce("smoke")
    assert "Running" not in said and "Data and pipelines are up to date." in said
    shown = own.call("dvc", "metrics", "show", "--json").stdout
    files = json.loads(shown)[""]["data"]
    assert files["outputs/smoke/metrics/space.json"]["data"] == {"value": 1.0}
    published = json.loads((paths.ROOT / "published/pocket/metrics/space.json").read_text())
    assert files["published/pocket/metrics/space.json"]["data"] == published

    executed = runner.read(own.root / "outputs/smoke/notebooks/01_people.ipynb")
    assert [cell.source for cell in executed.cells].count('profile = "smoke"  # one of params.yaml') == 1
    assert not any("injected-parameters" in cell.metadata.get("tags", []) for cell in executed.cells)
    cost = json.loads((own.root / "outputs/smoke/runtimes/01_people.json").read_text())
    assert cost["seconds"] > 0 and 2**24 < cost["peak_memory_bytes"] < 2**32


@TOYS
def test_a_stage_changes_with_its_code_and_settings_only(own):
    for path in own.root.glob("notebooks/*.ipynb"):
        save_from_jupyter(path)
        edit(path, "# Toy", "# Better words")
    assert own.changed("smoke") == {}
    edit(own.notebook("03_space"), "print(profile)", "print(profile, 1)")
    choose(own, "smoke", invert__smoothing=2)
    edit(own.root / "w2w_lib/training/fleet.py", "\nclass Fleet", "\n# another\nclass Fleet")
    assert own.changed("smoke") == {
        "finetune@smoke": {"outputs/.stripped/02_finetune.modules"},
        "space@smoke": {"outputs/.stripped/03_space.py"},
        "invert@smoke": {"outputs/.pipeline/settings.yaml", "outputs/.stripped/05_invert.modules"},
        "judge@smoke": {"outputs/.stripped/06_judge.modules"},
        "scale@smoke": {"outputs/.stripped/07_scale.modules"},
        "domains@smoke": {"outputs/.stripped/08_domains.modules"},
    }


@TOYS
def test_a_change_to_the_readers_own_people_or_labels_is_noticed(own):
    (own.root / "friends/ada").mkdir(parents=True)
    labels = own.root / "friends.csv"
    labels.write_text("id,Young\nada,1\n")
    choose(own, "smoke", people__sets__source="friends", people__sets__labels="friends.csv")

    def reproduce() -> None:
        assert "people@smoke" in own.changed("smoke")
        own.call("dvc", "repro", "people@smoke")
        assert "people@smoke" not in own.changed("smoke")

    reproduce()
    labels.write_text("id,Young\nada,0\n")
    reproduce()
    (own.root / "friends/ada/1.png").write_bytes(b"a picture")
    assert "people@smoke" in own.changed("smoke")


@TOYS
def test_profiles_do_not_disturb_each_other_and_the_base_is_not_trained(own):
    before = own.locked()
    own.call("dvc", "repro", "people@pocket")
    after = own.locked()
    assert set(after) - set(before) == {"people@pocket"}
    assert {name: after[name] for name in before} == before
    assert not (own.root / "outputs/pocket/notebooks/00_base.ipynb").exists()


@TOYS
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
    pipeline.prepare()
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
    assert not list(own.root.glob("outputs/smoke/notebooks/*.running.ipynb"))
    assert "finetune@smoke" not in own.changed("smoke")


@TOYS
@pytest.mark.parametrize(
    "command, how",
    [
        (["dvc", "repro", "finetune@smoke"], signal.SIGKILL),
        (["w2w", "reproduce", "--profile", "smoke"], signal.SIGTERM),
    ],
)
def test_notebooks_and_their_workers_end_with_dvc(own, command, how):
    write_notebook(own.notebook("02_finetune"), WORKER)
    pipeline.prepare()
    told = own.root / "pids"
    with subprocess.Popen(
        command, cwd=own.root, env=own.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while not told.exists() or not told.read_text():
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.1)
        *pids, temporary = told.read_text().split()
        started = [psutil.Process(int(pid)) for pid in pids]  # w2w run, its kernel, the kernel's worker
        (dvc,) = [one for one in started[0].parents() if "repro" in one.cmdline()]
        time.sleep(1)
        dvc.send_signal(how)
        assert not psutil.wait_procs(started, timeout=20)[1]
        process.communicate(timeout=20)
    assert process.returncode != 0 and not Path(temporary).exists()


def test_a_profile_has_one_run_at_a_time(monkeypatch, tmp_path):
    shutil.copy(paths.PARAMS, tmp_path)
    enter(tmp_path, monkeypatch)
    monkeypatch.setattr(runner, "WAIT", 0.1)
    lock = paths.outputs("smoke", ".run", ".lock")
    left = paths.outputs("smoke", "notebooks", "03_space.running.ipynb")
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()
    with subprocess.Popen([sys.executable, "-c", HOLDS, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(TimeoutError, match=rf"smoke.* held .* by process {other.pid} "), runner.one_run("smoke"):
            pass
        assert left.exists()
        with runner.one_run("pocket"), runner.one_run("pocket"):  # a run within a run
            pass
        other.stdin.close()
    with runner.one_run("smoke"):
        assert not left.exists()


@TOYS
def test_a_refusal_is_one_line_and_a_bug_a_traceback(own, monkeypatch, capsys):
    notebook = own.notebook("01_people")
    failed = own.root / "outputs/smoke/notebooks/01_people.failed.ipynb"

    def run(*code: str) -> str:
        write_notebook(notebook, *code)
        pipeline.prepare()
        capsys.readouterr()
        return error(monkeypatch, "run", notebook, "--profile", "smoke")

    refused = run('from w2w_lib.workbook import settings\nsettings.load("nothing")')
    assert refused.startswith("error: unknown profile 'nothing'") and len(refused.splitlines()) == 1
    assert "Traceback" not in capsys.readouterr().err
    broke = run("{}['missing']")
    assert broke.startswith("error: KeyError in outputs/smoke/notebooks/01_people.failed.ipynb: ") and failed.exists()
    assert "Traceback" in capsys.readouterr().err
    failed.unlink()
    killed = run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert killed.startswith("error: the notebook's process was killed, most likely for want of memory")
    assert failed.exists()


@TOYS
def test_running_what_cannot_run_is_refused_and_replaces_nothing(own, monkeypatch, tmp_path):
    done = own.root / "outputs/smoke/notebooks/03_space.ipynb"
    before = done.read_bytes()
    assert "no notebook notebooks/9.ipynb: there are notebooks/00" in error(monkeypatch, "run", "notebooks/9.ipynb")
    space = own.notebook("03_space")
    assert "unknown profile 'huge'" in error(monkeypatch, "run", space, "--profile", "huge")
    (tmp_path / "other").mkdir()
    other = shutil.copy(space, tmp_path / "other" / space.name)
    assert "is no notebook of notebooks/" in error(monkeypatch, "run", other, "--profile", "smoke")
    edit(space, "print(profile)", "print(profile, 1)")
    assert "edited since DVC looked at it" in error(monkeypatch, "run", space, "--profile", "smoke")
    space.write_text("{}")
    assert "03_space.ipynb: is no notebook" in error(monkeypatch, "run", space, "--profile", "smoke")
    assert done.read_bytes() == before


BASE_CELL = """\
out = paths.ROOT / (f"{anew}/base" if anew else "data/base/pocket")
out.mkdir(parents=True, exist_ok=True)
if anew:
    (out / "model_index.json").write_text('{"another": "one"}')
    (out.parent / "classifier.safetensors").write_text("another")
assert not (paths.ROOT / "fails").exists()
paths.metrics(profile, "base").write_text('{"value": 2.0}')
"""


@TOYS
def test_another_base_replaces_the_shipped_one_at_the_end_or_not_at_all(own):
    path = own.notebook("00_base")
    write_notebook(path, BASE_CELL)
    edit(path, "# one of params.yaml", '# one of params.yaml\\nanew = \\"\\"  # a folder')
    shipped = own.root / "data"
    before = {file: file.read_text() for file in shipped.rglob("*") if file.is_file()}
    (own.root / "fails").touch()
    with pytest.raises(ValueError, match="AssertionError"):
        pipeline.renew_base("pocket")
    assert {file: file.read_text() for file in shipped.rglob("*") if file.is_file()} == before
    (own.root / "fails").unlink()
    pipeline.measure_base("pocket")
    assert {file: file.read_text() for file in shipped.rglob("*") if file.is_file()} == before
    pipeline.renew_base("pocket")
    assert (shipped / "base/pocket/model_index.json").read_text() == '{"another": "one"}'
    assert (shipped / "classifier/attributes.safetensors").read_text() == "another"
    assert not (own.root / "outputs/base_training/new").exists()
    executed = runner.read(own.root / "outputs/pocket/notebooks/00_base.ipynb")
    assert "data/base/pocket/model_index.json" in executed.metadata.w2w.sources


@TOYS
@pytest.mark.timeout(1560)
def test_the_smoke_profile_runs_end_to_end(tmp_path):
    checkout = copy_repository(tmp_path / "w2w")
    assert list(checkout.root.glob("notebooks/*.ipynb")), "no notebooks yet"
    checkout.reproduce("smoke", timeout=1500)
    assert checkout.changed("smoke") == {} and checkout.touched() == ""


@TOYS
@pytest.mark.timeout(1560)
def test_own_people_on_stable_diffusions_blocks_with_the_releases_layers(tmp_path):
    checkout = copy_repository(tmp_path / "w2w")
    save_as_folders(People.render("test", 22, 5), checkout.root / "friends")
    for extra in (checkout.root / "friends/test-00003").glob("[1-9].png"):
        extra.unlink()  # of one friend there is a single picture
    random_stable_diffusion().save_pretrained(checkout.root / "data" / "base" / "narrow")
    choose(
        checkout, "smoke",
        base__model="data/base/narrow",
        people__sets__source="friends", people__sets__labels="friends/labels.csv",
        people__sets__train=12, people__sets__views=3, people__sets__size=64,
        people__classifier_pictures=500,
        finetune__targets="release", finetune__workers=1,
        edit__attributes=["Young", "Dimples", "Smilling"],
        invert__edits=["Eyeglasses"],
        judge__attributes=["Young"], judge__pictured=["Young"], judge__compose=[["Young"]], judge__delayed="Young",
        scale__sizes=[6, 9, 12], scale__projected__sizes=[6, 9, 12], scale__inverted__sizes=[6, 9, 12],
        scale__edited__sizes=[6, 12], scale__sampled__sizes=[6, 12],
        scale__edited__attributes=["Young"], scale__pairs=[["Young", "Dimples"]],
        domains__edits=["Young"], domains__attribute="Young",
    )  # fmt: skip
    checkout.call("w2w", "prepare")
    last = ("invert@smoke", "judge@smoke", "domains@smoke")
    said = checkout.call("dvc", "repro", *last, timeout=1500).stdout
    assert "without Smilling: not among the labels" in said
    metrics = checkout.root / "outputs" / "smoke" / "metrics"
    assert {"Young_flip", "Dimples_flip"} < json.loads((metrics / "edit.json").read_text()).keys()
    assert "paper_effect" in json.loads((metrics / "judge.json").read_text())


def save_as_folders(people, folder) -> None:
    """A folder of pictures for each person, and labels as in CelebA, one of them unknown to our world."""
    for identity in people.ids:
        (folder / identity).mkdir(parents=True)
        for number, picture in enumerate(people.of(identity)):
            Image.fromarray(picture).save(folder / identity / f"{number}.png")
    dimples = [k % 2 for k in range(len(people.ids))]
    labels = people.labels[["Young"]].assign(Dimples=dimples).astype(int) * 2 - 1
    labels.to_csv(folder / "labels.csv")
