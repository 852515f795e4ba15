"""A small CLIP (Radford et al. 2021) for rendered people: pictures and captions embedded where they can be compared.

It is to the pocket world what CLIP is to photographs, so that the paper's CLIP score can be computed. Captions are bags
of phrases of a closed list. ``dual_encoder_training`` trains it.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from w2w_lib.evaluation.attributes import small_pixels
from w2w_lib.evaluation.caption_phrases import PHRASES, counted
from w2w_lib.evaluation.pictures import as_pictures
from w2w_lib.files.atomic import save_tensors
from w2w_lib.files.tensors import finite, read_tensors

WEIGHTS = Path(__file__).resolve().parents[2] / "data" / "dual_encoder" / "dual_encoder.safetensors"
EXPECTED = "a pocket dual encoder"
REMEDY = "restore the file, or make it again as data/dual_encoder/README.md says"
SIZE = 64  # pixels; larger pictures are averaged down
CHANNELS = (24, 48, 96, 160)
WIDTH, WORD_WIDTH, PHRASE_WIDTH = 128, 128, 256  # of the common space, of a word, within a phrase's network
FIRST_TEMPERATURE = 0.07  # Radford et al. 2021, section 2.5
TOGETHER = 256  # pictures embedded at once


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers = []
    for before, stride in ((inputs, 2), (outputs, 1)):
        layers += [nn.Conv2d(before, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


class DualEncoder(nn.Module):
    """A convolutional network for pictures, a network for phrases (a caption is their sum), and a temperature."""

    name = "pocket dual encoder"

    def __init__(self) -> None:
        super().__init__()
        words = sorted({word for phrase in PHRASES for word in phrase.split()})
        self.pictures = nn.Sequential(
            *(_block(*sizes) for sizes in zip((3, *CHANNELS), CHANNELS, strict=False)),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(CHANNELS[-1] * (SIZE // 2 ** len(CHANNELS)) ** 2, WIDTH),
        )
        self.words = nn.Parameter(torch.randn(len(words), WORD_WIDTH) / math.sqrt(WORD_WIDTH))
        self.phrases = nn.Sequential(nn.Linear(WORD_WIDTH, PHRASE_WIDTH), nn.GELU(), nn.Linear(PHRASE_WIDTH, WIDTH))
        self.log_scale = nn.Parameter(torch.tensor([-math.log(FIRST_TEMPERATURE)]))
        spelled = torch.tensor([[float(word in phrase.split()) for word in words] for phrase in PHRASES])
        self.register_buffer("spelled", spelled, persistent=False)

    def phrase_table(self) -> Float[Tensor, "phrases dim"]:
        """What each of ``PHRASES`` adds to a caption."""
        return self.phrases(self.spelled @ self.words)

    def forward(self, pixels: Float[Tensor, "batch 3 64 64"]) -> Float[Tensor, "batch dim"]:
        return F.normalize(self.pictures(pixels), dim=-1)

    @torch.no_grad()
    def embed_images(self, images: UInt8[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch dim"]:
        """Pictures in the common space, of length 1; ValueError where they are not uint8 RGB."""
        self.eval()
        images = as_pictures(images)
        groups = (images[first : first + TOGETHER] for first in range(0, len(images), TOGETHER))
        parts = [self(small_pixels(group, SIZE)) for group in groups]
        return torch.cat([torch.zeros(0, WIDTH), *parts])

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Captions in the common space, of length 1; ValueError for a phrase that captions of renders do not have."""
        return F.normalize(counted(texts).float() @ self.phrase_table(), dim=-1)

    def save(self, path: str | Path) -> None:
        """Write the networks in half precision and the phrases that they know."""
        half = {name: tensor.half() for name, tensor in _numbers(self).items()}
        if bad := [name for name, tensor in half.items() if not finite(tensor)]:
            raise ValueError(f"{path}: {bad[0]!r} is not finite in half precision; nothing was written; train it anew")
        save_tensors(half, path, {"phrases": json.dumps(PHRASES)})

    @classmethod
    def load(cls, path: str | Path = WEIGHTS) -> "DualEncoder":
        """Read a saved dual encoder; FileNotFoundError where there is none, ValueError for any other file."""
        made = cls()
        shapes = {name: " ".join(map(str, tensor.shape)) for name, tensor in _numbers(made).items()}
        tensors, metadata = read_tensors(path, EXPECTED, REMEDY, shapes, metadata={"phrases": list[str]})
        if metadata["phrases"] != list(PHRASES):
            raise ValueError(f"{path}: was trained with other phrases; expected {EXPECTED} of these captions; {REMEDY}")
        made.load_state_dict({**made.state_dict(), **{name: tensor.float() for name, tensor in tensors.items()}})
        return made.requires_grad_(False).eval()


def _numbers(encoder: DualEncoder) -> dict[str, Tensor]:
    """Its tensors, without the counters that batch normalisation keeps."""
    return {name: tensor for name, tensor in encoder.state_dict().items() if tensor.is_floating_point()}
