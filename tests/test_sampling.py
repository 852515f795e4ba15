"""Pictures by a base and adapters: each by its own prompt, seed and weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny_base import tiny_pipeline

from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.images import encode_images
from w2w_lib.models.sampling import Sampling, generate, seed_noise

QUICK = Sampling(steps=2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 1001},
        {"steps": 2.5},
        {"guidance": -1},
        {"guidance": float("nan")},
        {"guidance": float("inf")},
        {"inject_below": 1001},
        {"inject_below": -1},
        {"batch_size": 0},
        {"stepz": 3},
    ],
)
def test_sampling_has_ranges(wrong):
    with pytest.raises(ValueError, match=f"Sampling: .*{next(iter(wrong))}"):
        Sampling(**wrong)


def test_sampling_takes_its_settings_in_order():
    ours = Sampling(10, 3, 700, 8)
    assert (ours.steps, ours.guidance, ours.inject_below, ours.batch_size) == (10, 3.0, 700, 8)


def test_seeds_and_bases_that_are_none_are_refused(pipeline, unchecked):
    for seeds in ([], b"01", 5):
        with pytest.raises(ValueError, match=r"seeds .*expected"):
            seed_noise(pipeline, seeds)
    flow = tiny_pipeline()
    flow.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no betas"):
        fingerprint(flow)
    flow.vae = None
    for wrong in (None, "data/base/pocket", pipeline.text_encoder, flow):
        for use in (fingerprint, lambda base: encode_images(base, np.zeros((1, 16, 16, 3), np.uint8))):
            with pytest.raises(ValueError, match=rf"of type {type(wrong).__name__}: has no .*; expected a base"):
                use(wrong)


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, float("nan"), float("inf"), "1", None, True])
def test_seeds_that_are_none_are_refused(pipeline, seed, unchecked):
    with pytest.raises(ValueError, match="seed"):
        seed_noise(pipeline, [seed])
    with pytest.raises(ValueError, match="seed"):
        generate(pipeline, ["person"], [seed], sampling=QUICK)


def test_seeds_of_any_kind_are_one_stream(pipeline, unchecked):
    expected = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(2))
    for seeds in ([2], range(2, 3), np.array([2]), [np.int64(2)], torch.tensor([2])):
        assert torch.equal(seed_noise(pipeline, seeds), expected[None])
    seed_noise(pipeline, [0, 2**32 - 1])


def test_lengths_must_agree(pipeline, layout):
    with pytest.raises(ValueError, match="1 prompts, 2 seeds"):
        generate(pipeline, ["person"], [0, 1])
    with pytest.raises(ValueError, match=r"weights of shape \(2, "):
        generate(pipeline, ["person"], [0], layout, torch.zeros(2, layout.dimension))


def test_adapters_of_another_layout_or_base_are_refused(pipeline, layout):
    weights = torch.zeros(1, layout.dimension)
    with pytest.raises(ValueError, match=f"expected \\(1, {layout.dimension}\\)"):
        generate(pipeline, ["person"], [0], layout, weights[:, 1:])
    with pytest.raises(ValueError, match="layout None"):
        generate(pipeline, ["person"], [0], weights=weights)
    other = tiny_pipeline(seed=1)
    with pytest.raises(ValueError, match=f"of base {layout.base}, and this base is {fingerprint(other)}"):
        generate(other, ["person"], [0], layout, weights)
    with pytest.raises(ValueError, match=f"of base {layout.base}"):
        generate(other, ["person"], [0], layout, early=weights)


def test_numbers_of_adapters_and_strengths_are_finite(pipeline, layout, unchecked):
    weights = torch.zeros(2, layout.dimension)
    weights[1, 3] = torch.nan
    for given in ({"weights": weights}, {"weights": torch.zeros_like(weights), "early": weights}):
        with pytest.raises(ValueError, match="of picture 1: NaN or infinite"):
            generate(pipeline, ["person"] * 2, [0, 1], layout, **given)
    fine = torch.zeros_like(weights)
    for strength in (
        float("nan"),
        float("inf"),
        torch.tensor([1.0, torch.nan]),
        torch.ones(3),
        "much",
        None,
        10**400,
        [1j, 1j],
    ):
        with pytest.raises(ValueError, match="strength"):
            generate(pipeline, ["person"] * 2, [0, 1], layout, fine, strength)


@pytest.mark.parametrize(
    "wrong", [{"weights": [[0.0]]}, {"weights": np.zeros((1, 8))}, {"sampling": {"steps": 2}}, {"sampling": 5}]
)
def test_arguments_of_other_types_are_refused(pipeline, layout, wrong, unchecked):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        generate(pipeline, ["person"], [0], layout, **wrong)
    with pytest.raises(ValueError, match="seeds"):
        generate(pipeline, ["person"], {0: 1})


def test_a_picture_does_not_depend_on_its_batch(pipeline, layout):
    weights = 0.3 * torch.randn(3, layout.dimension, generator=torch.Generator().manual_seed(0))
    prompts, seeds, strengths = ["a man", "a photo of a person", "woman"], [5, 6, 7], torch.tensor([1.0, 0.5, 2.0])
    together = generate(pipeline, prompts, seeds, layout, weights, strengths, QUICK)
    by_two = generate(pipeline, prompts, seeds, layout, weights, strengths, Sampling(steps=2, batch_size=2))
    alone = [
        generate(pipeline, [p], [s], layout, w[None], x.item(), QUICK)[0]
        for p, s, w, x in zip(prompts, seeds, weights, strengths, strict=True)
    ]
    for others in (by_two, np.stack(alone)):
        assert np.abs(together.astype(int) - others).max() <= 1  # of 255: batches of two sizes round differently
    assert np.abs(together[0].astype(int) - together[1]).max() > 20


def test_a_negative_prompt_is_diffusers_own(pipeline):
    """Truth: StableDiffusionPipeline with texts, from the same noise."""
    sampling = Sampling(steps=3, guidance=4.0, negative_prompt="smiling")
    ours = generate(pipeline, ["a photo of person"], [3], sampling=sampling)
    theirs = pipeline(
        "a photo of person",
        negative_prompt="smiling",
        latents=seed_noise(pipeline, [3]),
        num_inference_steps=3,
        guidance_scale=4.0,
        output_type="np",
    ).images
    np.testing.assert_allclose(ours, theirs * 255, atol=1)
    assert (
        ours != generate(pipeline, ["a photo of person"], [3], sampling=replace(sampling, negative_prompt=""))
    ).any()
