"""Prompts: the words of DreamBooth, and the text states of any prompt."""

import warnings
from collections.abc import Sequence

import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from w2w_lib.inputs import described, with_parts
from w2w_lib.models.recipe import IDENTIFIER

INSTANCE_PROMPT = f"{IDENTIFIER} person"
CLASS_PROMPT = "person"
BATCH = 256  # prompts that are encoded at once


def in_context(prompt: str, context: str) -> str:
    """The instance or class prompt of a picture, with what it shows beside the person, if that is known."""
    return f"a photo of {prompt}, {context}" if context else prompt


def encode_prompts(pipeline: StableDiffusionPipeline, prompts: list[str]) -> Float[Tensor, "batch tokens width"]:
    """Text states of prompts, padded to the model's length.

    A prompt that is longer is cut, and a UserWarning tells what of it was. ValueError for no prompts, or for anything
    but text.
    """
    with_parts(pipeline, "tokenizer", "text_encoder")
    check_prompts(prompts)
    prompts = list(prompts)
    tokenizer = pipeline.tokenizer
    tokens = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    full = tokens.attention_mask.all(1).tolist()
    for prompt in dict.fromkeys(prompt for prompt, is_full in zip(prompts, full, strict=True) if is_full):
        _warn_if_cut(tokenizer, prompt)
    with torch.no_grad():
        parts = tokens.input_ids.to(pipeline.text_encoder.device).split(BATCH)
        return torch.cat([pipeline.text_encoder(part).last_hidden_state for part in parts])


def check_prompts(prompts: Sequence[str]) -> None:
    """ValueError for anything but a list of at least one text."""
    if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not prompts:
        raise ValueError(f"prompts {described(prompts)}: expected a list of at least one text")
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise ValueError(f"prompt {prompt!r}: expected a text")
        if any("\ud800" <= letter <= "\udfff" for letter in prompt):
            raise ValueError(f"prompt {prompt!r}: holds half a character (a surrogate); expected text in Unicode")


def _warn_if_cut(tokenizer: PreTrainedTokenizerBase, prompt: str) -> None:
    ids, most = tokenizer(prompt, truncation=False, verbose=False).input_ids, tokenizer.model_max_length
    if len(ids) > most:
        cut = tokenizer.decode(ids[most - 1 : -1])  # between what was kept and the end token
        warnings.warn(
            f"prompt {prompt!r} has {len(ids)} tokens, of which the text encoder reads {most}: {cut!r} was cut",
            stacklevel=3,
        )
