"""How adapters respond to prompts before any training: the input A c of B, with c the text states of a prompt."""

from collections.abc import Sequence

import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.prompts import CLASS_PROMPT, encode_prompts

TEXT_MODULES = ("attn2.to_k", "attn2.to_v")  # their inputs are text states


def prompt_response(
    pipeline: StableDiffusionPipeline,
    layout: AdapterLayout,
    weights: Float[Tensor, " d"],
    prompts: Sequence[str],
) -> dict[str, float]:
    """Two medians over the layers that read text, of the first row of A; empty where the layout has no such layer.

    "variation over prompts" is the standard deviation of A c over the prompts, "response to the class prompt" the size
    of A c for "person", both over the mean size of A c for the prompts.
    """
    keys = [f.key for f in layout.factors if f.is_down and f.module.endswith(TEXT_MODULES)]
    if not keys:
        return {}
    factors = layout.unflatten(weights[None])
    down = torch.stack([factors[key][0, 0] for key in keys])
    responses = encode_prompts(pipeline, list(prompts)).mean(1).cpu() @ down.T
    to_class = encode_prompts(pipeline, [CLASS_PROMPT]).mean(1).cpu() @ down.T
    size = responses.mean(0).abs()
    return {
        "variation over prompts": float((responses.std(0) / size).median()),
        "response to the class prompt": float((to_class.abs() / size).median()),
    }
