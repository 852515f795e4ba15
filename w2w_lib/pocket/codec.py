"""The pocket world's autoencoder: a linear code of patches, and a decoder that knows what faces look like.

Where Stable Diffusion trains a convolutional ``AutoencoderKL`` for days, 64x64 faces allow PCA: every 8x8 patch is
written in its first ``latent_channels`` principal components, and the decoder is the least-squares map from a 3x3
neighbourhood of latents back to the patch. What that map blurs, a small convolutional network adds (its training is in
``w2w_lib.pocket.codec_training``). It has ``AutoencoderKL``'s interface (``encode(x).latent_dist``,
``decode(z).sample``, ``config.scaling_factor``), so a ``StableDiffusionPipeline`` loads and runs it unchanged.
"""

from collections.abc import Sequence
from itertools import pairwise, zip_longest

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.resnet import ResnetBlock2D
from jaxtyping import Float
from torch import Tensor, nn


class DeterministicPosterior:
    """A posterior without noise, with the methods diffusers asks of ``latent_dist``."""

    def __init__(self, latents: Float[Tensor, "batch channels height width"]):
        self.latents = latents

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        return self.latents

    def mode(self) -> Tensor:
        return self.latents


class Refiner(nn.Module):
    """What the linear decoder misses of a picture: residual blocks at doubling resolutions, 0 before training.

    The first resolution is the latent's; the pixels within a cell of the last one are its channels (``PixelShuffle``).
    """

    def __init__(self, latent_channels: int, channels: Sequence[int], blocks: int, patch: int, out_channels: int):
        super().__init__()
        cell = patch // 2 ** (len(channels) - 1)  # pixels a side of the finest resolution's cells
        self.conv_in = nn.Conv2d(latent_channels, channels[0], 3, padding=1)
        self.levels = nn.ModuleList(nn.ModuleList(_block(width) for _ in range(blocks)) for width in channels)
        self.finer = nn.ModuleList(
            nn.Sequential(nn.Conv2d(coarse, 4 * fine, 1), nn.PixelShuffle(2)) for coarse, fine in pairwise(channels)
        )
        self.conv_out = nn.Conv2d(channels[-1], out_channels * cell**2, 3, padding=1)
        self.pixels = nn.PixelShuffle(cell)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, z: Float[Tensor, "batch channels height width"]) -> Tensor:
        hidden = self.conv_in(z)
        for blocks, finer in zip_longest(self.levels, self.finer):
            for block in blocks:
                hidden = block(hidden, None)
            hidden = hidden if finer is None else finer(hidden)
        return self.pixels(self.conv_out(hidden))


def _block(channels: int) -> ResnetBlock2D:
    return ResnetBlock2D(in_channels=channels, temb_channels=None, groups=16)


class PatchCodec(ModelMixin, ConfigMixin):
    """Autoencoder of image patches: a strided convolution in; out, a convolution to patches' pixels and a refiner."""

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        latent_channels: int = 16,
        patch: int = 8,
        context: int = 3,
        refiner_channels: Sequence[int] | None = None,
        refiner_blocks: int = 3,
        scaling_factor: float = 1.0,
        block_out_channels: Sequence[int] = (),
    ):
        super().__init__()
        # A pipeline reads the size of a cell from this setting's length, as an AutoencoderKL halves between its blocks.
        self.register_to_config(block_out_channels=[in_channels] * patch.bit_length())
        self.encoder = nn.Conv2d(in_channels, latent_channels, patch, stride=patch)
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, in_channels * patch**2, context, padding=context // 2), nn.PixelShuffle(patch)
        )
        self.refiner = None
        if refiner_channels:
            self.refiner = Refiner(latent_channels, refiner_channels, refiner_blocks, patch, in_channels)

    def encode(self, x: Float[Tensor, "batch 3 height width"], return_dict: bool = True):
        """Latents (batch, channels, height/patch, width/patch) of images in [-1, 1]."""
        posterior = DeterministicPosterior(self.encoder(x))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Float[Tensor, "batch channels height width"], return_dict: bool = True, generator=None):
        """Images (batch, 3, height*patch, width*patch), nominally in [-1, 1], of latents."""
        image = self.decoder(z) if self.refiner is None else self.decoder(z) + self.refiner(z)
        return DecoderOutput(sample=image) if return_dict else (image,)


def _patches(images: Float[Tensor, "batch 3 height width"], patch: int) -> Float[Tensor, "batch cells values"]:
    return F.unfold(images, patch, stride=patch).transpose(1, 2)


@torch.no_grad()
def fit_patch_codec(
    images: Float[Tensor, "batch 3 height width"],
    latent_channels: int = 16,
    patch: int = 8,
    flatten: float = 0.5,
    ridge: float = 1e-4,
) -> PatchCodec:
    """Fit the codec on images in [-1, 1]: PCA of patches, then ridge regression from 3x3 latents to pixels.

    ``flatten`` sets how far the channels' spread is evened out: 1 keeps each component's own standard deviation, 0
    whitens. Latents come out centred, with mean variance 1 over the channels, so ``scaling_factor`` is 1.
    """
    context, channels = 3, images.shape[1]
    codec = PatchCodec(channels, latent_channels, patch, context)
    cells = _patches(images, patch)
    flat = cells.reshape(-1, cells.shape[-1]).double()
    colour = images.mean((0, 2, 3)).double()
    mean = colour.repeat_interleave(patch**2)
    variances, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    order = variances.argsort(descending=True)[:latent_channels]
    stds, components = variances[order].sqrt(), vectors[:, order].T
    spread = stds**flatten
    gain = spread / spread.square().mean().sqrt() / stds
    weight = components * gain[:, None]
    codec.encoder.weight.copy_(weight.reshape(codec.encoder.weight.shape))
    codec.encoder.bias.copy_(-weight @ mean)

    latents = codec.encoder(images)
    padded = F.pad(latents, [context // 2] * 4)
    neighbourhoods = F.unfold(padded, context).transpose(1, 2).reshape(-1, latent_channels * context**2).double()
    gram = neighbourhoods.T @ neighbourhoods / len(neighbourhoods)
    cross = neighbourhoods.T @ (flat - mean) / len(neighbourhoods)
    solution = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), cross)
    to_patches = codec.decoder[0]  # (channel, dy, dx) -> (colour, py, px)
    to_patches.weight.copy_(solution.T.reshape(to_patches.weight.shape))
    to_patches.bias.copy_(mean)
    return codec.eval()
