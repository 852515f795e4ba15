"""The notebooks' form, and what their stages depend on."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from statistics import median

import pytest

from w2w_lib.evaluation import lpips
from w2w_lib.workbook import modules, paths, provenance, runner

MEDIAN, MOST = 6, 25  # lines of a code cell, blank ones not counted


@pytest.fixture(params=runner.notebooks(), ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


def test_there_is_a_notebook_for_each_stage():
    assert [provenance.stage_of(path) for path in runner.notebooks()] == list(paths.STAGES)


def test_cells_are_short(path):
    cells = runner.code_cells(runner.read(path))
    lengths = [sum(1 for line in cell.source.splitlines() if line.strip()) for cell in cells]
    too_long = [cell.source.splitlines()[0] for cell, length in zip(cells, lengths, strict=True) if length > MOST]
    assert not too_long and median(lengths) <= MEDIAN


def test_the_first_code_cell_holds_the_parameters(path):
    notebook = runner.read(path)
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == runner.code_cells(notebook)[:1]
    lines = tagged[0].source.splitlines()
    assert lines[0].startswith('profile = "pocket"') and all("  # " in line for line in lines)


def test_no_execution_counts_are_kept(path):
    assert not any(cell.execution_count for cell in runner.code_cells(runner.read(path)))


def test_a_stage_depends_on_all_that_its_notebook_loads(path):
    code = runner.code(runner.read(path))
    known = {paths.ROOT / name.partition(": ")[0] for name in modules.hashes(code)}
    apart = {file_of(name) for name in {*modules.BY_VALUE, *loaded(f"import {modules.ARTEFACTS}")}}
    own = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import | ast.ImportFrom)]
    files = {file_of(name) for name in loaded("\n".join(map(ast.unparse, own)))}
    assert {file for file in files if file.name != "__init__.py"} <= known | apart
    stage, listing = provenance.stage_of(path), paths.shown(runner.listing(path).with_suffix(runner.MODULES))
    assert listing in provenance.dependencies(stage, "smoke")


def test_a_stage_that_measures_lpips_depends_on_its_weights(path):
    listed = provenance.dependencies(provenance.stage_of(path), "smoke")
    reached = {name.partition(": ")[0] for name in modules.hashes(runner.code(runner.read(path)))}
    assert (paths.shown(Path(lpips.__file__)) in reached) == (paths.shown(lpips.WEIGHTS.parent) in listed)


def test_only_the_workbook_imports_the_workbook():
    for file in paths.PACKAGE.rglob("*.py"):
        found = re.search(r"^\s*(from|import) w2w_lib\.workbook", file.read_text(encoding="utf-8"), re.M)
        assert not found or file.is_relative_to(paths.PACKAGE / "workbook")


def test_a_module_counts_for_those_that_reach_it_and_an_artefact_for_those_that_open_it():
    with_space = "from w2w_lib.workbook.artefacts import Artefacts\nArtefacts('smoke').space.std"
    assert "w2w_lib/space/weight_space.py" in modules.hashes(with_space)
    assert "w2w_lib/workbook/artefacts.py: space_path" in modules.hashes(with_space)
    without = modules.hashes(with_space.replace("space.std", "pipeline.unet"))
    assert "w2w_lib/models/base.py" in without and not any("w2w_lib/space/" in name for name in without)
    lazily = modules.hashes("from w2w_lib import WeightSpace")
    assert lazily == modules.hashes("from w2w_lib.space.weight_space import WeightSpace")
    assert "w2w_lib/people/rendered/anatomy.py" in modules.hashes("from w2w_lib import People")  # `from .anatomy`


def test_a_module_that_is_no_python_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    for name, text in {
        "__init__.py": "",
        "workbook/artefacts.py": "",
        "broken.py": "import os\n<<<<<<< HEAD\n",
    }.items():
        (tmp_path / "w2w_lib" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "w2w_lib" / name).write_text(text)
    with pytest.raises(ValueError, match=r"w2w_lib/broken\.py, line 2: is no Python"):
        modules.hashes("import w2w_lib.broken")


@cache
def loaded(statements: str) -> frozenset[str]:
    """The library's modules that Python itself has loaded after some statements."""
    said = f"{statements}\nimport sys\nprint(*(name for name in sys.modules if name.startswith('w2w_lib.')))"
    run = subprocess.run([sys.executable, "-c", said], cwd=paths.ROOT, capture_output=True, text=True, check=True)
    return frozenset(run.stdout.split())


def file_of(module: str) -> Path:
    inner = paths.PACKAGE.parent.joinpath(*module.split("."))
    return inner.with_suffix(".py") if not inner.is_dir() else inner / "__init__.py"
