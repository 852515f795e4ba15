"""The pocket codec: principal components of patches, and its refiner."""

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from sklearn.decomposition import PCA
from tiny_base import tiny_pipeline

from w2w_lib.pocket.codec import PatchCodec, fit_patch_codec
from w2w_lib.pocket.codec_training import fine_detail, refine_codec


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Smooth random pictures in [-1, 1]."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.randn(40, 3, 9, 9, generator=rng)
    return torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(-2, 2) / 2


def patches_of(images: torch.Tensor) -> np.ndarray:
    """All 8x8 patches as rows, by explicit slicing."""
    rows = [
        image[:, y : y + 8, x : x + 8].flatten() for image in images for y in range(0, 32, 8) for x in range(0, 32, 8)
    ]
    return torch.stack(rows).numpy()


def encoded(codec: PatchCodec, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        latents = codec.encode(images).latent_dist.mode()
    return latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).numpy()


@pytest.mark.parametrize("flatten", [1.0, 0.5, 0.0])
def test_codec_is_pca_of_patches(pictures, flatten):
    # The code centres on one colour, not on the mean patch: give PCA data that are centred so already.
    balanced = torch.cat([pictures, -pictures])
    pca = PCA(6, svd_solver="full").fit(patches_of(balanced))
    scores = pca.transform(patches_of(balanced))
    spread = scores.std(0) ** flatten
    expected = scores / scores.std(0) * spread / np.sqrt((spread**2).mean())
    found = encoded(fit_patch_codec(balanced, 6, flatten=flatten), balanced)
    signs = np.sign((expected * found).sum(0))
    np.testing.assert_allclose(found, expected * signs, atol=2e-3)
    assert found.var(0).mean() == pytest.approx(1, abs=1e-3)


def test_codec_with_all_components_gives_pictures_back(pictures):
    codec = fit_patch_codec(pictures, 192, ridge=1e-9, patch=8)
    with torch.no_grad():
        decoded = codec.decode(codec.encode(pictures).latent_dist.mode()).sample
    assert (decoded - pictures).abs().mean() < 0.02


def test_neighbours_help_the_decoder(pictures):
    codec = fit_patch_codec(pictures, 6)
    with torch.no_grad():
        wide = codec.decode(codec.encode(pictures).latent_dist.mode()).sample
    pca = PCA(6, svd_solver="full").fit(patches_of(pictures))
    alone = pca.inverse_transform(pca.transform(patches_of(pictures)))
    assert ((wide - pictures) ** 2).mean() < ((alone - patches_of(pictures)) ** 2).mean()


def discs(count, side=32):
    """Pictures of one bright disc each: sharp edges that a linear code of few numbers must blur."""
    rng, scale = np.random.default_rng(5), side / 32
    y, x = np.mgrid[:side, :side] / scale
    centre, radius = rng.uniform(10, 22, (count, 2, 1, 1)), rng.uniform(4, 9, (count, 1, 1))
    inside = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < radius**2
    return torch.from_numpy(np.repeat(inside[:, None] * 255, 3, 1).astype(np.uint8))


def test_fine_detail_is_the_size_of_differences_wherever_they_are_in_a_window():
    stripes = 0.1 * (-1) ** torch.arange(32.0).expand(1, 3, 32, 32)
    along_rows, along_columns, curved_rows, curved_columns = fine_detail(stripes)
    for found, expected in ((along_rows, 0.2), (curved_rows, 0.4), (along_columns, 0.0), (curved_columns, 0.0)):
        torch.testing.assert_close(found, torch.full_like(found, expected), atol=4e-3, rtol=0)
    moved, blurred = stripes.roll(1, -1), torch.zeros_like(stripes)
    assert (moved - stripes).abs().mean() > (blurred - stripes).abs().mean()  # the pixels' distance prefers the blur
    there = fine_detail(stripes)
    same, less = (
        [(a - b).abs().mean() for a, b in zip(fine_detail(one), there, strict=True)] for one in (moved, blurred)
    )
    assert max(same) < 1e-6 and min(less[0], less[2]) > 0.1


@pytest.mark.slow
def test_the_refiner_adds_what_the_linear_decoder_blurs(tmp_path):
    pixels = discs(600)
    images = pixels / 127.5 - 1
    linear = fit_patch_codec(images, 6)
    latents = linear.encoder(images).detach()
    options = {
        "channels": (32, 16),
        "batch_size": 32,
        "learning_rate": 3e-3,
        "noise": 0.05,
        "perceptual": 0.0,
        "detail": 0.0,
    }
    refined = refine_codec(linear, pixels[:500], latents[:500], tmp_path, steps=250, **options)
    with torch.no_grad():
        before, after = (codec.decode(latents[500:]).sample for codec in (linear, refined))
    assert (after - images[500:]).abs().mean() < 0.8 * (before - images[500:]).abs().mean()
    assert torch.equal(refined.encoder.weight, linear.encoder.weight)


def test_refining_resumes_and_starts_as_the_linear_decoder(tmp_path, unchecked):
    pixels = discs(20, 64)
    linear = fit_patch_codec(pixels / 127.5 - 1, 6, patch=16)
    latents = linear.encoder(pixels / 127.5 - 1).detach()
    options = {"channels": (16, 32, 16), "batch_size": 4, "steps": 4, "checkpoint_every": 2}
    untrained = PatchCodec(**{**linear.config, "refiner_channels": (16, 32, 16)})
    untrained.load_state_dict(linear.state_dict(), strict=False)
    torch.testing.assert_close(untrained.decode(latents).sample, linear.decode(latents).sample)
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    whole = refine_codec(linear, pixels, latents, tmp_path / "one", **options)
    with pytest.raises(KeyboardInterrupt):
        refine_codec(linear, StopAfter(pixels, 3), latents, tmp_path / "two", **options)
    resumed = refine_codec(linear, pixels, latents, tmp_path / "two", **options)
    for one, two in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)


class StopAfter:
    """Pictures that are there for so many batches; then somebody presses Ctrl-C."""

    def __init__(self, pixels, batches):
        self.pixels, self.batches, self.shape = pixels, batches, pixels.shape

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, rows):
        self.batches -= 1
        if self.batches < 0:
            raise KeyboardInterrupt
        return self.pixels[rows]


@pytest.mark.parametrize("patch", [8, 16])
def test_codec_travels_in_a_pipeline(pictures, tmp_path, patch):
    pipeline = tiny_pipeline()
    pipeline.register_modules(vae=fit_patch_codec(pictures, 4, patch=patch))
    pipeline.save_pretrained(tmp_path / "base")
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "base", safety_checker=None, low_cpu_mem_usage=False)
    assert type(loaded.vae) is PatchCodec
    assert loaded.vae_scale_factor == patch
    np.testing.assert_array_equal(encoded(loaded.vae, pictures), encoded(pipeline.vae, pictures))
