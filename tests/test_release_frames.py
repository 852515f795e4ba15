"""Pickled frames: read as pandas reads them, and nothing that they name is run."""

import os
import pickle
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from w2w_lib.release.frames import read_frame

EXPECTED, REMEDY = "a frame of labels", "download it again"
ROWS = 50


class Payload:
    """What it is made of when it is unpickled: a file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def frames() -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)
    signs = rng.choice([-1, 1], (ROWS, 4))
    names = pd.Index([f"person {row}é" for row in range(ROWS)], dtype=object, name="folder")
    labels = pd.Index(["Male", "Young", "5_o_Clock_Shadow", "Bald"], dtype=object)
    plain = pd.DataFrame(signs, names, labels)
    mixed = plain.astype({"Young": "int8", "Bald": "float32"})
    mixed["file"] = pd.Series([f"{row}.jpg" for row in range(ROWS)], names, dtype=object)
    pieces = pd.DataFrame({"a": signs[:, 0]})
    pieces["b"], pieces["c"] = signs[:, 1] > 0, rng.normal(size=ROWS).astype(">f8")
    return {
        "labels by name": plain,
        "numbered rows": pd.DataFrame(signs, columns=labels),
        "rows of chosen numbers": plain.set_axis(rng.permutation(ROWS)),
        "columns first": pd.DataFrame(np.asfortranarray(signs), names, labels),
        "several types": mixed,
        "several blocks": pieces.set_axis(labels[:3], axis=1),
        "a part": plain.iloc[::3, ::2],
    }


def written(frame: pd.DataFrame, path: Path, kind: str) -> Path:
    if kind == "torch":
        torch.save(frame, path)
    else:
        path.write_bytes(pickle.dumps(frame, int(kind)))
    return path


@pytest.mark.parametrize("kind", ["torch", "2", "4", "5"])
@pytest.mark.parametrize("name", frames())
def test_frames_are_read_as_pandas_reads_them(tmp_path, name, kind):
    frame = frames()[name]
    found = read_frame(written(frame, tmp_path / "frame.pt", kind), EXPECTED, REMEDY)
    native = pickle.loads(pickle.dumps(frame)).astype({c: frame[c].dtype.newbyteorder("=") for c in frame})
    pd.testing.assert_frame_equal(found, native, check_index_type="exact", check_column_type="exact")


def refused(path: Path, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        read_frame(path, EXPECTED, REMEDY)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value) and "download it again" in str(caught.value)


@pytest.mark.parametrize("kind", ["torch", "2", "5"])
def test_code_in_a_pickle_does_not_run(tmp_path, kind):
    marker = tmp_path / "ran"
    evil = frames()["labels by name"]
    evil.attrs["note"] = Payload(marker)
    path = written(evil, tmp_path / "evil.pt", kind)
    refused(path, r"names (posix|nt)\.system, .*nothing of it was run")
    assert not marker.exists()
    if kind != "torch":  # the payload is one: pandas runs it
        pd.read_pickle(path)
        assert marker.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n(cbuiltins\nint\nS'real'\ntR.",
        b"csubprocess\nPopen\n(S'ls'\ntR.",
        b"ctorch.serialization\nload\n(S'a'\ntR.",
        b"(S'ls'\nios\nsystem\n.",
        b"cpandasx\nDataFrame\n.",
    ],
)
def test_no_other_name_is_looked_up(tmp_path, code, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    (tmp_path / "a.pt").write_bytes(code)
    refused(tmp_path / "a.pt", "nothing of it was run")


@pytest.mark.parametrize(
    "code",
    [
        b"cpandas\nread_pickle\n(S'a'\ntR.",  # a function of the libraries is not called
        b"cnumpy\nload\n(S'a'\ntR.",
        b"\x80\x02]q\x00.",
        b"\x80\x02r\xff\xff\xff\x7fN.",  # a memo of two thousand million entries
        b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00.",  # an array of a terabyte
        b"",
        b"no pickle",
    ],
)
def test_what_is_no_frame(tmp_path, code):
    (tmp_path / "a.pt").write_bytes(code)
    with pytest.raises(ValueError, match="a frame of labels; download it again") as caught:
        read_frame(tmp_path / "a.pt", EXPECTED, REMEDY)
    assert "\n" not in str(caught.value)


def test_frames_of_other_parts(tmp_path):
    path, plain = tmp_path / "a.pt", frames()["numbered rows"]
    for other in (
        plain.astype({"Male": "category"}),
        plain.astype({"Male": "complex64"}),
        plain.set_index(["Male", "Young"]),
        plain.set_axis(pd.date_range("2020", periods=ROWS)),
        plain.assign(x=[{"a": 1}] * ROWS),
        plain["Male"],
    ):
        refused(written(other, path, "2"), "is no plain pandas frame")


def test_truncated_and_altered_files(tmp_path):
    path = written(frames()["labels by name"], tmp_path / "a.pt", "2")
    whole = path.read_bytes()
    for end in (len(whole) // 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        refused(path, "is no plain pandas frame")
    shape = b"K\x04K2\x86"  # 4 columns of 50 rows
    assert shape in whole
    path.write_bytes(whole.replace(shape, b"K\x04K1\x86"))
    refused(path, "numbers for shape|a block of shape")
    written(frames()["labels by name"], path, "torch")
    path.write_bytes(path.read_bytes()[:-30])
    refused(path, "is no plain pandas frame")
    with pytest.raises(FileNotFoundError, match=EXPECTED):
        read_frame(tmp_path / "none.pt", EXPECTED, REMEDY)
