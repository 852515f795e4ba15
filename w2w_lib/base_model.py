"""The frozen base: any ``StableDiffusionPipeline`` folder, and how the pocket world's own is put together."""

import hashlib
import json
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.utils import logging
from tokenizers import Tokenizer, models, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import w2w_lib.codec  # noqa: F401  diffusers loads a class of ours only from a module that is imported already

IDENTIFIER = "sks"  # the word that stands for the person; it means nothing to the base (Ruiz et al. 2023)
INSTANCE_PROMPT = f"{IDENTIFIER} person"
CLASS_PROMPT = "person"
MAX_TOKENS = 77


def open_base(
    base: str | Path, unet_dtype: torch.dtype = torch.float32, device: str | None = None
) -> StableDiffusionPipeline:
    """Load a base model from a folder (or a hub name), frozen, with a DDIM scheduler and no safety checker.

    The UNet computes in ``unet_dtype`` and everything around it in fp32, on ``device``: by default a GPU if there is
    one. FileNotFoundError for a path that holds no pipeline.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    looks_local = isinstance(base, Path) or Path(base).exists() or str(base).startswith((".", "/"))
    if looks_local and not (Path(base) / "model_index.json").is_file():
        raise FileNotFoundError(
            f"base model {str(base)!r}: expected a StableDiffusionPipeline folder with a model_index.json; "
            "give such a folder or a hub name, or run `make base` to train the pocket base"
        )
    with _quiet_loading():
        pipeline = StableDiffusionPipeline.from_pretrained(
            base, dtype=torch.float32, safety_checker=None, requires_safety_checker=False, low_cpu_mem_usage=False
        )
    pipeline.scheduler = _as_ddim(pipeline.scheduler)
    if isinstance(pipeline.vae, AutoencoderKL):
        pipeline.vae.enable_slicing()  # picture by picture: at 512 pixels a batch of them is many gigabytes
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.requires_grad_(False).eval()
    if device == "cpu":
        # PyTorch's fused CPU attention has a slow backward pass: 40% of a training step at this size.
        pipeline.unet.set_attn_processor(AttnProcessor())
        pipeline.unet.to(memory_format=torch.channels_last)
    if unet_dtype != torch.float32:
        _compute_in(pipeline.unet, unet_dtype)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _as_ddim(scheduler: SchedulerMixin) -> DDIMScheduler:
    """DDIM with the noise of another scheduler; what that does not say, as Stable Diffusion has it."""
    config, unsaid = scheduler.config, {"clip_sample": False, "steps_offset": 1}
    by_default = config.get("_use_default_values", [])
    filled = {name: value for name, value in unsaid.items() if name not in config or name in by_default}
    return DDIMScheduler.from_config(config, **filled)


@contextmanager
def _quiet_loading():
    """Without diffusers' remark that our codec is not an AutoencoderKL: it is meant to stand in for one."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _compute_in(unet: UNet2DConditionModel, dtype: torch.dtype) -> None:
    """Let the UNet work in half precision while the sampler around it keeps fp32."""
    for module in unet.modules():
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)

    unet.register_forward_pre_hook(partial(_cast_in, dtype), with_kwargs=True)
    unet.register_forward_hook(_cast_out)


def _cast_in(dtype: torch.dtype, module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    return tuple(_cast(a, dtype) for a in args), {k: _cast(v, dtype) for k, v in kwargs.items()}


def _cast_out(module, args: tuple, output):
    if isinstance(output, tuple):
        return tuple(_cast(o, torch.float32) for o in output)
    output.sample = output.sample.float()
    return output


def _cast(value, dtype: torch.dtype):
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def fingerprint(pipeline: StableDiffusionPipeline) -> str:
    """Sixteen hexadecimal digits that identify a base model: the hash of its UNet's configuration and weights."""
    unet = pipeline.unet
    digest = hashlib.sha256(json.dumps(dict(unet.config), sort_keys=True, default=str).encode())
    for name, tensor in sorted(unet.state_dict().items()):
        digest.update(name.encode())
        # Rounded to bf16, the coarsest precision it is opened in, so that a base is itself in each of them.
        digest.update(tensor.detach().cpu().to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def build_tokenizer(words: list[str]) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges make one token of each given word and of ``sks``."""
    bos, eos = "<|startoftext|>", "<|endoftext|>"
    clip = CLIPTokenizer()
    byte_pairs = Tokenizer(models.BPE(unk_token=eos, end_of_word_suffix="</w>"))
    byte_pairs.normalizer = clip.backend_tokenizer.normalizer
    byte_pairs.pre_tokenizer = clip.backend_tokenizer.pre_tokenizer
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)] + [","]
    corpus = [*words, IDENTIFIER] * 10 + letters + [a + b for a in letters for b in letters]
    trainer = trainers.BpeTrainer(
        vocab_size=8192,
        min_frequency=10,
        special_tokens=[bos, eos],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    byte_pairs.train_from_iterator(corpus, trainer)
    model = json.loads(byte_pairs.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    # The trainer breaks ties differently from run to run: number the words in an order of our own.
    first = [bos, eos, *(f"{word}</w>" for word in sorted({*words, IDENTIFIER, ","}))]
    tokens = first + sorted(set(model["vocab"]) - set(first))
    return CLIPTokenizer(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, model_max_length=MAX_TOKENS)


def build_text_encoder(tokenizer: CLIPTokenizer, width: int, layers: int, heads: int = 4) -> CLIPTextModel:
    """A small, randomly initialised CLIP text transformer for this tokenizer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=MAX_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        attn_implementation="eager",
    )
    return CLIPTextModel(config)


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


def encode_images(pipeline: StableDiffusionPipeline, images: torch.Tensor) -> torch.Tensor:
    """Scaled latents (batch, channels, h, w) of images (batch, 3, H, W) in [-1, 1]."""
    with torch.no_grad():
        posterior = pipeline.vae.encode(images.to(pipeline.vae.device, pipeline.vae.dtype)).latent_dist
    return posterior.mode() * pipeline.vae.config.scaling_factor


def encode_prompts(pipeline: StableDiffusionPipeline, prompts: list[str]) -> torch.Tensor:
    """Text states (batch, tokens, width) of prompts, padded to the model's length."""
    tokenizer = pipeline.tokenizer
    ids = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    with torch.no_grad():
        return pipeline.text_encoder(ids.to(pipeline.text_encoder.device)).last_hidden_state
