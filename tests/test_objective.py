"""The denoising objective against its closed form, and the draws that everybody makes alone."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler
from torch import nn

from w2w_lib.models.denoising import denoising_loss, draw, stream

OFF = 0.5  # by which a prediction is wrong, in one channel of one cell


class Knowing(nn.Module):
    """A UNet that knows the answer but for one number, and keeps what it was shown."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.weight = answer.clone(), nn.Parameter(torch.zeros(1))
        self.answer[:, 2, 1, 3] += OFF

    def forward(self, noisy, timesteps, text):
        self.shown = noisy
        return SimpleNamespace(sample=self.answer)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_is_the_squared_error_of_what_the_base_predicts(kind, masked):
    rng = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=rng) for _ in range(2))
    timesteps, scheduler = torch.tensor([0, 400, 999]), DDIMScheduler(prediction_type=kind)
    signal = torch.cumprod(1 - torch.linspace(0.0001, 0.02, 1000), 0)[timesteps].sqrt()[:, None, None, None]
    rest = (1 - signal**2).sqrt()
    unet = Knowing(noise if kind == "epsilon" else signal * noise - rest * latents)
    mask = torch.rand(3, 1, 8, 8, generator=rng) if masked else None
    losses = denoising_loss(unet, scheduler, latents, noise, timesteps, torch.zeros(3, 77, 16), mask)
    torch.testing.assert_close(unet.shown, signal * latents + rest * noise, rtol=1e-3, atol=1e-3)
    weight = mask[:, 0, 1, 3] / mask.mean((1, 2, 3)) if masked else torch.ones(3)
    torch.testing.assert_close(losses, OFF**2 * weight / (4 * 8 * 8), rtol=1e-3, atol=1e-5)


def test_one_timestep_is_drawn_in_each_stratum_between_the_bounds():
    latents = torch.arange(5.0)[:, None, None, None].expand(5, 4, 8, 8)
    rng, seen = stream(0, "somebody"), set()
    for _ in range(50):
        rows, noise, timesteps = draw(rng, latents, 4, (200, 1000))
        assert (timesteps // 200).tolist() == [1, 2, 3, 4]
        assert noise.shape == rows.shape == (4, 4, 8, 8)
        seen |= set(rows[:, 0, 0, 0].tolist())
    assert seen == {0, 1, 2, 3, 4}


def test_a_stream_is_an_identitys_own():
    def numbers(seed, identity):
        return torch.rand(8, generator=stream(seed, identity))

    assert torch.equal(numbers(0, "a"), numbers(0, "a"))
    assert not torch.equal(numbers(0, "a"), numbers(0, "b")) and not torch.equal(numbers(0, "a"), numbers(1, "a"))


def test_timesteps_stay_below_the_last(monkeypatch):
    almost_one = torch.tensor(1 - 2**-24)
    monkeypatch.setattr(torch, "rand", lambda count, generator: almost_one.expand(count))
    for count in (1, 2, 3, 4, 8):
        timesteps = draw(torch.Generator(), torch.zeros(1, 4, 8, 8), count, (0, 1000))[2]
        assert timesteps.max() == 999
