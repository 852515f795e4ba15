"""LPIPS against torchvision's AlexNet and the published formula, and what a codec's pictures are measured by."""

import io
import pickle

import numpy as np
import pytest
import torch
from torchvision.models import alexnet

from w2w_lib.evaluation.codec_quality import decoded_quality, sharpness
from w2w_lib.evaluation.lpips import LPIPS
from w2w_lib.evaluation.lpips_weights import ArraysOnly


@pytest.fixture(scope="module")
def lpips() -> LPIPS:
    return LPIPS.load()


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    rng = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 12, 10, generator=rng) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(72, 64), mode="bilinear")


def by_the_formula(network: LPIPS, image: torch.Tensor, other: torch.Tensor) -> float:
    """Zhang et al. 2018, equation 1, on the activations of torchvision's network."""
    with torch.device("meta"):
        layers = alexnet().features
    convolutions = zip((0, 3, 6, 8, 10), network.convolutions, strict=True)
    layers.load_state_dict({f"{i}.{k}": v for i, own in convolutions for k, v in own.state_dict().items()}, assign=True)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    activations = []
    for picture in (image, other):
        hidden, found = ((picture / 2 + 0.5 - mean) / std)[None], []
        for layer in layers:
            hidden = layer(hidden)
            if isinstance(layer, torch.nn.ReLU):
                found.append(hidden[0].detach().numpy())
        activations.append(found)
    total = 0.0
    for scale, one, two in zip(network.scales, *activations, strict=True):
        one, two = (a / np.maximum(np.linalg.norm(a, axis=0), 1e-12) for a in (one, two))
        total += np.einsum("c,chw->", scale.numpy(), (one - two) ** 2) / one[0].size
    return total


def test_lpips_is_the_published_formula(lpips, pictures):
    other = pictures.roll(1, 0)
    expected = [by_the_formula(lpips, *pair) for pair in zip(pictures, other, strict=True)]
    np.testing.assert_allclose(lpips(pictures, other).numpy(), expected, rtol=1e-4)
    torch.testing.assert_close(lpips(other, pictures), lpips(pictures, other))
    assert lpips(pictures, pictures).tolist() == [0, 0, 0, 0]


def test_lpips_has_a_gradient_even_on_flat_pictures(lpips, pictures):
    flat = torch.zeros_like(pictures).requires_grad_()
    lpips(flat, pictures).sum().backward()
    assert torch.isfinite(flat.grad).all() and flat.grad.abs().max() > 0


def test_lpips_refuses_pictures_that_its_network_cannot_see(lpips):
    lpips(torch.zeros(1, 3, 31, 31), torch.zeros(1, 3, 31, 31))
    with pytest.raises(ValueError, match="at least 31"):
        lpips(torch.zeros(1, 3, 30, 64), torch.zeros(1, 3, 30, 64))


def test_weights_are_read_from_arrays_alone():
    arrays = {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}
    content = pickle.dumps(arrays, protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(ArraysOnly(io.BytesIO(content)).load()["kernel"], arrays["kernel"])
    with pytest.raises(pickle.UnpicklingError, match="print"):
        ArraysOnly(io.BytesIO(pickle.dumps(print))).load()


def test_quality_of_decoded_pictures(pictures):
    images = ((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    assert decoded_quality(images, images) == {"codec_l1": 0, "codec_lpips": 0, "codec_sharpness": 1}
    halved = (images // 2 + 64).astype(np.uint8)  # half the contrast: a quarter of the variance
    found = decoded_quality(images, halved)
    assert found["codec_sharpness"] == pytest.approx(0.25, abs=0.03)
    assert found["codec_l1"] == pytest.approx(np.abs(images / 127.5 - halved / 127.5).mean())
    assert found["codec_lpips"] > 0


def test_sharpness_of_a_line():
    line = np.zeros((1, 40, 40, 3), np.uint8)
    line[:, :, 20] = 255  # a Laplacian of 1, -2, 1 in three columns of 40
    assert sharpness(line) == pytest.approx([6 / 40])
