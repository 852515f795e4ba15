"""Many adapters on one frozen UNet: every row of a batch passes through an adapter of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from w2w_lib.inputs import instance, whole_number
from w2w_lib.lora.layout import PEFT_PREFIX, AdapterLayout


class BatchedAdapters:
    """The adapters that act on a UNet.

    ``enabled`` and ``strength`` (one number for each adapter) may be changed between two forward passes.
    """

    def __init__(self, layout: AdapterLayout):
        self.layout, self.enabled = layout, False

    def set(self, weights: Float[Tensor, "models d"], each: int = 1) -> None:
        """Apply the first adapter to the first ``each`` rows of a batch, the second to the next, and so on.

        A batch with more rows begins again with the first adapter: classifier-free guidance doubles the rows,
        unconditional, then conditional. ValueError for weights of another layout and for no adapters.
        """
        self.each, self.factors = whole_number("each", each), self.layout.unflatten(weights)
        if not len(weights):
            raise ValueError("weights of no adapter: expected at least one row")
        self.strength: Float[Tensor, " models"] = torch.ones(len(weights), device=weights.device)
        self.enabled = True

    def check_batch(self, rows: int) -> None:
        """ValueError where the adapters do not divide a batch of so many rows."""
        if self.enabled and rows % (len(self.strength) * self.each):
            raise ValueError(
                f"a batch of {rows} rows, and {len(self.strength)} adapters for {self.each} rows each: expected a "
                f"multiple of {len(self.strength) * self.each} rows"
            )

    def delta(self, module: str, x: Float[Tensor, "batch tokens inputs"]) -> Float[Tensor, "batch tokens outputs"]:
        """strength * alpha / rank * B A x, with the A and B of each row (Hu et al. 2022, eq. 3)."""
        key = f"{PEFT_PREFIX}{module}"
        scale = (self.strength * self.layout.scale)[:, None, None]
        down = self.factors[f"{key}.lora_A.weight"].to(x.dtype)
        up = (self.factors[f"{key}.lora_B.weight"] * scale).to(x.dtype)
        of_models = x.reshape(-1, len(scale), self.each * x.shape[1], x.shape[2])
        return (of_models @ down.mT @ up.mT).reshape(*x.shape[:2], -1)


def check_modules(unet: nn.Module, layout: AdapterLayout) -> None:
    """ValueError where the UNet lacks a module of the layout, or has it of another width."""
    instance("unet", unet, nn.Module, "the UNet of a base")
    instance("layout", layout, AdapterLayout, "the AdapterLayout of the adapters")
    modules = dict(unet.named_modules())
    for factor in layout.factors:
        module = modules.get(factor.module)
        width = getattr(module, "in_features" if factor.is_down else "out_features", None)
        if width != factor.shape[factor.is_down]:
            found = f"a width of {width}" if module is not None else "no such module"
            raise ValueError(
                f"adapter of another base: {factor.module} needs a width of {factor.shape[factor.is_down]}, "
                f"this UNet has {found}; expected a layout of this UNet"
            )


@contextmanager
def apply_adapters(
    unet: nn.Module,
    layout: AdapterLayout,
    weights: Float[Tensor, "models d"] | None = None,
    each: int = 1,
) -> Iterator[BatchedAdapters]:
    """Within the block, adapters act on the rows of every batch through ``unet`` in turn; differentiable in weights.

    Without ``weights`` no adapter acts until ``set`` is called on what is yielded. On leaving, the UNet is as it was.
    ValueError where the layout is not of this UNet, and in a forward pass whose rows the adapters do not divide.
    """
    check_modules(unet, layout)
    adapters = BatchedAdapters(layout)
    if weights is not None:
        adapters.set(weights, each)
    modules = dict(unet.named_modules())

    def check(module: nn.Module, inputs: tuple, named: dict) -> None:
        adapters.check_batch(len(inputs[0] if inputs else named["sample"]))

    def hook_for(name: str):
        def add_delta(module: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
            return output + adapters.delta(name, inputs[0]) if adapters.enabled else output

        return add_delta

    handles = [unet.register_forward_pre_hook(check, with_kwargs=True)]
    handles += [
        modules[name].register_forward_hook(hook_for(name)) for name in sorted({f.module for f in layout.factors})
    ]
    try:
        yield adapters
    finally:
        for handle in handles:
            handle.remove()
