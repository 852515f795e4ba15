"""A tiny random Stable Diffusion for tests, put together from diffusers' own classes."""

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline

from w2w_lib.base_model import build_text_encoder, build_tokenizer, build_unet, pocket_scheduler

WORDS = "a photo of person man woman smiling".split()


def tiny_pipeline(seed: int = 0, channels=(16, 32)) -> StableDiffusionPipeline:
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(WORDS)
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    )
    unet = build_unet(latent_channels=4, latent_size=8, channels=list(channels), text_width=16)
    pipeline = StableDiffusionPipeline(
        vae=vae.eval(),
        text_encoder=build_text_encoder(tokenizer, 16, 1, heads=2).eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=pocket_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
