"""The door of safetensors files."""

import struct

import pytest
import torch
from safetensors.torch import save_file

from w2w_lib.files.tensors import read_tensors

AXES = {"mean": "d", "components": "pcs d"}
FITTING = {"mean": torch.zeros(3), "components": torch.zeros(2, 3)}


def read(path, **more):
    return read_tensors(path, "a space", "make it again", AXES, **more)


def test_a_file_that_holds_what_it_should_is_read(tmp_path):
    written = {name: torch.randn(tensor.shape) for name, tensor in FITTING.items()}
    save_file(written | {"std": torch.ones(2)}, tmp_path / "it", {"seed": "3"})
    tensors, metadata = read(tmp_path / "it", optional={"std": "pcs"}, metadata={"seed": int})
    assert metadata == {"seed": 3} and all(torch.equal(tensors[name], tensor) for name, tensor in written.items())


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"mean": torch.zeros(3)}, "has no tensor 'components'"),
        (FITTING | {"more": torch.zeros(1)}, "has an unknown tensor 'more'"),
        (FITTING | {"mean": torch.zeros(1, 3)}, "tensor 'mean' has 2 axes, not 1"),
        (FITTING | {"mean": torch.zeros(4)}, "tensor 'mean' has 4 d, not 3"),
        (FITTING | {"mean": torch.zeros(3, dtype=torch.int64)}, "tensor 'mean' is of type I64, not one of F64, F32"),
        (FITTING | {"mean": torch.tensor([0, 1, torch.nan])}, "tensor 'mean' holds NaN or infinite numbers"),
    ],
)
def test_what_differs_is_named(tmp_path, tensors, said):
    save_file(tensors, tmp_path / "it")
    with pytest.raises(ValueError, match=said) as refused:
        read(tmp_path / "it")
    assert str(refused.value).startswith(str(tmp_path / "it")) and "make it again" in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"x" * 100, struct.pack("<Q", 2**40) + b"{}", b"\x80\x04."])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "it").write_bytes(content)
    with pytest.raises(ValueError, match=r"is no whole safetensors file|is empty"):
        read(tmp_path / "it")
