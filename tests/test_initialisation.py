"""What all adapters of a fleet start from, against NumPy and the prompts."""

import numpy as np
import pytest
import torch
from scipy.linalg import eigh

from w2w_lib.lora.initialisation import shared_initialisation
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.prompts import CLASS_PROMPT, INSTANCE_PROMPT, encode_prompts


def test_variance_is_numpys_svd(pipeline, prior):
    layout = AdapterLayout.of(pipeline.unet, "x", "paper", rank=2)
    start = layout.unflatten(shared_initialisation("variance", pipeline, layout, prior)[None])
    text = encode_prompts(pipeline, [INSTANCE_PROMPT])[0].double().numpy()  # what goes into keys and values
    directions = np.linalg.svd(text)[2][:2]
    for factor in layout.factors:
        value = start[factor.key][0].numpy()
        if factor.is_down:
            np.testing.assert_allclose(np.abs(value @ directions.T), np.eye(2), atol=1e-3)
            assert (text.mean(0) @ value.T > 0).all()
        else:
            assert not value.any()
    with pytest.raises(ValueError, match="initialisation 'zero': expected one of random, variance, contrast"):
        shared_initialisation("zero", pipeline, layout, prior)


def test_contrast_responds_to_the_instance_prompt_alone(pipeline, prior):
    layout = AdapterLayout.of(pipeline.unet, "x", "paper")
    start = layout.unflatten(shared_initialisation("contrast", pipeline, layout, prior)[None])
    instance, common = (encode_prompts(pipeline, [p])[0].mean(0) for p in (INSTANCE_PROMPT, CLASS_PROMPT))
    down = torch.stack([start[f.key][0, 0] for f in layout.factors if f.is_down])
    assert (down @ common).abs().max() < 1e-4 < (down @ instance).min()
    torch.testing.assert_close(down.norm(dim=1), torch.ones(len(down)))


def test_identifier_is_scipys_generalised_eigenvector(pipeline, prior):
    layout, contexts = AdapterLayout.of(pipeline.unet, "x", "paper"), ["smiling", "man", "woman smiling"]
    start = shared_initialisation("identifier", pipeline, layout, prior, contexts=contexts)
    down = torch.stack([v[0, 0] for k, v in layout.unflatten(start[None]).items() if "lora_A" in k]).double().numpy()
    rows = [*range(4), 0, 1]  # six pictures, four prompts in turn
    squares, means = [], []
    for word in (INSTANCE_PROMPT, CLASS_PROMPT):
        states = encode_prompts(pipeline, [word, *(f"a photo of {word}, {c}" for c in contexts)])[rows]
        states = states.flatten(0, 1).double().numpy()
        squares.append(states.T @ states)
        means.append(states.mean(0))
    ridge = 0.01 * np.trace(squares[1]) / 16 * np.eye(16)
    expected = eigh(squares[0], squares[1] + ridge)[1][:, -1]
    expected *= np.sign(means[0] @ expected) / np.linalg.norm(expected)
    np.testing.assert_allclose(down, np.tile(expected, (len(down), 1)), atol=1e-4)


def test_a_layer_without_text_has_a_sign_that_rounding_does_not_decide(pipeline, prior):
    """The first self-attention comes before any text: its inputs are the same under both prompts."""
    layout = AdapterLayout.of(pipeline.unet, "x", "release")
    initial = layout.unflatten(shared_initialisation("contrast", pipeline, layout, prior)[None])
    first = [
        f
        for f in layout.factors
        if f.is_down and f.module.startswith("down_blocks.0.attentions.0") and "attn1" in f.key
    ]
    assert first
    for factor in first:
        direction = initial[factor.key][0, 0]
        assert direction[direction.abs().argmax()] > 0 and abs(direction.norm() - 1) < 1e-5


def test_what_an_initialisation_cannot_use_is_refused(pipeline, prior, unchecked):
    layout = AdapterLayout.of(pipeline.unet, "x", rank=17)  # of text states with 16 numbers
    for latents, seed, said in (
        (prior, 0, "rank 17 is more than the 16 inputs"),
        (prior[:0], 0, "expected latents of class pictures"),
        (prior * torch.nan, 0, "expected latents of class pictures, with finite numbers"),
        (prior.numpy(), 0, "latents: expected a tensor of floating-point numbers, found ndarray"),
        (prior[0], 0, r"latents of shape \(4, 8, 8\): expected"),
        (prior[:, :3], 0, r"expected \(pictures, 4, height, width\)"),
        (prior, -1, "seed: expected a whole number of at least 0 and at most 4294967295, found -1"),
        (prior, 0.5, "seed: expected a whole number"),
    ):
        with pytest.raises(ValueError, match=said):
            shared_initialisation("variance", pipeline, layout, latents, seed)
