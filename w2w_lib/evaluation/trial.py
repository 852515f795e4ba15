"""Recipes of fine-tuning on trial: the same people's adapters trained in several ways, and judged alike."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from w2w_lib.evaluation.base_quality import nearest_background
from w2w_lib.evaluation.intervals import Interval, over_people
from w2w_lib.evaluation.lineup import Judged, Lineup, compared
from w2w_lib.evaluation.pictures import as_pictures
from w2w_lib.evaluation.portraits import PromptSeed, portraits
from w2w_lib.inputs import instance, whole_number
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.sampling import Sampling
from w2w_lib.people.rendered.view import BACKGROUNDS
from w2w_lib.training.fleet import Fleet
from w2w_lib.training.variants import FleetVariants

Latents = Mapping[str, Float[Tensor, "images channels height width"]]


@dataclass(frozen=True)
class Outcome:
    """Pictures by people's models, what the line-up says of them, and whether backgrounds that were asked for are there
    (1 or 0, NaN where the prompt names none).
    """

    images: UInt8[np.ndarray, "models shots height width 3"]
    judged: Judged
    background: Float[np.ndarray, "models shots"]

    def numbers(self, reference: "Outcome | None" = None) -> dict[str, Interval]:
        """Means over people with intervals; with a reference of the same people, by how much they are above its."""
        instance("reference", reference, (Outcome, type(None)))
        above = np.zeros_like(self.background) if reference is None else reference.background
        found = compared(self.judged, reference and reference.judged)
        named = ~np.isnan(self.background[0])  # by these prompts; the same of all models
        return found | {"background": over_people((self.background - above)[:, named])}


@dataclass(frozen=True)
class Trial:
    """What models are judged by: a line-up of real pictures that no adapter has seen, prompts with seeds, sampling."""

    pipeline: StableDiffusionPipeline
    lineup: Lineup
    prompt_seeds: Sequence[PromptSeed]
    sampling: Sampling

    def judge(self, layout: AdapterLayout, weights: Float[Tensor, "models d"], ids: Sequence[str]) -> Outcome:
        """Pictures by these people's models, and what is measured of them."""
        images = portraits(self.pipeline, layout, weights, self.prompt_seeds, self.sampling, progress=False)
        prompts = [prompt for prompt, _ in self.prompt_seeds]
        return Outcome(images, self.lineup.judge(images, ids), background_obeyed(images, prompts))


def background_obeyed(
    images: UInt8[np.ndarray, "models shots height width 3"], prompts: Sequence[str]
) -> Float[np.ndarray, "models shots"]:
    """1 where a picture's background is nearest to the colour that its prompt names, else 0; NaN where it names none.

    ``prompts`` are one for each shot.
    """
    images = as_pictures(images, "models shots height width 3")
    if len(prompts) != images.shape[1]:
        raise ValueError(f"{len(prompts)} prompts for {images.shape[1]} pictures of each model: expected one for each")
    asked = [re.search(rf"on a ({'|'.join(BACKGROUNDS)}) background", prompt) for prompt in prompts]
    shown = np.array(nearest_background(images.reshape(-1, *images.shape[2:]))).reshape(images.shape[:2])
    columns = [shown[:, k] == found[1] if found else np.full(len(images), np.nan) for k, found in enumerate(asked)]
    return np.stack(columns, axis=1).astype(float)


def train_in_parts(fleet: Fleet, latents: Latents, size: int = 32) -> Float[Tensor, "models d"]:
    """Weights of everybody's adapters, trained here and now, at most ``size`` at once."""
    ids, size = list(latents), whole_number("size", size)
    with fleet.session() as train:
        parts = [train({i: latents[i] for i in ids[first : first + size]})[0] for first in range(0, len(ids), size)]
    return torch.cat(parts)


def try_recipes(
    variants: FleetVariants,
    changes: Mapping[str, Mapping[str, Any]],
    latents: Latents,
    trial: Trial,
    fleet_size: int = 32,
) -> pd.DataFrame:
    """A row for each of the named changes of the recipe (what ``FleetVariants.fleet`` takes), on the same people.

    Columns: the numbers of ``Outcome.numbers`` with ends of their 95% intervals (``_low``, ``_high``), each number's
    gain over the first row, in pairs (``_gain``, ``_gain_low``, ``_gain_high``), and ``seconds`` of training for each
    person.
    """
    rows, first, bar = {}, None, tqdm(changes.items(), desc="recipes", unit="recipe")
    for name, changed in bar:
        fleet = variants.fleet(**changed)
        own = {i: latent[: changed.get("views")] for i, latent in latents.items()}
        began = time.perf_counter()
        weights = train_in_parts(fleet, own, fleet_size)
        seconds = (time.perf_counter() - began) / len(own)
        outcome = trial.judge(fleet.layout, weights, list(own))
        first = first or outcome
        row = {k: v for kind, one in outcome.numbers().items() for k, v in one.named(kind).items()}
        gains = outcome.numbers(first) if outcome is not first else {}
        row |= {k: v for kind, one in gains.items() for k, v in one.named(f"{kind}_gain").items()}
        rows[name] = row | {"seconds": seconds}
        bar.set_postfix_str(f"{name}: AUC {row['auc']:.3f}, background {row['background']:.0%}")
    return pd.DataFrame.from_dict(rows, orient="index")
