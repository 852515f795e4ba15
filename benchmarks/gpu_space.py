"""The space on a card: a release imported and compared with float64, and inversion into many components."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from measuring import forget_peak_memory, peak_memory, peak_rss, seconds_of
from workplace import Workplace, layout_of, opened, random_latents

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.release.files import BASIS, MEAN, STD
from w2w_lib.release.importing import import_release, open_import
from w2w_lib.release.synthetic import write_release
from w2w_lib.space.inversion import invert
from w2w_lib.space.inversion_recipes import RECIPES
from w2w_lib.space.weight_space import WeightSpace

GIB = 2**30
COMPARED = 4  # models whose coefficients and weights are compared with float64
SCALE = 1e-3  # of a random space: the release's standard deviations are from 2e-4 to 2e-3


def imported(place: Workplace) -> dict:
    """Seconds and memory of an import, in a process of its own; its errors against the release's files in float64."""
    release, out = synthetic_release(place), place.folder / "imported"
    # One that this process starts itself begins with the peak of this process's memory.
    with ProcessPoolExecutor(1, get_context("forkserver")) as fresh:
        found = fresh.submit(timed_import, place, release, out).result()
    space, _ = open_import(out)
    mean, std, basis = _in_float64(release, len(space.components))
    weights = (mean + std * np.random.default_rng(0).normal(size=(COMPARED, len(mean)))).astype(np.float32)
    coefficients = space.sample(COMPARED, seed=0)
    projected = (weights.astype(float) - mean) / std @ basis
    unprojected = (coefficients.double().numpy() @ basis.T) * std + mean
    return found | {
        "parameters": len(mean),
        "components": len(space.components),
        "models": len(space.ids),
        "project_relative_error": _error(space.project(torch.from_numpy(weights)), projected),
        "unproject_relative_error": _error(space.unproject(coefficients), unprojected),
    }


def synthetic_release(place: Workplace) -> Path:
    """The folder of a release of the released structure, written when it is first asked for."""
    folder, sizes = place.folder / ("narrow_release" if place.rehearsal else "release"), place.sizes
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        layout = layout_of(opened(place))
        write_release(partial, layout, sizes.release_models, sizes.release_columns, sizes.release_components)
        partial.rename(folder)
    return folder


def import_into(place: Workplace, release: Path, out: Path) -> WeightSpace:
    """The import, by structure alone where the base has Stable Diffusion 1.5's."""
    base = place.base if place.rehearsal else None
    return import_release(release, out, place.sizes.release_components, base, show=lambda text: None)


def timed_import(place: Workplace, release: Path, out: Path) -> dict:
    """Seconds of an import and memory of the process that it is called in."""
    before = peak_rss()
    seconds = seconds_of(lambda: import_into(place, release, out))
    return {"seconds": seconds, "rss_before_gib": before / GIB, "peak_rss_gib": peak_rss() / GIB}


def _in_float64(release: Path, components: int) -> list[np.ndarray]:
    """Mean, deviations and the first columns of V."""
    files = (torch.load(release / name, weights_only=True, mmap=True) for name in (MEAN, STD, BASIS))
    mean, std, basis = files
    return [tensor.double().numpy() for tensor in (mean, std, basis[:, :components])]


def _error(ours: torch.Tensor, expected: np.ndarray) -> float:
    """The largest difference, as a share of the largest number."""
    return float(np.abs(ours.double().numpy() - expected).max() / np.abs(expected).max())


def inversion(place: Workplace, components: int) -> dict:
    """Seconds and memory of the paper's inversion of one picture into so many components."""
    pipeline, few, many = opened(place), 2, 2 + place.sizes.inversion_steps
    space = random_space(layout_of(pipeline), components, place.sizes.known_components)
    latents = random_latents(pipeline, 1)

    def seconds(steps: int) -> float:
        recipe = replace(RECIPES["paper"], steps=steps)
        return seconds_of(lambda: invert(pipeline, space, latents, recipe, progress=False))

    seconds(few)  # warm
    forget_peak_memory(place.device)
    start = seconds(few)
    step = (seconds(many) - start) / (many - few)
    all_steps = RECIPES["paper"].steps
    return {
        "components": components,
        "seconds_per_step": step,
        "seconds_before_steps": start - few * step,
        f"seconds_of_{all_steps}_steps": start + (all_steps - few) * step,
        "peak_memory_gib": peak_memory(place.device) / GIB,
    }


def random_space(layout: AdapterLayout, components: int, known: int) -> WeightSpace:
    """A space of random directions; its models' coefficients are known of the first ``known`` components."""
    rng, known = torch.Generator().manual_seed(0), min(components, known)
    rows = torch.randn(components, layout.dimension, generator=rng).div_(layout.dimension**0.5)
    std = 10 * torch.arange(1, components + 1) ** -0.35
    of_all = {"component_std": std} if known < components else {}
    return WeightSpace(
        layout=layout,
        ids=["model-0", "model-1", "model-2"],
        mean=layout.initial(),
        components=rows,
        coefficients=torch.randn(3, known, generator=rng) * std[:known],
        total_variance=float(layout.dimension),
        rows="random",
        solver="random",
        scale=torch.full((layout.dimension,), SCALE),
        **of_all,
    )
