"""The objective of every training: its draws, targets and masks."""

import pytest
import torch
from diffusers import DDIMScheduler

from w2w_lib.models.denoising import denoising_loss, draw
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
