"""Every call of the library in a test is checked for the shapes and types that its annotations promise."""

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

from w2w_lib.workbook import paths

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do where a float is expected
# Not what numba (people.rendered) and PyTorch (lora.batched) compile: they cannot look through the check.
compiled = ("w2w_lib.people.rendered", "w2w_lib.lora.batched")
files = (file.relative_to(paths.PACKAGE.parent).with_suffix("") for file in paths.PACKAGE.rglob("[!_]*.py"))
modules = [name for file in files if not (name := ".".join(file.parts)).startswith(compiled)]
jaxtyping.install_import_hook(modules, "shapes.check")


@pytest.fixture
def unchecked(monkeypatch):
    """The library as its users have it: it is the library that has to refuse, or a stand-in that has to do."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
