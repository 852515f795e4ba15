"""The frozen base: any ``StableDiffusionPipeline`` folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import snapshot_download
from transformers.utils import logging as transformers_logging

from w2w_lib.models.base_folder import (
    EXPECTED,
    REMEDY,
    WEIGHTS,
    check_index,
    first_line,
    needed,
    weights_file,
)
from w2w_lib.models.base_parts import check_finite, load_parts
from w2w_lib.models.fingerprint import rounded
from w2w_lib.models.precision import best_dtype, compute_in
from w2w_lib.models.recipe import check_variant

UNET_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def open_base(
    base: str | Path,
    unet_dtype: torch.dtype | None = torch.float32,
    device: str | torch.device | None = None,
    variant: str | None = None,
    revision: str | None = None,
) -> StableDiffusionPipeline:
    """Load a base model from a folder (or a hub name), frozen, with a DDIM scheduler and no safety checker.

    The UNet computes in ``unet_dtype`` (None: what the device is fast in, see ``best_dtype``) and everything around it
    in fp32, on ``device``: by default a GPU if there is one. Of weights in several precisions ``variant``, such as
    "fp16", names the files to read where they are there; ``revision`` is of the hub. Nothing but safetensors and JSON
    is read, and no code of the folder's runs. FileNotFoundError for a path that holds no pipeline, or lacks one of its
    files; ValueError for anything else that is wrong with it, for a name that the hub does not give, and for a type or
    device that there is not.
    """
    if unet_dtype not in (*UNET_DTYPES, None):
        raise ValueError(f"unet_dtype {unet_dtype!r}: expected one of {', '.join(map(str, UNET_DTYPES))}, or None")
    device = _device(device)
    unet_dtype, folder = unet_dtype or best_dtype(device), _folder(base, check_variant(variant), revision)
    with _quiet_loading():
        parts = load_parts(folder, variant)
        try:
            pipeline = StableDiffusionPipeline(
                **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
            )
        except Exception as error:  # whatever diffusers makes of entries such as a library version
            raise ValueError(f"{folder}: {first_line(error)}; expected {EXPECTED}; {REMEDY}") from None
    if isinstance(pipeline.vae, AutoencoderKL):
        pipeline.vae.enable_slicing()  # picture by picture: at 512 pixels a batch of them is many gigabytes
        pipeline.vae.to(memory_format=torch.channels_last)
    pipeline.unet.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        # PyTorch's fused CPU attention has a slow backward pass: 40% of a training step at this size.
        pipeline.unet.set_attn_processor(AttnProcessor())
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(device)
    if unet_dtype != torch.float32:
        with rounded(pipeline.unet):
            compute_in(pipeline.unet, unet_dtype)
    for name in ("unet", "vae", "text_encoder"):
        check_finite(folder, name, getattr(pipeline, name).requires_grad_(False).eval())
    return pipeline


def _device(name: str | torch.device | None) -> torch.device:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device {name!r}: {first_line(error)}; expected one of this machine, such as 'cpu'") from None
    if device.type == "meta":
        raise ValueError("device 'meta': holds no numbers; expected one that computes, such as 'cpu'")
    return device


def _folder(base: str | Path, variant: str | None, revision: str | None) -> Path:
    """A folder with a pipeline's index: the given one, or the hub's copy on this machine."""
    if not isinstance(base, str | Path):
        raise ValueError(f"base model {base!r}: expected a folder or a hub name")
    folder = Path(base)
    if not (isinstance(base, Path) or os.path.lexists(folder) or str(base).startswith((".", "/", "~"))):
        return fetch_base(base, variant, revision)
    if revision is not None:
        raise ValueError(f"revision {revision!r}: {str(base)!r} is a folder; expected a hub's name, or no revision")
    if not os.path.isdir(folder):
        found = "a file" if os.path.isfile(folder) else "no such folder"
        raise FileNotFoundError(f"base model {str(base)!r}: {found}; expected {EXPECTED}; {REMEDY}")
    return folder


def fetch_base(name: str, variant: str | None = None, revision: str | None = None) -> Path:
    """The hub's copy of a base on this machine, downloaded if need be; errors as in ``open_base``."""
    check_variant(variant)
    check_index(_download(name, ["model_index.json"], revision))
    folder = _download(name, needed(variant), revision)
    missing = [f"{part}/{file}" for part, file in WEIGHTS.items() if not weights_file(folder / part, variant).exists()]
    return _download(name, missing, revision) if missing else folder


def _download(name: str, files: list[str], revision: str | None) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except Exception as error:  # of HTTP, of names, of machines without a network
        raise FileNotFoundError(
            f"base model {name!r}: no such folder, and the Hugging Face hub does not give it ({first_line(error)}); "
            f"expected {EXPECTED}; {REMEDY}"
        ) from None


@contextmanager
def _quiet_loading() -> Iterator[None]:
    """Without diffusers' remark that our codec is not an AutoencoderKL: it is meant to stand in for one."""
    libraries = diffusers_logging, transformers_logging
    before, bars = [library.get_verbosity() for library in libraries], transformers_logging.is_progress_bar_enabled()
    for library in libraries:
        library.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        for library, verbosity in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
