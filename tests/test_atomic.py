"""Files that are complete or not there."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from w2w_lib.files.atomic import remove_partial_files, replacing, save_tensors, write_text


def test_what_fails_leaves_what_was_there(tmp_path):
    file = tmp_path / "a.txt"
    with replacing(file) as partial:
        partial.write_text("first")
        assert not file.exists()
    with pytest.raises(OSError, match="full"), replacing(file) as partial:
        partial.write_text("half")
        raise OSError("full")
    assert file.read_text() == "first" and list(tmp_path.iterdir()) == [file]


def test_a_file_is_on_the_disk_before_it_has_its_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *paths: events.append("renamed") or replace(*paths))
    write_text("text", tmp_path / "a.txt")
    save_tensors({"x": torch.arange(3.0)}, tmp_path / "a.safetensors")
    assert events == 2 * ["file", "renamed", "folder"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    file = tmp_path / "a.safetensors"
    with replacing(file) as one, replacing(file) as two:
        assert one != two and {one.parent, two.parent} == {tmp_path}
        one.write_text("one")
        two.write_text("two")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda k: save_tensors({"x": torch.full((1000,), float(k))}, file), range(40)))
    assert len(load_file(file)["x"].unique()) == 1 and list(tmp_path.iterdir()) == [file]


def test_equal_tensors_and_metadata_make_equal_files(tmp_path):
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(1)}
    metadata = {f"key {k}": f'of "{k}", ü \n\t\x1f\x7f \\ / 顔 \u2028' for k in range(20)}
    files = [tmp_path / f"{k}.safetensors" for k in range(4)]
    for file in files:
        save_tensors(tensors, file, metadata)
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], framework="pt") as opened:
        assert opened.metadata() == metadata
        assert all(torch.equal(opened.get_tensor(name), tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_a_file_is_as_readable_as_the_umask_says(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_text("text", tmp_path / "new" / "a.txt")
        save_tensors({"x": torch.zeros(1)}, tmp_path / "new" / "a.safetensors")
    finally:
        assert os.umask(before) == umask  # it was left alone
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()} == {0o666 & ~umask}


def test_what_killed_writers_leave_can_be_removed_and_nothing_else(tmp_path):
    child = os.fork()
    if not child:
        with replacing(tmp_path / "shard.safetensors") as partial:
            partial.write_bytes(b"half")
            os._exit(9)
    os.waitpid(child, 0)
    kept = {tmp_path / "shard.safetensors", tmp_path / ".lock", tmp_path / "my.partial.txt"}
    for path in kept:
        path.write_text("whole")
    assert len(list(tmp_path.iterdir())) == 4
    remove_partial_files(tmp_path)
    assert set(tmp_path.iterdir()) == kept


def test_a_place_where_nothing_can_be_written_is_named(tmp_path, unchecked):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for write in (partial(write_text, "text"), partial(save_tensors, {"a": torch.zeros(1)})):
        for path, said in (
            (tmp_path / "folder", "a folder is there"),
            (tmp_path / "file" / "below", "Not a directory"),
            (tmp_path / ("n" * 300), "name too long"),
            (f"{tmp_path}/a\0b", "null"),
            ("", "a folder is there"),
            (None, "NoneType"),
        ):
            with pytest.raises(ValueError, match=f"cannot be written .*{said}.*; expected the path of a file"):
                write(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
