"""The conda environment and the lock name the same versions."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

from w2w_lib.workbook import environment, paths

PYTHON_311 = {"python_version": "3.11", "python_full_version": "3.11.14", "sys_platform": "linux"}


@pytest.fixture(scope="module")
def lock() -> dict:
    return tomllib.loads((paths.ROOT / "uv.lock").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project(lock) -> dict:
    return next(package for package in lock["package"] if package["name"] == "w2w")


@pytest.fixture(scope="module")
def conda() -> dict[str, Version]:
    """Every pin of environment.yml, with the one that its second command installs."""
    text = (paths.ROOT / "environment.yml").read_text(encoding="utf-8")
    pip = next(entry["pip"] for entry in YAML(typ="safe").load(text)["dependencies"] if isinstance(entry, dict))
    second = re.search(r"^#\s+pip install --no-deps (\S+==\S+) -e \.$", text, flags=re.MULTILINE)
    pins = [Requirement(pin) for pin in [*pip, second[1]]]
    assert len({pin.name for pin in pins}) == len(pins)
    return {canonicalize_name(pin.name): Version(str(pin.specifier).removeprefix("==")) for pin in pins}


def locked_for_conda(lock: dict, project: dict) -> dict[str, Version]:
    """What the lock says of each direct dependency on conda's Python; several entries differ by marker."""
    only = {package["name"]: package.get("version") for package in lock["package"]}
    dev = project["dev-dependencies"]["dev"]
    chosen = {}
    for entry in project["dependencies"] + dev:
        marker = Requirement(f"x ; {entry['marker']}").marker if "marker" in entry else None
        if marker is None or marker.evaluate(PYTHON_311):
            chosen[entry["name"]] = Version(entry.get("version") or only[entry["name"]])
    return chosen


def test_conda_has_every_direct_dependency_at_the_locked_version(conda, lock, project):
    wanted = locked_for_conda(lock, project)
    assert len(wanted) > 30
    assert {name: conda.get(name) for name in wanted} == wanted


def test_conda_has_nothing_that_the_lock_does_not_have(conda, lock):
    locked = {(package["name"], Version(package["version"])) for package in lock["package"] if "version" in package}
    assert set(conda.items()) <= locked


def test_environment_file_is_what_make_would_write():
    assert (paths.ROOT / "environment.yml").read_text(encoding="utf-8") == environment.render()


def test_lock_was_made_from_the_declared_dependencies(project):
    declared = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))

    def stated(requirements):
        return {(canonicalize_name(r.name), r.specifier) for r in map(Requirement, requirements)}

    def recorded(entries):
        return stated(f"{entry['name']}{entry.get('specifier', '')}" for entry in entries)

    assert stated(declared["project"]["dependencies"]) == recorded(project["metadata"]["requires-dist"])
    assert stated(declared["dependency-groups"]["dev"]) == recorded(project["metadata"]["requires-dev"]["dev"])
