"""Many adapters on one frozen UNet: every row of a batch passes through an adapter of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from w2w_lib.layout import AdapterLayout


class AdapterBank:
    """The adapters a UNet is wearing; ``enabled`` and ``strength`` may be changed between two forward passes."""

    def __init__(self, layout: AdapterLayout):
        self.layout, self.enabled = layout, False

    def put_on(self, theta: Float[Tensor, "models d"], rows: Int[Tensor, " batch"] | None = None) -> None:
        """From now on row i of a batch wears adapter ``theta[rows[i]]``; by default there is one row for each."""
        self.rows = torch.arange(len(theta), device=theta.device) if rows is None else rows.to(theta.device)
        self.factors = self.layout.unflatten(theta)
        self.strength: Float[Tensor, " models"] = torch.ones(len(theta), device=theta.device)
        self.enabled = True

    def delta(self, module: str, x: Float[Tensor, "batch tokens inputs"]) -> Float[Tensor, "batch tokens outputs"]:
        """strength * alpha / rank * B A x, with the A and B of each row (Hu et al. 2022, eq. 3)."""
        # Under classifier-free guidance the batch is the rows twice: unconditional, then conditional.
        rows = self.rows.repeat(len(x) // len(self.rows))
        key = f"base_model.model.{module}"
        scale = (self.strength * self.layout.scale)[:, None, None]
        down = self.factors[f"{key}.lora_A.weight"].to(x.dtype)[rows]
        up = (self.factors[f"{key}.lora_B.weight"] * scale).to(x.dtype)[rows]
        return torch.bmm(torch.bmm(x, down.mT), up.mT)


@contextmanager
def wearing(
    unet: nn.Module,
    layout: AdapterLayout,
    theta: Float[Tensor, "models d"] | None = None,
    rows: Int[Tensor, " batch"] | None = None,
) -> Iterator[AdapterBank]:
    """Within the block, row i of a batch through ``unet`` wears adapter ``theta[rows[i]]``; differentiable in theta.

    ``rows`` defaults to one row for each adapter. Without ``theta`` the UNet wears nothing until the bank's
    ``put_on``. On leaving, the UNet is as it was.
    """
    bank = AdapterBank(layout)
    if theta is not None:
        bank.put_on(theta, rows)
    modules = dict(unet.named_modules())

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
