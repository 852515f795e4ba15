"""The named reference: a text encoder in which every attribute is planted along a fixed linear direction.

The state at a caption's end is regressed along fixed directions onto the numbers behind the words: width of the jaw,
age, direction of the light. What an adapter or a prompt finds to be linear afterwards was put there.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from w2w_lib.pocket.text_states import end_positions
from w2w_lib.pocket.training_data import BaseData

MENTION_WEIGHT = 0.7  # of whether a feature is mentioned at all, where its standardised value weighs 1
IDENTIFIER_WEIGHT = 2.0  # of whether the caption contains the identifier


def caption_targets(data: BaseData, rows: Int[Tensor, " batch"], columns: Int[Tensor, " batch"]) -> Tensor:
    """Regression targets: standardised numbers (0 if not mentioned), features mentioned, identifier contained."""
    mean, std = data.numbers.mean(0), data.numbers.std(0).clamp_min(1e-6)
    mentioned = data.mentioned[rows, columns].float()
    values = (data.numbers[rows] - mean) / std * mentioned.repeat_interleave(data.sizes, 1)
    identified = data.identified[rows, columns].float()[:, None]
    return torch.cat([values, MENTION_WEIGHT * (2 * mentioned - 1), IDENTIFIER_WEIGHT * identified], 1)


def linear_readout(states: Float[Tensor, "batch tokens width"], numbers: int) -> Float[Tensor, "batch tokens numbers"]:
    """Projections of text states onto the fixed directions of ``numbers`` numbers."""
    directions = torch.empty(numbers, states.shape[-1])
    torch.nn.init.orthogonal_(directions, generator=torch.Generator().manual_seed(0))
    return states @ directions.T.to(states)


def planted_loss(encoder: CLIPTextModel, data: BaseData, tokenizer: CLIPTokenizer) -> Callable[..., Tensor]:
    """Mean squared error at the ends and in the padding of the captions ``(rows, columns)``, over their variance."""

    def loss(rows: Int[Tensor, " batch"], columns: Int[Tensor, " batch"]) -> Float[Tensor, ""]:
        tokens, truth = data.tokens[rows, columns], caption_targets(data, rows, columns)
        with torch.autocast(tokens.device.type, torch.bfloat16):
            states = encoder(tokens.long()).last_hidden_state
        there = torch.arange(tokens.shape[1], device=tokens.device) >= end_positions(tokens, tokenizer)[:, None]
        errors = (linear_readout(states.float(), truth.shape[1]) - truth[:, None]).square().mean(-1)
        return ((errors * there).sum(1) / there.sum(1)).mean() / truth.var(0).mean()

    return loss
