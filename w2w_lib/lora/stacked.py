"""Two adapters at once, as one of twice the rank, and how much an adapter changes its base."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from w2w_lib.files.tensors import finite, floating
from w2w_lib.inputs import described, finite_number, instance
from w2w_lib.lora.layout import AdapterLayout


def stacked(
    layout: AdapterLayout,
    weights: Float[Tensor, "models d"],
    other: Float[Tensor, "others d"],
    strength: float | Float[Tensor, " models"] = 1.0,
) -> tuple[AdapterLayout, Float[Tensor, "models doubled"]]:
    """Layout of twice the rank, and adapters whose ΔW is ΔW(weights) + strength · ΔW(other), row by row.

    As two LoRAs that act side by side (Concept Sliders on a personal model: Gandikota et al. 2023, §5). The sum of the
    flattened vectors is another adapter: (B + b)(A + a) = BA + ba + Ba + bA has cross terms. ``other`` has a row for
    each of ``weights``, or one for all; ``strength``, of either sign, is a number or one for each row. ValueError for
    weights of another layout, numbers of rows that do not fit, NaN and infinite numbers.
    """
    _check(layout, "weights", weights)
    _check(layout, "other", other)
    if len(other) not in (1, len(weights)):
        raise ValueError(f"other of {len(other)} rows: expected one for all, or one for each of {len(weights)} weights")
    strengths, other = _strengths(strength, weights), other.to(weights).expand(len(weights), -1)
    doubled = replace(
        layout,
        factors=tuple(
            replace(f, shape=(2 * f.shape[0], f.shape[1]) if f.is_down else (f.shape[0], 2 * f.shape[1]))
            for f in layout.factors
        ),
        rank=2 * layout.rank,
        alpha=2 * layout.alpha,  # the scale alpha / rank stays as it is
    )
    first, second = layout.unflatten(weights), layout.unflatten(other)
    parts = {
        f.key: torch.cat([first[f.key], second[f.key]], dim=1)
        if f.is_down
        else torch.cat([first[f.key], second[f.key] * strengths[:, None, None]], dim=2)
        for f in layout.factors
    }
    return doubled, doubled.flatten(parts)


def change_norm(layout: AdapterLayout, weights: Float[Tensor, "models d"]) -> Float[Tensor, " models"]:
    """Frobenius norm of all of an adapter's ΔW = alpha / rank · BA together, in the units of the base's weights.

    ‖BA‖² = tr(BᵀB · AAᵀ), of two matrices of rank x rank: ΔW is not formed. By it the strengths of edits of different
    kinds, such as a slider and a direction of weights, can be matched. ValueError for weights of another layout, NaN
    and infinite numbers.
    """
    _check(layout, "weights", weights)
    factors, squares = layout.unflatten(weights.double()), weights.new_zeros(len(weights), dtype=torch.float64)
    for factor in layout.factors:
        if factor.is_down:
            down, up = factors[factor.key], factors[factor.key.replace(".lora_A.", ".lora_B.")]
            squares = squares + ((up.mT @ up) * (down @ down.mT)).sum((1, 2))
    return (squares.clamp(min=0).sqrt() * layout.scale).to(weights.dtype)


def _check(layout: AdapterLayout, name: str, weights: Tensor) -> None:
    instance("layout", layout, AdapterLayout, "the AdapterLayout of the weights")
    expected = f"(models, {layout.dimension}) numbers of the layout"
    if floating(name, weights).ndim != 2 or weights.shape[1] != layout.dimension or not len(weights):
        raise ValueError(f"{name} of shape {tuple(weights.shape)}: expected {expected}, one row at least")
    if not finite(weights):
        raise ValueError(f"{name}: NaN or infinite numbers; expected finite ones; leave these adapters out")


def _strengths(strength: float | Tensor, weights: Tensor) -> Float[Tensor, " models"]:
    if not isinstance(strength, Tensor):
        return weights.new_full((len(weights),), finite_number("strength", strength))
    if strength.shape != (len(weights),) or not strength.is_floating_point() or not finite(strength):
        raise ValueError(
            f"strength {described(strength)}: expected a finite number, or a tensor of one for each of "
            f"{len(weights)} adapters"
        )
    return strength.to(weights)
