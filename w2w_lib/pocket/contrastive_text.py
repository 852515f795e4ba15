"""A small CLIP (Radford et al. 2021): captions against the latents of the pictures that they describe.

Nothing is said of attributes: a caption's embedding has to be nearer to its own picture's than to the other pictures'
of the batch, and a picture's nearer to its own caption's, also than to the same caption with one phrase altered: else
the coarse features that tell random pictures apart are all that is learned.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from w2w_lib.pocket.training_data import BaseData

FIRST_TEMPERATURE, COLDEST = 0.07, 0.01  # Radford et al. 2021, section 2.5
PICTURE_LAYERS, PICTURE_HEADS, PICTURE_PATCH = 3, 4, 2  # of the picture tower; a patch is so many latent cells wide
LENGTH_GROUPS = 8  # a batch's captions are read in so many groups of like length: less padding


def info_nce(
    text: Float[Tensor, "batch dims"],
    pictures: Float[Tensor, "batch dims"],
    scale: Float[Tensor, ""] | float,
    altered: Float[Tensor, "batch alternatives dims"] | None = None,
    same: Bool[Tensor, "batch alternatives"] | None = None,
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy of telling partners by the cosines of their embeddings times ``scale``.

    A picture also has to tell its caption from the ``altered`` ones (Yuksekgonul et al. 2023), but for those that are
    the ``same``.
    """
    text, pictures = F.normalize(text, dim=-1), F.normalize(pictures, dim=-1)
    logits, own = scale * text @ pictures.T, torch.arange(len(text), device=text.device)
    of_pictures = logits.T
    if altered is not None:
        wrong = scale * torch.einsum("bd,bad->ba", pictures, F.normalize(altered, dim=-1))
        of_pictures = torch.cat([of_pictures, wrong.masked_fill(same, -torch.inf)], 1)
    return (F.cross_entropy(logits, own) + F.cross_entropy(of_pictures, own)) / 2


class SmallClip(nn.Module):
    """A text tower, a picture tower on latents, their linear projections and a temperature."""

    def __init__(self, text: CLIPTextModel, latent_channels: int, latent_size: int):
        super().__init__()
        width = text.config.hidden_size
        config = CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=PICTURE_LAYERS,
            num_attention_heads=PICTURE_HEADS,
            num_channels=latent_channels,
            image_size=latent_size,
            patch_size=PICTURE_PATCH,
        )
        self.text, self.pictures = text, CLIPVisionModel(config)
        self.text_projection = nn.Linear(width, width, bias=False)
        self.picture_projection = nn.Linear(width, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(FIRST_TEMPERATURE)))

    def embed_captions(self, tokens: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch dims"]:
        """Projected states at the captions' ends; what is after an end cannot change it and is not computed."""
        lengths = 1 + (tokens == self.text.config.eos_token_id).int().argmax(1)
        order = lengths.argsort()
        ends = [
            self.text(tokens[group, : lengths[group].max()].long()).pooler_output
            for group in order.chunk(LENGTH_GROUPS)
        ]
        return self.text_projection(torch.cat(ends)[order.argsort()])

    def embed_pictures(self, latents: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch dims"]:
        """Projected states of the picture tower."""
        return self.picture_projection(self.pictures(latents).pooler_output)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """The inverse temperature, clamped."""
        return self.log_scale.clamp(max=-math.log(COLDEST)).exp()


def contrastive_loss(clip: SmallClip, data: BaseData) -> Callable[..., Tensor]:
    """InfoNCE of the captions ``(rows, columns)`` and their altered ones against their pictures."""

    def loss(rows: Int[Tensor, " batch"], columns: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        tokens = data.contrasted[rows, columns]
        with torch.autocast(tokens.device.type, torch.bfloat16):
            captions = clip.embed_captions(tokens.flatten(0, 1)).float().unflatten(0, tokens.shape[:2])
            pictures = clip.embed_pictures(data.latents[rows]).float()
        same = (tokens[:, 1:] == tokens[:, :1]).all(-1)
        return info_nce(captions[:, 0], pictures, clip.scale, captions[:, 1:], same)

    return loss


@torch.no_grad()
def retrieved(
    clip: SmallClip, tokens: Int[Tensor, "pictures tokens"], latents: Float[Tensor, "pictures channels height width"]
) -> float:
    """Share of captions whose own picture is the nearest of all these pictures."""
    captions, pictures = F.normalize(clip.embed_captions(tokens), dim=-1), clip.embed_pictures(latents)
    nearest = (captions @ F.normalize(pictures, dim=-1).T).argmax(1)
    return (nearest == torch.arange(len(tokens), device=nearest.device)).float().mean().item()
