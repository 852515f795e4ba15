"""A tiny random Stable Diffusion for tests, put together from diffusers' own classes."""

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

from w2w_lib.pocket.architecture import build_text_encoder, build_unet, pocket_scheduler
from w2w_lib.release.random_base import tokenizer as tiny_tokenizer


def tiny_pipeline(seed: int = 0, channels=(16, 32)) -> StableDiffusionPipeline:
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
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


def stable_diffusion_unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's UNet at its real size, without its numbers."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
            cross_attention_dim=768,
            attention_head_dim=8,
        )
