"""The objective of every training: its draws, targets and masks."""

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling
from scipy.stats import ks_2samp

from w2w_lib.models.denoising import denoising_loss, draw, draw_rows, min_snr_weights
from w2w_lib.models.prompts import encode_prompts


@pytest.mark.parametrize("between", [(5, 5), (-1, 3), (0.5, 3), (3, 1), (0, float("nan")), 7, (1, 2, 3), None])
def test_ranges_of_timesteps_that_are_none_are_refused(between, unchecked):
    with pytest.raises(ValueError, match="timestep"):
        draw(torch.Generator(), torch.zeros(1, 4, 8, 8), 1, between)


def test_draws_of_nothing_are_refused():
    with pytest.raises(ValueError, match="no images"):
        draw(torch.Generator(), torch.zeros(0, 4, 8, 8), 1, (0, 10))
    with pytest.raises(ValueError, match="count"):
        draw(torch.Generator(), torch.zeros(1, 4, 8, 8), 0, (0, 10))


def test_logit_normal_timesteps_are_diffusers():
    rng, latents = torch.Generator().manual_seed(0), torch.zeros(1, 1, 1, 1)
    ours = torch.cat([draw_rows(rng, latents, 4, (0, 1000), "logit_normal", -0.5)[2] for _ in range(2_000)])
    theirs = 1000 * compute_density_for_timestep_sampling("logit_normal", 8_000, -0.5, 1.0, generator=rng)
    assert ks_2samp(ours, theirs.long()).pvalue > 0.01
    batches = ours.reshape(-1, 4)
    assert (batches.diff(dim=1) >= 0).all()  # one in each quarter
    rows, _, timesteps = draw_rows(rng, latents, 1000, (200, 300), "logit_normal", 3.0)
    assert timesteps.min() >= 200 and timesteps.max() < 300 and not rows.any()


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_min_snr_weighs_as_the_paper_writes(kind):
    scheduler = DDIMScheduler(prediction_type=kind)
    signal = scheduler.alphas_cumprod.double()
    snr = signal / (1 - signal)
    expected = snr.clamp(max=5) / (snr if kind == "epsilon" else snr + 1)
    found = min_snr_weights(scheduler, torch.arange(1000), 5.0)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-6)


def loss(pipeline, scheduler=None, timestep=10, mask=None):
    latents = torch.zeros(2, 4, 8, 8)
    text = encode_prompts(pipeline, ["person"] * 2)
    timesteps = torch.tensor([0, timestep])
    return denoising_loss(pipeline.unet, scheduler or pipeline.scheduler, latents, latents + 1, timesteps, text, mask)


def test_objectives_that_are_none_are_refused(pipeline, unchecked):
    with pytest.raises(ValueError, match="prediction_type 'sample'"):
        loss(pipeline, DDIMScheduler(prediction_type="sample"))
    for timestep in (-1, 1000):
        with pytest.raises(ValueError, match="expected whole numbers from 0 to 999"):
            loss(pipeline, timestep=timestep)


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        (torch.zeros(2, 1, 8, 8), "above 0"),
        (torch.cat([torch.ones(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)]), "above 0"),
        (torch.full((2, 1, 8, 8), torch.nan), "finite"),
        (torch.full((2, 1, 8, 8), torch.inf), "finite"),
        (torch.full((2, 1, 8, 8), -1.0), "at least 0"),
        (torch.ones(2, 1, 16, 16), "one number for each latent cell"),
        (torch.ones(2, 4, 8, 8), "one number for each latent cell"),
        (torch.ones(1, 1, 8, 8), "one number for each latent cell"),
    ],
)
def test_masks_that_are_none_are_refused(pipeline, mask, told, unchecked):
    with pytest.raises(ValueError, match=told):
        loss(pipeline, mask=mask)


def test_a_mask_is_divided_by_its_area(pipeline):
    mask = torch.ones(2, 1, 8, 8)
    torch.testing.assert_close(loss(pipeline, mask=mask), loss(pipeline))
    torch.testing.assert_close(loss(pipeline, mask=7 * mask), loss(pipeline))
