"""Portraits, their crops and masks."""

import numpy as np
import pytest
import torch

from w2w_lib.evaluation.portraits import head_mask, portraits, prompts_with_seeds
from w2w_lib.models.sampling import Sampling, generate


def test_portraits_are_generate_row_by_row(pipeline, space, weights):
    prompt_seeds = prompts_with_seeds(["sks person", "person"], first_seed=7, count=3)
    assert prompt_seeds == [("sks person", 7), ("person", 8), ("sks person", 9)]
    quick = Sampling(steps=2, batch_size=4)
    images = portraits(pipeline, space.layout, weights[:2], prompt_seeds, quick, progress=False)
    alone = generate(pipeline, ["person"], [8], space.layout, weights[1:2], sampling=quick)
    assert images.shape[:2] == (2, 3)
    assert np.abs(images[1, 1].astype(int) - alone[0]).max() <= 1


def test_pictures_are_the_pipelines_own(pipeline):
    prompts, seeds = ["sks person", "a photo of a smiling woman"], [3, 5]
    ours = generate(pipeline, prompts, seeds, sampling=Sampling(steps=4, guidance=3.0))
    noise = torch.stack([torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds])
    theirs = pipeline(prompts, num_inference_steps=4, guidance_scale=3.0, latents=noise, output_type="np").images
    assert np.abs(ours - 255 * theirs).max() <= 0.5 + 1e-3


def test_every_row_has_a_strength_of_its_own(pipeline, space, weights):
    quick, strengths = Sampling(steps=2), torch.tensor([0.0, 0.5, 2.0])
    prompts, seeds = ["sks person"] * 3, [4] * 3
    together = generate(pipeline, prompts, seeds, space.layout, weights[:1].expand(3, -1), strengths, quick)
    up = torch.cat([torch.full((factor.size,), not factor.is_down) for factor in space.layout.factors])
    for image, strength in zip(together, strengths, strict=True):
        scaled = torch.where(up, strength * weights[:1], weights[:1])  # as much weaker or stronger as B is
        alone = generate(pipeline, prompts[:1], seeds[:1], space.layout, scaled, sampling=quick)
        assert np.abs(image.astype(int) - alone[0]).max() <= 1
    bare = generate(pipeline, prompts[:1], seeds[:1], sampling=quick)
    assert np.abs(together[0].astype(int) - bare[0]).max() <= 1 < np.abs(together[2].astype(int) - bare[0]).max()


def test_late_injection_is_between_the_original_and_the_edit(pipeline, space, weights):
    first, second = weights[:1], weights[1:2]

    def paint(inject_below, late=second, early=first):
        quick = Sampling(steps=4, guidance=1.5, inject_below=inject_below)
        return generate(pipeline, ["sks person"], [0], space.layout, late, sampling=quick, early=early)[0]

    original, edited = paint(1000, late=first), paint(1000)
    np.testing.assert_array_equal(paint(0), original)
    np.testing.assert_array_equal(paint(1000, early=None), edited)
    middle = paint(500)
    assert (middle != original).any() and (middle != edited).any()
    # The four steps are at 999, 749, 499 and 249.
    np.testing.assert_array_equal(paint(748), paint(499))
    assert (paint(749) != paint(748)).any() and (paint(499) != paint(498)).any()


def test_prompts_and_masks_that_cannot_be(pipeline, space, weights, unchecked):
    assert prompts_with_seeds(np.array(["x"]), 1.0, 2.0) == [("x", 1), ("x", 2)]
    for cells, grow, said in ((0, 0.3, "cells"), (2.5, 0.3, "cells"), (8, float("nan"), "grow"), (8, -9, "is empty")):
        with pytest.raises(ValueError, match=said):
            head_mask(cells, grow)
    for prompts, first, count, said in (
        (["x"], 0, 0, "count"),
        ("x", 0, 1, "list"),
        ([], 0, 1, "list"),
        (["x"], -1, 1, "first"),
        ([3], 0, 1, "list"),
    ):
        with pytest.raises(ValueError, match=said):
            prompts_with_seeds(prompts, first, count)
    with pytest.raises(ValueError, match="0 models, 1 prompts: expected at least one of each"):
        portraits(pipeline, space.layout, weights[:0], [("x", 0)])


def test_head_mask_covers_the_middle():
    mask = head_mask(8)[0]
    assert mask[4, 4] == 1 and mask[0, 0] == 0 and 0.2 < mask.mean() < 0.9
