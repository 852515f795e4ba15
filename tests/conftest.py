"""A throw-away checkout: the working tree as a commit would have it, in a repository of its own."""

import ast
import os
import shutil
import subprocess
import sys
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from ruamel.yaml import YAML

from w2w_lib.workbook import paths, runner

pytest_plugins = ["shapes", "planted", "tiny_fleet", "people_folder", "base_folder", "own_settings", "small_release"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow tests first: short ones then fill whichever process is free."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


TOY_CELL = """\
for out in {outs}:
    path = paths.ROOT / out.replace("${{key}}", profile).replace("${{item}}", profile)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text('{{"value": 1.0}}')
    else:
        path.mkdir(exist_ok=True)
        (path / "made").write_text(profile)
print(profile)
"""


@dataclass
class Checkout:
    """A checkout of the repository, with the commands a user would type in it."""

    root: Path

    def call(self, *command: str, timeout: float = 120, check: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=timeout
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done

    @property
    def environment(self) -> dict[str, str]:
        # this interpreter's programs, that checkout's library
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return os.environ | {"PATH": programs, "PYTHONPATH": str(self.root), "W2W_ROOT": str(self.root)}

    def reproduce(self, profile: str, timeout: float = 600) -> str:
        return self.call("w2w", "reproduce", "--profile", profile, timeout=timeout).stdout

    def changed(self, profile: str) -> dict[str, set[str]]:
        """Stages of a profile that DVC would run again, and the names of what changed."""
        from dvc.repo import Repo

        self.call("w2w", "prepare")
        with chdir(self.root), Repo() as repo:
            found = repo.status([name for name in self.locked() if name.endswith(f"@{profile}")])
        entries = {stage: [one for one in said if isinstance(one, dict)] for stage, said in found.items()}
        return {
            stage: {name for one in said for kind in one.values() for name in kind} for stage, said in entries.items()
        }

    def commit(self) -> None:
        self.call("git", "add", "-A")
        self.call("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "as it stands")

    def touched(self) -> str:
        """What git would commit now."""
        return self.call("git", "status", "--porcelain").stdout

    def locked(self) -> dict:
        return YAML(typ="safe").load(self.root / "dvc.lock")["stages"]

    def notebook(self, stem: str) -> Path:
        return self.root / "notebooks" / f"{stem}.ipynb"


def copy_repository(target: Path, without: tuple[str, ...] = ()) -> Checkout:
    """What git would commit of the working tree, committed in `target`."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=paths.ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if not name.startswith(without or "\0") and (paths.ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(paths.ROOT / name, target / name)
    checkout = Checkout(target)
    checkout.call("git", "init", "-q")
    checkout.commit()
    return checkout


def toy_checkout(target: Path) -> Checkout:
    """The repository with its real stages, but notebooks that only write each stage's outputs."""
    checkout = copy_repository(target, without=("notebooks/", "data/"))
    for stage in YAML(typ="safe").load(checkout.root / "dvc.yaml")["stages"].values():
        stage = stage.get("do", stage)
        listed = stage["outs"] + stage.get("metrics", [])
        outs = [next(iter(out)) if isinstance(out, dict) else out for out in listed]
        code = TOY_CELL.format(outs=[out for out in outs if not out.endswith(".ipynb")])
        notebook = stage["cmd"].split()[2]
        write_notebook(checkout.root / notebook, code, never_called(paths.ROOT / notebook))
    judges = ("classifier/attributes", "dual_encoder/dual_encoder", "lpips/alexnet")
    for name in ("base/pocket/model_index.json", *(f"{judge}.safetensors" for judge in judges)):
        file = checkout.root / "data" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    checkout.commit()
    return checkout


def never_called(notebook: Path) -> str:
    """A cell that imports what a real notebook does, but only when it is called."""
    tree = ast.parse(runner.code(runner.read(notebook)))
    statements = [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    return "\n    ".join(["def never_called():", *(line for line in statements if "w2w_lib" in line)])


def enter(root: Path, monkeypatch) -> None:
    """Let the library in this process, and in the kernels that it starts, take ``root`` for the repository."""
    here = paths.ROOT
    for name, value in list(vars(paths).items()):
        if isinstance(value, Path) and name not in ("PACKAGE", "STYLE"):
            monkeypatch.setattr(paths, name, root / value.relative_to(here))
    monkeypatch.setenv("W2W_ROOT", str(root))


def write_notebook(path: Path, *code: str) -> None:
    """A notebook of the workbook's form: prose, the parameters cell, code."""
    parameters = new_code_cell('profile = "pocket"  # one of params.yaml', metadata={"tags": ["parameters"]})
    cells = [new_markdown_cell("# Toy"), parameters, new_code_cell("from w2w_lib.workbook import paths")]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=[*cells, *map(new_code_cell, code)]), path)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk: Path) -> None:
    """Leave one block of it free."""
    there = os.statvfs(disk)
    (disk / "somebody's film").write_bytes(bytes(there.f_frsize * (there.f_bavail - 1)))


@pytest.fixture
def quick_disk(monkeypatch):
    """Without waiting for the disk, whose own tests are in test_atomic.py."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
