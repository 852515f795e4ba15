"""Many adapters on one frozen UNet: every row of a batch passes through an adapter of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from w2w_lib.lora.layout import PEFT_PREFIX, AdapterLayout


class BatchedAdapters:
    """The adapters a UNet is apply_adapters; ``enabled`` and ``strength`` may be changed between two forward passes."""

    def __init__(self, layout: AdapterLayout):
        self.layout, self.enabled = layout, False

    def set(self, weights: Float[Tensor, "models d"], each: int = 1) -> None:
        """From now on the first ``each`` rows of a batch wear the first adapter, the next the second, and so on.

        A batch that goes on begins again with the first: under classifier-free guidance the rows are there twice,
        unconditional, then conditional.
        """
        self.each, self.factors = each, self.layout.unflatten(weights)
        self.strength: Float[Tensor, " models"] = torch.ones(len(weights), device=weights.device)
        self.enabled = True

    def delta(self, module: str, x: Float[Tensor, "batch tokens inputs"]) -> Float[Tensor, "batch tokens outputs"]:
        """strength * alpha / rank * B A x, with the A and B of each row (Hu et al. 2022, eq. 3)."""
        key = f"{PEFT_PREFIX}{module}"
        scale = (self.strength * self.layout.scale)[:, None, None]
        down = self.factors[f"{key}.lora_A.weight"].to(x.dtype)
        up = (self.factors[f"{key}.lora_B.weight"] * scale).to(x.dtype)
        of_models = x.reshape(-1, len(scale), self.each * x.shape[1], x.shape[2])
        return (of_models @ down.mT @ up.mT).reshape(*x.shape[:2], -1)


@contextmanager
def apply_adapters(
    unet: nn.Module,
    layout: AdapterLayout,
    weights: Float[Tensor, "models d"] | None = None,
    each: int = 1,
) -> Iterator[BatchedAdapters]:
    """Within the block, ``each`` rows in turn of a batch through ``unet`` wear an adapter; differentiable in weights.

    Without ``weights`` the UNet wears nothing until the bank's ``set``. On leaving, the UNet is as it was.
    """
    bank = BatchedAdapters(layout)
    if weights is not None:
        bank.set(weights, each)
    modules = dict(unet.named_modules())
    for factor in layout.factors:
        module = modules.get(factor.module)
        width = getattr(module, "in_features" if factor.is_down else "out_features", None)
        if width != factor.shape[factor.is_down]:
            found = f"a width of {width}" if module is not None else "no such module"
            raise ValueError(
                f"adapter of another base: {factor.module} needs a width of {factor.shape[factor.is_down]}, "
                f"this UNet has {found}"
            )

    def hook_for(name: str):
        def add_delta(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
            return output + bank.delta(name, inputs[0]) if bank.enabled else output

        return add_delta

    handles = [
        modules[name].register_forward_hook(hook_for(name)) for name in sorted({f.module for f in layout.factors})
    ]
    try:
        yield bank
    finally:
        for handle in handles:
            handle.remove()
