"""LPIPS with AlexNet, version 0.1 (Zhang et al. 2018): how different two pictures look, as a differentiable distance.

The features of five convolutions are normalised along their channels; the distance is the weighted mean of their
squared differences. It is lower for pictures that look alike, 0 for equal ones.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from w2w_lib.files.tensors import read_tensors
from w2w_lib.models.images import to_pixels

WEIGHTS = Path(__file__).resolve().parents[2] / "data" / "lpips" / "alexnet.safetensors"
# AlexNet's convolutions: channels in and out, kernel, stride and padding.
CONVOLUTIONS = ((3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1), (256, 256, 3, 1, 1))
POOLED = (1, 2)  # the convolutions whose input is pooled: 3x3, stride 2
MEAN, STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # ImageNet's colours, for pictures in [-1, 1]
SMALLEST = 31  # pixels a side, of which the pooling leaves one cell
BATCH = 64  # pairs of pictures at once
EPSILON = 1e-10  # added to the length of a feature vector, as in the reference
REMEDY = "restore the file, or make it again as data/lpips/README.md says"


class LPIPS(nn.Module):
    """The distance of pictures in [-1, 1], frozen; pass truths' ``features`` where they are compared repeatedly."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(*sizes) for sizes in CONVOLUTIONS)
        self.scales = nn.ParameterList(torch.zeros(channels) for _, channels, *_ in CONVOLUTIONS)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> "LPIPS":
        """The network with its published weights; ValueError for a file that holds other tensors."""
        network = cls()
        shapes = {name: " ".join(map(str, tensor.shape)) for name, tensor in network.state_dict().items()}
        tensors, _ = read_tensors(path, "LPIPS's AlexNet", REMEDY, shapes)
        network.load_state_dict(tensors)
        return network.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def features(self, images: Float[Tensor, "batch 3 height width"]) -> list[Float[Tensor, "batch _ _ _"]]:
        """Each layer's features, of length 1 at every position; ValueError for pictures smaller than 31 pixels."""
        if min(images.shape[-2:]) < SMALLEST:
            raise ValueError(f"pictures of shape {tuple(images.shape)}: expected at least {SMALLEST} pixels a side")
        hidden = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        found = []
        for index, convolution in enumerate(self.convolutions):
            hidden = F.max_pool2d(hidden, 3, stride=2) if index in POOLED else hidden
            hidden = F.relu(convolution(hidden))
            length = torch.linalg.vector_norm(hidden, dim=1, keepdim=True, dtype=torch.float32)
            found.append(hidden / (length + EPSILON))
        return found

    def distance(
        self, features: list[Float[Tensor, "batch _ _ _"]], others: list[Float[Tensor, "batch _ _ _"]]
    ) -> Float[Tensor, " batch"]:
        """The distance of pictures whose ``features`` these are."""
        squares = [(one - other).float().square() for one, other in zip(features, others, strict=True)]
        return sum((square.mean((2, 3)) * scale).sum(1) for square, scale in zip(squares, self.scales, strict=True))

    def forward(
        self, images: Float[Tensor, "batch 3 height width"], others: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, " batch"]:
        return self.distance(self.features(images), self.features(others))

    @torch.no_grad()
    def of_pictures(
        self, images: UInt8[np.ndarray, "batch height width 3"], others: UInt8[np.ndarray, "batch height width 3"]
    ) -> Float[np.ndarray, " batch"]:
        """The distances of pictures and others, pair by pair."""
        groups = [slice(first, first + BATCH) for first in range(0, len(images), BATCH)]
        parts = [self(to_pixels(images[group]), to_pixels(others[group])) for group in groups]
        return torch.cat([torch.zeros(0), *parts]).numpy()
