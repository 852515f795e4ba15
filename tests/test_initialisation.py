"""What all adapters of a fleet start from, against NumPy and the prompts."""

import numpy as np
import pytest
import torch

from w2w_lib.lora.initialisation import shared_initialisation
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.prompts import CLASS_PROMPT, INSTANCE_PROMPT, encode_prompts


def test_a_start_of_most_variance_is_numpys_svd(pipeline, prior):
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
    with pytest.raises(ValueError, match="start 'zero': expected one of random, variance, contrast"):
        shared_initialisation("zero", pipeline, layout, prior)


def test_a_start_of_contrast_hears_the_instance_prompt_alone(pipeline, prior):
    layout = AdapterLayout.of(pipeline.unet, "x", "paper")
    start = layout.unflatten(shared_initialisation("contrast", pipeline, layout, prior)[None])
    instance, common = (encode_prompts(pipeline, [p])[0].mean(0) for p in (INSTANCE_PROMPT, CLASS_PROMPT))
    down = torch.stack([start[f.key][0, 0] for f in layout.factors if f.is_down])
    assert (down @ common).abs().max() < 1e-4 < (down @ instance).min()
    torch.testing.assert_close(down.norm(dim=1), torch.ones(len(down)))
