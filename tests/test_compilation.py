"""The cache of compiled code is nobody else's."""

import os

import pytest
import torch
from torch import nn

from w2w_lib.training.compilation import CACHE, compiled, private_cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(CACHE, "")  # so that what is set is unset again
    monkeypatch.delenv(CACHE)
    return tmp_path / "w2w_torchinductor"


def test_what_is_compiled_is_kept_in_a_private_folder(cache, monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "compile", lambda module, **_: seen.append(os.environ[CACHE]) or module)
    before = os.umask(0)
    try:
        compiled(nn.Identity())
    finally:
        os.umask(before)
    assert seen == [str(cache)]
    assert cache.stat().st_mode & 0o777 == 0o700 and cache.stat().st_uid == os.getuid()
    assert private_cache() == cache  # it may be there


def test_a_cache_that_the_user_chose_is_left_alone(cache, monkeypatch):
    monkeypatch.setenv(CACHE, "mine")
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    compiled(nn.Identity())
    assert os.environ[CACHE] == "mine" and not cache.exists()


def test_a_folder_that_others_can_write_to_or_own_is_not_run_from(cache, monkeypatch):
    cache.mkdir(mode=0o777)
    cache.chmod(0o770)
    with pytest.raises(ValueError, match="expected a folder that is yours alone"):
        private_cache()
    cache.chmod(0o700)
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(ValueError, match=f"yours alone.*set {CACHE} to a folder"):
        private_cache()


def test_no_room_for_a_cache_is_an_error_of_one_line(cache):
    cache.write_text("a file")
    with pytest.raises(ValueError, match="cannot keep compiled code there"):
        private_cache()
