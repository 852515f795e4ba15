"""The notebooks' form, and what their stages depend on."""

import ast
from functools import cache
from importlib.util import resolve_name
from pathlib import Path
from statistics import median

import pytest

import w2w_lib
from w2w_lib.workbook import paths, provenance, runner

MEDIAN, MOST = 6, 25  # lines of a code cell, blank ones not counted
# What a notebook reads of these is its settings, which are compared by value, and places.
BY_VALUE = {"w2w_lib.workbook.paths", "w2w_lib.workbook.settings", "w2w_lib.workbook.profiles"}
ARTEFACTS = "w2w_lib.workbook.artefacts"  # opens whatever a stage asks it for: what counts is what is asked for


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


def test_a_stage_depends_on_all_that_its_notebook_imports(path):
    code = "\n".join(cell.source for cell in runner.code_cells(runner.read(path)))
    needed = reached(imported(ast.parse(code)) | through_artefacts(ast.parse(code)))
    listed = provenance.dependencies(provenance.stage_of(path), "smoke")
    folders = [paths.ROOT / name for name in listed if name.startswith("w2w_lib")]
    assert folders and all(folder.exists() for folder in folders)
    missing = {module for module in needed if not any(file_of(module).is_relative_to(folder) for folder in folders)}
    assert not missing


def reached(modules: set[str]) -> set[str]:
    """These modules of the library and all that they import, directly or not."""
    found, todo = set(), modules - BY_VALUE
    while todo:
        found |= todo
        todo = {other for module in todo - {ARTEFACTS} for other in imports_of(module)} - found - BY_VALUE
    return found


def through_artefacts(notebook: ast.AST) -> set[str]:
    """The modules that the members of Artefacts use which a notebook uses."""
    tree = ast.parse(file_of(ARTEFACTS).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    module_of = {alias.name: next(iter(imported(node))) for node in imports for alias in node.names if imported(node)}
    members = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    found, todo = set(), attributes(notebook) & members.keys()
    while todo:
        found |= todo
        todo = {name for member in todo for name in attributes(members[member])} & members.keys() - found
    names = {node.id for member in found for node in ast.walk(members[member]) if isinstance(node, ast.Name)}
    return {module_of[name] for name in names & module_of.keys()}


def attributes(tree: ast.AST) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@cache
def imports_of(module: str) -> frozenset[str]:
    package = module if file_of(module).name == "__init__.py" else module.rpartition(".")[0]
    return frozenset(imported(ast.parse(file_of(module).read_text(encoding="utf-8")), package))


def imported(tree: ast.AST, package: str = "") -> set[str]:
    """The library's modules that some code imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("w2w_lib.")}
        if isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            if source == "w2w_lib":
                found |= {f"w2w_lib.{w2w_lib._HOME.get(alias.name, alias.name)}" for alias in node.names}
            elif source.startswith("w2w_lib."):
                inside = {f"{source}.{alias.name}" for alias in node.names}
                modules = {name for name in inside if file_of(name).is_file()}
                found |= modules | ({source} if modules != inside else set())
    return found


def file_of(module: str) -> Path:
    inner = paths.PACKAGE.parent.joinpath(*module.split("."))
    return inner.with_suffix(".py") if not inner.is_dir() else inner / "__init__.py"
