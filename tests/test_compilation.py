"""The caches of compiled code are nobody else's."""

import os
import shutil
import subprocess
import sys
import tempfile

import pytest
import torch
from torch import nn

from w2w_lib.training.compilation import CACHE, compiled, private


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Where the caches lie; what is compiled is nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(CACHE, "")  # so that what is set is unset again
    monkeypatch.delenv(CACHE)
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setenv("TMPDIR", str(shared))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    yield tmp_path / "w2w_torchinductor", shared
    tempfile.tempdir = None


def test_what_is_compiled_is_kept_in_private_folders(places):
    cache, shared = places
    before = os.umask(0)
    try:
        compiled(nn.Identity())
    finally:
        os.umask(before)
    (torchs_own,) = shared.iterdir()
    assert os.environ[CACHE] == str(cache)
    for folder in (cache, torchs_own):
        assert folder.stat().st_mode & 0o777 == 0o700 and folder.stat().st_uid == os.getuid()
    compiled(nn.Identity())  # they may be there


def test_pytorchs_default_is_no_choice_of_the_user(places, monkeypatch):
    cache, shared = places
    compiled(nn.Identity())
    (torchs_own,) = shared.iterdir()
    for chosen, used in ((torchs_own, cache), (shared / "mine", shared / "mine")):
        monkeypatch.setenv(CACHE, str(chosen))
        compiled(nn.Identity())
        assert os.environ[CACHE] == str(used)


def test_a_folder_that_others_can_write_to_or_own_is_not_run_from(places, monkeypatch):
    _, shared = places
    compiled(nn.Identity())
    (torchs_own,) = shared.iterdir()
    torchs_own.chmod(0o777)
    with pytest.raises(ValueError, match=r"torchinductor_.*: somebody else owns it or everybody can write.*remove it"):
        compiled(nn.Identity())
    torchs_own.chmod(0o775)  # as PyTorch makes it under many a umask
    compiled(nn.Identity())
    assert torchs_own.stat().st_mode & 0o777 == 0o700
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(ValueError, match="somebody else owns it"):
        compiled(nn.Identity())


def test_no_room_for_a_cache_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot keep compiled code there .*; set TMPDIR"):
        private(tmp_path / "file" / "folder")


COMPILE = """
import os
import torch._dynamo  # as diffusers and transformers do; PyTorch sets its default in the environment
from w2w_lib.training.compilation import compiled

assert "torchinductor_" in os.environ["TORCHINDUCTOR_CACHE_DIR"]
compiled(torch.nn.Linear(2, 2))(torch.zeros(1, 2))
"""


@pytest.mark.slow
def test_pytorch_keeps_its_code_there(places):
    if not shutil.which("g++"):
        pytest.skip("a C++ compiler is needed")
    cache, shared = places
    subprocess.run([sys.executable, "-c", COMPILE], check=True, timeout=250)
    assert list(cache.rglob("*.so"))
    (torchs_own,) = shared.iterdir()  # and nothing else is left in the temporary folder
    assert not list(torchs_own.rglob("*.so")) and torchs_own.stat().st_mode & 0o777 == 0o700
