"""Stable Diffusion 1.5's structure with random weights: narrow, as under a synthetic release, or at full size."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTokenizer
from transformers.utils import logging

from w2w_lib.files.atomic import make_folder
from w2w_lib.inputs import a_path
from w2w_lib.pocket.architecture import build_text_encoder, build_tokenizer

WORDS = "a photo of person man woman smiling".split()
CELL = 8  # pixels a side that one cell of the latents stands for


@dataclass(frozen=True)
class Widths:
    """The widths of the three networks; the blocks are the same in all."""

    pixels: int
    unet: tuple[int, ...]
    unet_groups: int
    vae: tuple[int, ...]
    vae_layers: int
    vae_groups: int
    text: int
    text_layers: int
    text_heads: int
    text_feed_forward: int  # times the width


NARROW = Widths(64, (32, 64, 64, 64), 16, (16, 16, 32, 32), 1, 8, 48, 1, 4, 2)
FULL = Widths(512, (320, 640, 1280, 1280), 32, (128, 256, 512, 512), 2, 32, 768, 12, 12, 4)


@cache
def tokenizer() -> CLIPTokenizer:
    """One for all: the order of its merges, which a fingerprint counts, is another each time that it is built."""
    return build_tokenizer(WORDS)


def random_stable_diffusion(widths: Widths = NARROW) -> StableDiffusionPipeline:
    """Random weights in the blocks, the codec, the noise schedule and the prediction type of Stable Diffusion 1.5.

    Its pictures are noise.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=widths.vae,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=widths.vae_layers,
            norm_num_groups=widths.vae_groups,
            latent_channels=4,
            sample_size=widths.pixels,
        )
        unet = UNet2DConditionModel(
            sample_size=widths.pixels // CELL,
            block_out_channels=widths.unet,
            cross_attention_dim=widths.text,
            attention_head_dim=8,
            norm_num_groups=widths.unet_groups,
        )
        text_sizes = widths.text, widths.text_layers, widths.text_heads, widths.text_feed_forward
        text_encoder = build_text_encoder(tokenizer(), *text_sizes)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer(),
        unet=unet,
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write_random_base(folder: str | Path, widths: Widths = NARROW, dtype: torch.dtype = torch.float32) -> Path:
    """Save such a base as any other is saved, and give its folder; ValueError for a file in its place."""
    folder = a_path(folder, "a folder for the base")
    make_folder(folder)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        random_stable_diffusion(widths).to(dtype=dtype).save_pretrained(folder)
    finally:
        if bars:
            logging.enable_progress_bar()
    return folder
