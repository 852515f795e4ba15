"""Pictures and latents, there and back."""

import numpy as np
import pytest
import torch

from w2w_lib.models.images import decode, encode_images, to_pixels


def test_pictures_come_back_from_pixels(pipeline):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    pixels = to_pixels(pictures)
    assert pixels.min() >= -1 and pixels.max() <= 1
    assert encode_images(pipeline, pixels).shape == (2, 4, 8, 8)
    assert decode(pipeline, encode_images(pipeline, pixels)).shape == (2, 16, 16, 3)


@pytest.mark.parametrize(
    "pictures",
    [
        np.zeros((2, 16, 16, 4), np.uint8),
        np.zeros((16, 16, 3), np.uint8),
        np.zeros((2, 16, 16, 3)),
        np.zeros((2, 16, 16, 3), np.uint16),
        np.zeros((2, 3, 16, 16), np.uint8),
        "a picture",
        [np.zeros((16, 16, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)],
    ],
)
def test_pictures_of_another_form_are_refused(pictures, unchecked):
    with pytest.raises(ValueError, match=r"expected \(batch, height, width, 3\) of uint8"):
        to_pixels(pictures)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (torch.zeros(1, 4, 16, 16), "expected"),
        (torch.zeros(0, 3, 16, 16), "at least one"),
        (torch.zeros(3, 16, 16), "expected"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "floating-point"),
        (torch.zeros(1, 3, 15, 16), "multiples of 2"),
        (torch.zeros(1).expand(1, 3, 2**16, 2**16), "up to 1024 squared"),
        (torch.zeros(1, 3, 16, 16, device="meta"), r"\(meta\)"),
        (torch.zeros(1, 3, 16, 16).to_sparse(), "in torch.sparse_coo"),
        (torch.full((1, 3, 16, 16), 255.0), "-1 to 1"),
        (torch.full((1, 3, 16, 16), torch.nan), "-1 to 1"),
    ],
)
def test_images_that_the_base_cannot_encode_are_refused(pipeline, images, told, unchecked):
    with pytest.raises(ValueError, match=told):
        encode_images(pipeline, images)


def test_latents_that_are_no_numbers_make_no_picture(pipeline, unchecked):
    with pytest.raises(ValueError, match="NaN or infinite"):
        decode(pipeline, torch.full((1, 4, 8, 8), torch.nan))
    with pytest.raises(ValueError, match="pictures of NaN or infinite"):
        decode(pipeline, torch.full((1, 4, 8, 8), 3e38))
    with pytest.raises(ValueError, match=r"expected \(batch, 4, height, width\)"):
        decode(pipeline, torch.zeros(1, 3, 8, 8))
