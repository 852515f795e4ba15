"""Stable Diffusion 1.5's structure, narrow and with random weights: what a synthetic release is a space of."""

from functools import cache
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTokenizer
from transformers.utils import logging

from w2w_lib.files.folders import make_folder
from w2w_lib.inputs import a_path, whole_number
from w2w_lib.models.base import open_base
from w2w_lib.pocket.architecture import build_text_encoder, build_tokenizer

WORDS = "a photo of person man woman smiling".split()
TEXT_WIDTH = 48
CELL = 8  # pixels a side that one cell of the latents stands for


@cache
def tokenizer() -> CLIPTokenizer:
    """One for all: the order of its merges, which a fingerprint counts, is another each time that it is built."""
    return build_tokenizer(WORDS)


def narrow_stable_diffusion(image_size: int = 64) -> StableDiffusionPipeline:
    """Random weights in the blocks, the codec, the noise schedule and the prediction type of Stable Diffusion 1.5.

    Its pictures are noise. ValueError for a size that is no multiple of 64.
    """
    if whole_number("image_size", image_size, 64) % 64:
        raise ValueError(f"image_size {image_size}: expected a multiple of 64, which its UNet can halve three times")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=(16, 16, 32, 32),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=8,
            latent_channels=4,
            sample_size=image_size,
        )
        unet = UNet2DConditionModel(
            sample_size=image_size // CELL,
            block_out_channels=(32, 64, 64, 64),
            cross_attention_dim=TEXT_WIDTH,
            attention_head_dim=8,
            norm_num_groups=16,
        )
        text_encoder = build_text_encoder(tokenizer(), TEXT_WIDTH, 1)
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


def open_narrow_base(folder: str | Path) -> StableDiffusionPipeline:
    """Save such a base in a folder and open it as any other; errors as in ``open_base``."""
    folder = a_path(folder, "a folder for the base")
    make_folder(folder)
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        narrow_stable_diffusion().save_pretrained(folder)
    finally:
        if bars:
            logging.enable_progress_bar()
    return open_base(folder)
