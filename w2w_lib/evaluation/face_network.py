"""dlib's face embedder as a PyTorch module: the same numbers several times as fast, since dlib's wheels have no BLAS.

Its weights are read from dlib's own file, in which the numbers of a layer follow its name and the shape of a tensor
(dlib's ``serialize.h`` and ``dnn/layers.h``).
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from w2w_lib.files.regular import regular_file

DIMENSION = 128  # of the embedding
CHIP_PIXELS = 150  # a side of the aligned face
MEAN_COLOUR, COLOUR_SCALE = (122.782, 117.001, 104.298), 256.0  # dlib subtracts the one and divides by the other
STEM_CHANNELS, STEM_KERNEL = 32, 7
# Channels and stride of each block, from the picture on.
BLOCKS = (*[(32, 1)] * 3, (64, 2), *[(64, 1)] * 3, (128, 2), *[(128, 1)] * 2, (256, 2), *[(256, 1)] * 2, (256, 2))
LAYER = re.compile(rb"con_4|affine_|fc_2\x01\x80\x02\x00\x01")  # names of layers with numbers; the last with its size
EXPECTED, REMEDY = "dlib_face_recognition_resnet_model_v1.dat", "install face-recognition-models again"


class FaceNetwork(nn.Module):
    """Embeddings of aligned faces: dlib's ``anet_type``, a residual network of 29 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        inputs = [STEM_CHANNELS, *(channels for channels, _ in BLOCKS)]
        self.stem = nn.Conv2d(3, STEM_CHANNELS, STEM_KERNEL, stride=2)
        self.blocks = nn.ModuleList(_Block(before, *block) for before, block in zip(inputs, BLOCKS, strict=False))
        self.head = nn.Linear(inputs[-1], DIMENSION, bias=False)
        self.register_buffer("mean", torch.tensor(MEAN_COLOUR).view(3, 1, 1), persistent=False)

    @classmethod
    def load(cls, path: Path) -> "FaceNetwork":
        """The network with dlib's weights; ValueError for a file with other layers.

        dlib has a scale and a shift for each channel after every convolution. Here they are part of the convolution.
        """
        network, tensors = cls().requires_grad_(False).eval(), list(_tensors(path))
        convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
        sizes = [size for one in convolutions for size in (one.weight.numel() + len(one.bias), 2 * len(one.bias))]
        if [len(tensor) for tensor in tensors] != [*sizes, network.head.weight.numel()]:
            raise ValueError(f"{path}: holds layers of other sizes; expected {EXPECTED}; {REMEDY}")
        for convolution, numbers, affine in zip(convolutions, tensors[:-1:2], tensors[1::2], strict=True):
            weight, bias = numbers.split([convolution.weight.numel(), len(convolution.bias)])
            scale, shift = affine.chunk(2)
            convolution.weight.copy_(weight.view_as(convolution.weight) * scale.view(-1, 1, 1, 1))
            convolution.bias.copy_(bias * scale + shift)
        network.head.weight.copy_(tensors[-1].view(-1, DIMENSION).T)
        return network

    def forward(self, chips: UInt8[Tensor, "batch height width 3"]) -> Float[Tensor, "batch 128"]:
        x = (chips.permute(0, 3, 1, 2).float() - self.mean) / COLOUR_SCALE
        x = F.max_pool2d(F.relu(self.stem(x)), 3, stride=2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class _Block(nn.Module):
    """Two convolutions beside a connection that skips them, and at stride 2 halves the picture and adds channels."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.first = nn.Conv2d(inputs, channels, 3, stride, padding=1 if stride == 1 else 0)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "batch inputs high wide"]) -> Float[Tensor, "batch channels _ _"]:
        skipped = x if self.stride == 1 else F.avg_pool2d(x, 2)
        x = self.second(F.relu(self.first(x)))
        return F.relu(_enlarged(x, skipped) + _enlarged(skipped, x))  # so dlib adds tensors of unequal shapes


def _enlarged(x: Float[Tensor, "batch _ _ _"], other: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
    """``x`` with zeros after its channels, rows and columns, up to those of ``other``."""
    channels, rows, columns = (max(0, there - here) for here, there in zip(x.shape[1:], other.shape[1:], strict=True))
    return F.pad(x, (0, columns, 0, rows, 0, channels))


def _tensors(path: Path) -> Iterator[Float[Tensor, " numbers"]]:
    """The numbers of one layer after the other."""
    content = regular_file(path, EXPECTED, REMEDY).read_bytes()
    position = 0
    while found := LAYER.search(content, position):
        position, shape = found.end(), []
        for _ in range(5):  # the version of the format, and four lengths
            number, position = _whole_number(content, position)
            shape.append(number)
        count = int(np.prod(shape[1:]))
        if 4 * count > len(content) - position:
            raise ValueError(f"{path}: ends within a layer; expected {EXPECTED}; {REMEDY}")
        yield torch.from_numpy(np.frombuffer(content, "<f4", count, position).copy())
        position += 4 * count


def _whole_number(content: bytes, position: int) -> tuple[int, int]:
    """A number as dlib writes it, after a byte that has its length, and the position after it."""
    end = position + 1 + (content[position] & 0x0F)
    return int.from_bytes(content[position + 1 : end], "little"), end
