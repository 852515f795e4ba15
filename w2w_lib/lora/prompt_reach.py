"""How much of what adapters add to keys and values a prompt could add: is an adapter more than a soft prompt?"""

from collections.abc import Sequence

import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from w2w_lib.files.tensors import finite, floating
from w2w_lib.inputs import finite_number
from w2w_lib.lora.batched import check_modules
from w2w_lib.lora.layout import PEFT_PREFIX, AdapterLayout
from w2w_lib.lora.prompt_response import TEXT_MODULES
from w2w_lib.models.prompts import encode_prompts

TOGETHER = "all layers together"
AT_ONCE = 64  # captions that are encoded together
ROUNDING = 1e-9  # share of the variance of keys or values below which a direction is rounding errors


def prompt_reach(
    pipeline: StableDiffusionPipeline,
    layout: AdapterLayout,
    weights: Float[Tensor, "models d"],
    captions: Sequence[str],
    held: float = 0.99,
) -> pd.DataFrame:
    """Share of the adapters' variance that lies in the directions in which prompts move keys and values.

    A layer reads a text state c as the key or value W c, and with an adapter as W c + D c, D = alpha / rank * B A.

    - Prompts' directions Q: the first r principal axes of W (c - mean c over the captions, at c's own position), of all
      captions and positions; r is the least number of them with a share ``held`` of the variance (1: the whole span).
    - Share reached: sum_i |Q^T (X_i - mean X)|^2 / sum_i |X_i - mean X|^2 over the models i, where X is, by row of the
      table, "B" (its columns), "BA" (the update of the weights) or "BA c" (of keys and values, over the same text
      states).
    - "principal components": the same with the r axes that hold most of it, fitted to these very models: no r axes can
      hold more. "random": r / outputs, what r random axes hold on average.

    The rows "all layers together" are of the W and X of all these layers, one above the other: one change of text
    states then has to serve all of them, as a soft prompt's would, so that at most (text width) axes of all outputs are
    reached. Rows are indexed by layer and X; columns are outputs, axes (r) and the three shares.

    ValueError where the layout has no layer that reads text or is of another UNet, for fewer than two models, models
    without a difference, weights that are not finite, captions without a difference, and ``held`` outside (0, 1].
    """
    check_modules(pipeline.unet, layout)
    modules = list(dict.fromkeys(f.module for f in layout.factors if f.module.endswith(TEXT_MODULES)))
    if not modules:
        raise ValueError(f"adapters of {', '.join(layout.targets)}: no layer reads text; expected attn2.to_k or to_v")
    if len(floating("weights", weights)) < 2 or not finite(weights):
        raise ValueError(f"weights of shape {tuple(weights.shape)}: expected at least two models of finite numbers")
    if not 0 < finite_number("held", held) <= 1:
        raise ValueError(f"held: expected a share above 0 and up to 1, found {held}")
    states, differences = _second_moments(pipeline, captions)
    factors = layout.unflatten(weights.detach().cpu().double())
    frozen = dict(pipeline.unet.named_modules())
    matrices = [frozen[name].weight.detach().cpu().double() for name in modules]
    down = [factors[f"{PEFT_PREFIX}{name}.lora_A.weight"] for name in modules]
    up = [layout.scale * factors[f"{PEFT_PREFIX}{name}.lora_B.weight"] for name in modules]
    width = matrices[0].shape[1]
    same = torch.eye(layout.rank, dtype=torch.float64)
    scatters = {
        "B": _scatter(up, [same.expand(len(weights), -1, -1)] * len(up), same),
        "BA": _scatter(up, down, torch.eye(width, dtype=torch.float64)),
        "BA c": _scatter(up, down, states),
    }
    last = torch.tensor([len(matrix) for matrix in matrices]).cumsum(0).tolist()
    places = {TOGETHER: slice(0, last[-1])}
    places |= {name: slice(end - len(matrix), end) for name, end, matrix in zip(modules, last, matrices, strict=True)}
    reached = torch.cat(matrices) @ _root(differences)
    rows = {}
    for layer, place in places.items():
        axes = _axes(reached[place], held, layer)
        for of, scatter in scatters.items():
            rows[layer, of] = _shares(scatter[place, place], axes, f"{layer}: {of}")
    index = pd.MultiIndex.from_tuples(rows, names=["layer", "of"])
    return pd.DataFrame(list(rows.values()), index)


def _second_moments(
    pipeline: StableDiffusionPipeline, captions: Sequence[str]
) -> tuple[Float[Tensor, "width width"], Float[Tensor, "width width"]]:
    """Mean c c^T over captions and positions: of text states, and of their differences from their position's mean."""
    groups = [captions[first : first + AT_ONCE] for first in range(0, len(captions), AT_ONCE)] or [captions]
    count, total, squares = 0, 0.0, 0.0
    for group in groups:
        states = encode_prompts(pipeline, group).cpu().double()
        count, total = count + len(states), total + states.sum(0)
        squares = squares + torch.einsum("npi,npj->ij", states, states)
    positions, mean = len(total), total / count
    moment = squares / (count * positions)
    return moment, moment - mean.mT @ mean / positions


def _root(moment: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """R with R R^T = moment."""
    values, vectors = torch.linalg.eigh(moment)
    return vectors * values.clamp(min=0).sqrt()


def _axes(reached: Float[Tensor, "outputs width"], held: float, layer: str) -> Float[Tensor, "outputs r"]:
    axes, sizes, _ = torch.linalg.svd(reached, full_matrices=False)
    shares = sizes.square() / sizes.square().sum()
    if not torch.isfinite(shares).all() or sizes[0] ** 2 < ROUNDING:
        raise ValueError(f"{layer}: the captions all give the same keys and values; expected several that differ")
    count = int((shares.cumsum(0) < held * (1 - ROUNDING)).sum()) + 1
    return axes[:, : min(count, int((shares > ROUNDING).sum()))]


def _scatter(
    up: list[Float[Tensor, "models _ rank"]], down: list[Float[Tensor, "models rank width"]], moment: Tensor
) -> Float[Tensor, "outputs outputs"]:
    """sum_i (X_i - mean X) G (X_i - mean X)^T of the products X = B A of all layers, one above the other; G: moment."""
    mean = torch.cat([torch.einsum("mor,mri->oi", b, a) / len(b) for b, a in zip(up, down, strict=True)])
    rows = []
    for b, a in zip(up, down, strict=True):
        inner = [a @ moment @ other.mT for other in down]
        pairs = zip(inner, up, strict=True)
        rows.append(torch.cat([torch.einsum("mor,mrs,mps->op", b, between, c) for between, c in pairs], 1))
    whole, common = torch.cat(rows), len(up[0]) * mean @ moment @ mean.mT
    return (whole - common).where(whole.trace() - common.trace() > ROUNDING * whole.trace(), 0)


def _shares(scatter: Float[Tensor, "outputs outputs"], axes: Float[Tensor, "outputs r"], what: str) -> dict[str, float]:
    total, (outputs, count) = float(scatter.trace()), axes.shape
    if not total > 0:
        raise ValueError(f"{what} of all models is the same: expected models of several people")
    most = torch.linalg.eigvalsh(scatter)[outputs - count :].sum()
    return {
        "outputs": outputs,
        "axes": count,
        "reached by prompts": float(torch.einsum("or,op,pr->", axes, scatter, axes)) / total,
        "principal components": float(most) / total,
        "random": count / outputs,
    }
