"""A UNet that computes in half precision, within a pipeline in fp32."""

from functools import partial

import torch
from torch import nn

NATIVE_BFLOAT16 = 8  # the first compute capability of GPUs that multiply in bf16 (Ampere)
CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16")  # of CPUs that do (x86, its matrix units, ARM)
FP16_SCALE = 2.0**10  # of the loss: gradients of a picture's mean error are below what fp16 holds


def best_dtype(device: torch.device) -> torch.dtype:
    """What a device computes fast in: bf16 where it has instructions for it, else fp16 on a GPU and fp32 on a CPU."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < NATIVE_BFLOAT16:
        return torch.float16
    if device.type == "cpu" and not _multiplies_in_bfloat16():
        return torch.float32
    return torch.bfloat16


def _multiplies_in_bfloat16() -> bool:
    """Whether this CPU does, through oneDNN: one with AVX2 alone emulates it, 7 to 20 times slower than fp32."""
    known = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(known.get(name) for name in CPU_BFLOAT16)


def loss_scale(unet: nn.Module) -> float:
    """What to multiply a loss by before its backward pass through ``unet``, and to divide its gradients by after."""
    return FP16_SCALE if next(unet.parameters()).dtype == torch.float16 else 1.0


def compute_in(unet: nn.Module, dtype: torch.dtype) -> None:
    """Let ``unet`` hold its weights and compute in ``dtype``; what it returns is in fp32, as the sampler needs it."""
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
