"""Prompts: what is encoded, cut and refused."""

import warnings

import pytest
import torch

from w2w_lib.models.prompts import encode_prompts
from w2w_lib.models.sampling import generate


def test_a_prompt_that_is_too_long_says_what_was_cut(pipeline):
    words = ["man"] * 74 + ["smiling", "woman", "person"]
    with pytest.warns(
        UserWarning, match="79 tokens, of which the text encoder reads 77: 'woman person' was cut"
    ) as told:
        states = encode_prompts(pipeline, [" ".join(words)] * 2)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        short = encode_prompts(pipeline, [" ".join(words[:75]), "", "a photo"])
    torch.testing.assert_close(states[0], short[0])


@pytest.mark.parametrize("prompts", [[], "person", ["person", None], [5], None, ["\ud800"]])
def test_prompts_that_are_none_are_refused(pipeline, prompts, unchecked):
    with pytest.raises(ValueError, match="expected"):
        encode_prompts(pipeline, prompts)
    with pytest.raises(ValueError, match="expected"):
        generate(pipeline, prompts, [0])
