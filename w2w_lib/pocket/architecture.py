"""The parts of the pocket base: diffusers' and transformers' own classes, small and randomly initialised."""

import json
from functools import cache

from diffusers import DDIMScheduler, UNet2DConditionModel
from tokenizers import Tokenizer, models, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from w2w_lib.models.prompts import IDENTIFIER

MAX_TOKENS = 77
WORD_SCALE = 0.5  # standard deviation of new words' embeddings: what layers add must not drown rare words


def build_tokenizer(words: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges make one token of each given word and of ``sks``."""
    bos, eos = "<|startoftext|>", "<|endoftext|>"
    clip = CLIPTokenizer()
    byte_pairs = Tokenizer(models.BPE(unk_token=eos, end_of_word_suffix="</w>"))
    byte_pairs.normalizer = clip.backend_tokenizer.normalizer
    byte_pairs.pre_tokenizer = clip.backend_tokenizer.pre_tokenizer
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [","]
    corpus = [*words, IDENTIFIER] * 10 + letters + [a + b for a in letters for b in letters]
    # The trainer breaks ties by the numbers of tokens; those of final letters differ from run to run, unless given.
    trainer = trainers.BpeTrainer(
        vocab_size=1 << 16,
        min_frequency=10,
        special_tokens=[bos, eos, *(f"{letter}</w>" for letter in letters)],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    byte_pairs.train_from_iterator(corpus, trainer)
    model = json.loads(byte_pairs.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    first = [bos, eos, *(f"{word}</w>" for word in sorted({*words, IDENTIFIER, ","}))]
    tokens = first + sorted(set(model["vocab"]) - set(first))
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=MAX_TOKENS)


def build_text_encoder(
    tokenizer: CLIPTokenizer, width: int, layers: int, heads: int = 4, feed_forward: int = 2
) -> CLIPTextModel:
    """A small, randomly initialised CLIP text transformer for this tokenizer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=feed_forward * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",
    )
    encoder = CLIPTextModel(config)
    nn.init.normal_(encoder.get_input_embeddings().weight, std=WORD_SCALE)
    return encoder


def build_unet(latent_channels: int, latent_size: int, channels: list[int], text_width: int) -> UNet2DConditionModel:
    """A randomly initialised SD-style UNet with cross-attention at every level."""
    levels = len(channels)
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


@cache
def pocket_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule with v-prediction and zero terminal SNR (Lin et al. 2024)."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
