"""A tiny random Stable Diffusion for tests, put together from diffusers' own classes."""

from functools import cache

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from w2w_lib.pocket.architecture import build_text_encoder, build_tokenizer, build_unet, pocket_scheduler

WORDS = "a photo of person man woman smiling".split()


@cache
def tiny_tokenizer():
    """One for all: the order of its merges, which a fingerprint counts, is another each time that it is built."""
    return build_tokenizer(WORDS)


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


def narrow_stable_diffusion(image_size: int = 64) -> StableDiffusionPipeline:
    """Random weights in the blocks, the codec, the noise schedule and the prediction type of Stable Diffusion 1.5."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    vae = AutoencoderKL(
        block_out_channels=(16, 16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=image_size,
    )
    unet = UNet2DConditionModel(
        sample_size=image_size // 8,
        block_out_channels=(32, 64, 64, 64),
        cross_attention_dim=48,
        attention_head_dim=8,
        norm_num_groups=16,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=build_text_encoder(tokenizer, 48, 1),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


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
