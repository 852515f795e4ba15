"""Prompts: the words of DreamBooth, and the text states of any prompt."""

import torch
from diffusers import StableDiffusionPipeline

IDENTIFIER = "sks"  # the word that stands for the person; it means nothing to the base (Ruiz et al. 2023)


INSTANCE_PROMPT = f"{IDENTIFIER} person"


CLASS_PROMPT = "person"


def encode_prompts(pipeline: StableDiffusionPipeline, prompts: list[str]) -> torch.Tensor:
    """Text states (batch, tokens, width) of prompts, padded to the model's length."""
    tokenizer = pipeline.tokenizer
    ids = tokenizer(
        prompts,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    with torch.no_grad():
        return pipeline.text_encoder(ids.to(pipeline.text_encoder.device)).last_hidden_state
