"""What a row costs on Stable Diffusion 1.5: FLOPs and bytes, counted on networks of the real size without numbers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from budget_rows import Passes
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch.utils.flop_counter import FlopCounterMode

from w2w_lib.lora.batched import apply_adapters
from w2w_lib.lora.layout import AdapterLayout


@dataclass(frozen=True)
class Costs:
    """FLOPs of a row through the UNet and of a picture through the VAE; bytes that a row keeps for its gradient."""

    forward: int
    trained: int
    checkpointed: int
    decoded: int
    encoded: int
    kept: int
    kept_checkpointed: int

    def seconds(self, passes: Passes, peak: float, exact: float) -> float:
        """At the card's peaks in bf16 and fp32."""
        names = ("forward", "trained", "checkpointed")
        in_fp32 = passes.exact * self.checkpointed, passes.decoded * self.decoded, passes.encoded * self.encoded
        return sum(getattr(passes, n) * getattr(self, n) for n in names) / peak + sum(in_fp32) / exact


def forward_flops(module: Callable, *inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return counter.get_total_flops()


def training_flops(unet: UNet2DConditionModel, layout: AdapterLayout, *inputs: torch.Tensor) -> int:
    """Of a row forward, and backward to the adapters: the frozen weights take no gradient."""
    weights = torch.zeros(1, layout.dimension, device="meta", requires_grad=True)
    with FlopCounterMode(display=False) as counter, apply_adapters(unet, layout, weights):
        unet(*inputs).sample.float().sum().backward()
    return counter.get_total_flops()


def kept_bytes(unet: UNet2DConditionModel, layout: AdapterLayout, *inputs: torch.Tensor) -> tuple[int, int]:
    """Bytes that a row keeps for its backward pass: in all, and with checkpoints (their inputs, and the largest part).

    Without the matrices of attention, which a GPU's kernel does not keep.
    """
    seen, parts, bytes_kept = {p.untyped_storage()._cdata: p for p in unet.parameters()}, [0], 0

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        attention = tensor.ndim > 2 and tensor.shape[-1] in (77, tensor.shape[-2]) and tensor.shape[-2] >= 256
        if storage._cdata not in seen and not attention:
            parts[-1] += storage.nbytes()
        seen[storage._cdata] = tensor  # alive, so that no other gets its place
        return tensor

    def begin(module: torch.nn.Module, args: tuple) -> None:
        nonlocal bytes_kept
        bytes_kept += args[0].nbytes
        parts.append(0)

    modules = [m for m in unet.modules() if type(m).__name__ in ("ResnetBlock2D", "Transformer2DModel")]
    handles = [module.register_forward_pre_hook(begin) for module in modules]
    weights = torch.zeros(1, layout.dimension, device="meta", requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), apply_adapters(unet, layout, weights):
        unet(*inputs)
    for handle in handles:
        handle.remove()
    return sum(parts), bytes_kept + max(parts)


def costs_of_stable_diffusion() -> Costs:
    """At 512 pixels, with the adapters of the release's layers."""
    with torch.device("meta"):
        blocks = {"layers_per_block": 2, "block_out_channels": (320, 640, 1280, 1280)}
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8, **blocks)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
        )
        row = torch.empty(1, 4, 64, 64), torch.zeros(1), torch.empty(1, 77, 768)
        picture = torch.empty(1, 3, 512, 512)
    for module in (unet, vae):
        module.requires_grad_(False).eval().set_attn_processor(AttnProcessor())
    layout = AdapterLayout.of(unet, "0" * 16, "release")
    decoded, encoded = forward_flops(vae.decode, row[0]), forward_flops(vae.encode, picture)
    half = tuple(t.bfloat16() for t in row)
    unet.bfloat16()
    forward, trained = forward_flops(unet, *half), training_flops(unet, layout, *half)
    kept = kept_bytes(unet, layout, *half)
    unet.enable_gradient_checkpointing()
    return Costs(forward, trained, training_flops(unet, layout, *half), decoded, encoded, *kept)
