"""Stable Diffusion 1.5's architecture with random weights: neither d, nor the operations, nor the memory care."""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from w2w_lib.people.rendered.captions import VOCABULARY
from w2w_lib.pocket.architecture import build_tokenizer


@dataclass(frozen=True)
class Widths:
    """The widths of the three networks; the blocks are the same in all."""

    pixels: int
    unet: tuple[int, ...]
    unet_groups: int
    vae: tuple[int, ...]
    vae_groups: int
    text: int
    text_layers: int
    text_heads: int


FULL = Widths(512, (320, 640, 1280, 1280), 32, (128, 256, 512, 512), 32, 768, 12, 12)
NARROW = Widths(64, (32, 64, 64, 64), 16, (16, 16, 32, 32), 8, 48, 1, 4)  # for rehearsals on a CPU


def write_base(folder: str | Path, widths: Widths = FULL, seed: int = 0) -> str:
    """Write a base in bfloat16 that ``open_base`` opens, and give its folder back."""
    torch.manual_seed(seed)
    random_stable_diffusion(widths).to(dtype=torch.bfloat16).save_pretrained(folder)
    return str(folder)


def random_stable_diffusion(widths: Widths) -> StableDiffusionPipeline:
    """The pipeline, in fp32; its tokenizer has a word or two of English only."""
    tokenizer = build_tokenizer(VOCABULARY)
    return StableDiffusionPipeline(
        vae=_vae(widths),
        text_encoder=_text_encoder(widths, tokenizer),
        tokenizer=tokenizer,
        unet=_unet(widths),
        scheduler=PNDMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def _unet(widths: Widths) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=widths.pixels // 8,
        block_out_channels=widths.unet,
        norm_num_groups=widths.unet_groups,
        cross_attention_dim=widths.text,
        attention_head_dim=8,
    )


def _vae(widths: Widths) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=widths.vae,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=widths.vae_groups,
        sample_size=widths.pixels,
    )


def _text_encoder(widths: Widths, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """ViT-L/14's text transformer at full width, but for its vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=widths.text,
            intermediate_size=4 * widths.text,
            num_hidden_layers=widths.text_layers,
            num_attention_heads=widths.text_heads,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
