"""Where a caption ends in its tokens, and the text state there."""

import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTokenizer

from w2w_lib.models.prompts import encode_prompts


def end_positions(tokens: Int[Tensor, "batch tokens"], tokenizer: CLIPTokenizer) -> Int[Tensor, " batch"]:
    """Position of each caption's end-of-text token; all later positions are padding."""
    return (tokens == tokenizer.eos_token_id).int().argmax(1).long()


def caption_summaries(pipeline: StableDiffusionPipeline, prompts: list[str]) -> Float[Tensor, "batch 1 width"]:
    """The text state at the end of each prompt."""
    ids = pipeline.tokenizer(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    return encode_prompts(pipeline, prompts)[torch.arange(len(ids)), end_positions(ids, pipeline.tokenizer)][:, None]
