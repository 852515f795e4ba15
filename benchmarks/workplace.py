"""Where the steps of ``gpu.py`` work: a folder, the random base in it, and how large everything is."""

import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.base import open_base
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.sampling import Sampling
from w2w_lib.release.random_base import FULL, NARROW, write_random_base

SAMPLING = Sampling(steps=50, guidance=3.0)  # of the profile sd15


@dataclass(frozen=True)
class Sizes:
    """How much of everything there is: by default, of the measurement; less of it in a rehearsal."""

    fleets: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    compiled_fleets: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    warm_steps: int = 3  # of a fleet, before ...
    timed_steps: int = 8  # ... those that are timed
    release_models: int = 3000
    release_columns: int = 2000  # of V, whose 10,000 would take 4 GB
    release_components: int = 1000  # with known coefficients, all of them imported
    inverted_components: tuple[int, ...] = (1000, 10_000)
    known_components: int = 1000  # of which a random space knows coefficients, at most
    inversion_steps: int = 12
    pictures: int = 8
    batches: tuple[int, ...] = (1, 4, 8)  # of pictures
    sampling: Sampling = SAMPLING


REHEARSAL = Sizes((1, 2), (1,), 1, 2, 300, 40, 20, (10, 20), 10, 3, 2, (1, 2), Sampling(steps=3, guidance=3.0))


@dataclass(frozen=True)
class Workplace:
    """A folder to work in; a rehearsal works on a narrow base and with little of everything."""

    folder: Path
    rehearsal: bool = False

    @property
    def sizes(self) -> Sizes:
        return REHEARSAL if self.rehearsal else Sizes()

    @property
    def device(self) -> str:
        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def base(self) -> Path:
        """The folder of the random base, written when it is first asked for."""
        base = self.folder / ("narrow_base" if self.rehearsal else "base")
        if not base.exists():
            partial = base.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            write_random_base(partial, NARROW if self.rehearsal else FULL, torch.bfloat16)
            partial.rename(base)
        return base


@cache
def opened(place: Workplace, dtype: torch.dtype = torch.bfloat16) -> StableDiffusionPipeline:
    """The base, opened once in each process."""
    return open_base(place.base, dtype, place.device)


def layout_of(pipeline: StableDiffusionPipeline) -> AdapterLayout:
    """The adapters of the profile sd15: the release's layers, rank and alpha."""
    return AdapterLayout.of(pipeline.unet, fingerprint(pipeline), "release", 1, 27.0)


def random_latents(pipeline: StableDiffusionPipeline, count: int, seed: int = 0) -> torch.Tensor:
    """Latents of no picture, of the base's size: what a step costs does not depend on what they are."""
    size, channels = pipeline.unet.config.sample_size, pipeline.unet.config.in_channels
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))


def random_weights(layout: AdapterLayout, count: int) -> torch.Tensor:
    """Adapters of nobody."""
    noise = torch.randn(count, layout.dimension, generator=torch.Generator().manual_seed(0))
    return layout.initial() + 1e-3 * noise
