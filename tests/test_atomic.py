"""Files that are complete or not there."""

import pytest

from w2w_lib.files.atomic import replacing


def test_what_fails_leaves_what_was_there(tmp_path):
    file = tmp_path / "a.txt"
    with replacing(file) as partial:
        partial.write_text("first")
        assert not file.exists()
    with pytest.raises(OSError, match="full"), replacing(file) as partial:
        partial.write_text("half")
        raise OSError("full")
    assert file.read_text() == "first" and list(tmp_path.iterdir()) == [file]
