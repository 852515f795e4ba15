"""Every call of the library in a test is checked for the shapes and types that its annotations promise."""

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

from w2w_lib import paths

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do where a float is expected
# Not what numba (population) and PyTorch (bank) compile: they cannot look through the check.
modules = {file.stem for file in paths.PACKAGE.glob("[!_]*.py")} - {"bank"}
jaxtyping.install_import_hook([f"w2w_lib.{name}" for name in modules], "shapes.check")


@pytest.fixture
def unchecked(monkeypatch):
    """The library as its users have it: it is the library that has to refuse, or a stand-in that has to do."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
