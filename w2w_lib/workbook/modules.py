"""Which of the library's modules a notebook's code runs: what it imports, and all that these import."""

import ast
import hashlib
from importlib.util import resolve_name
from pathlib import Path

import w2w_lib
from w2w_lib.workbook import paths

LIBRARY = w2w_lib.__name__
ARTEFACTS = f"{LIBRARY}.workbook.artefacts"  # opens whatever a stage asks it for: what counts is what is asked for
# What a notebook reads of these is its settings, which are compared by value, and places.
BY_VALUE = {f"{LIBRARY}.workbook.{name}" for name in ("paths", "settings", "profiles")}


def hashes(code: str) -> dict[str, str]:
    """MD5 of the modules that a notebook's code reaches, by path, and of the members of Artefacts that it uses."""
    notebook = ast.parse(code)
    opener = _tree(ARTEFACTS)
    members = _used_members(notebook, opener)
    modules = reached(imported(notebook) | _modules_of(members, opener))
    found = {paths.shown(_file(module)): _text(module) for module in modules - {ARTEFACTS}}
    if ARTEFACTS in modules:
        file = paths.shown(_file(ARTEFACTS))
        found |= {f"{file}: {member.name}": ast.unparse(member) for member in members}
    return {name: hashlib.md5(text.encode()).hexdigest() for name, text in sorted(found.items())}


def listing(code: str) -> str:
    """The same as text, one line for each, for DVC to compare."""
    return "".join(f"{value}  {name}\n" for name, value in hashes(code).items())


def reached(modules: set[str]) -> set[str]:
    """These modules of the library and all that they import, directly or not, as written in their source."""
    found, todo = set(), modules - BY_VALUE
    while todo:
        found |= todo
        todo = {other for module in todo - {ARTEFACTS} for other in _imports(module)} - found - BY_VALUE
    return found


def imported(tree: ast.AST, package: str = "") -> set[str]:
    """The library's modules that some code imports, wherever in it; a public name counts as the module it is from."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith(f"{LIBRARY}.")}
        if isinstance(node, ast.ImportFrom):
            source = resolve_name("." * node.level + (node.module or ""), package)
            if source == LIBRARY:
                found |= {f"{LIBRARY}.{w2w_lib._HOME.get(alias.name, alias.name)}" for alias in node.names}
            elif source.startswith(f"{LIBRARY}."):
                inside = {f"{source}.{alias.name}" for alias in node.names}
                modules = {name for name in inside if _file(name).is_file()}
                found |= modules | ({source} if modules != inside else set())
    return found


def _imports(module: str) -> set[str]:
    package = module if _file(module).name == "__init__.py" else module.rpartition(".")[0]
    return imported(_tree(module), package)


def _tree(module: str) -> ast.AST:
    try:
        return ast.parse(_text(module))
    except SyntaxError as error:
        where = f"{paths.shown(_file(module))}, line {error.lineno}"
        raise ValueError(f"{where}: is no Python ({error.msg}); mend it, or `git restore` it") from None


def _used_members(notebook: ast.AST, opener: ast.AST) -> list[ast.FunctionDef]:
    """The members of Artefacts that a notebook names, and those that they use."""
    members = {node.name: node for node in ast.walk(opener) if isinstance(node, ast.FunctionDef)}
    found, todo = set(), _attributes(notebook) & members.keys()
    while todo:
        found |= todo
        todo = {name for member in todo for name in _attributes(members[member])} & members.keys() - found
    return [members[name] for name in sorted(found)]


def _modules_of(members: list[ast.FunctionDef], opener: ast.AST) -> set[str]:
    """The modules whose names these members use."""
    statements = [node for node in ast.walk(opener) if isinstance(node, ast.ImportFrom)]
    module_of = {alias.name: one for node in statements for one in imported(node) for alias in node.names}
    names = {node.id for member in members for node in ast.walk(member) if isinstance(node, ast.Name)}
    return {module_of[name] for name in names & module_of.keys()}


def _attributes(tree: ast.AST) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def _text(module: str) -> str:
    return _file(module).read_text(encoding="utf-8")


def _file(module: str) -> Path:
    inner = paths.ROOT.joinpath(*module.split("."))
    return inner.with_suffix(".py") if not inner.is_dir() else inner / "__init__.py"
