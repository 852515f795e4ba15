"""The frozen base: any ``StableDiffusionPipeline`` folder, and how the pocket world's own is put together."""

from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.utils import logging

import w2w_lib.pocket.codec  # noqa: F401  diffusers loads a class of ours only from a module that is imported already


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
