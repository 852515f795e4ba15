"""Recipes of fine-tuning on trial: the same people's adapters trained in several ways, and judged alike."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from w2w_lib.evaluation.backgrounds import background_obeyed
from w2w_lib.evaluation.intervals import Interval, over_people
from w2w_lib.evaluation.lineup import Judged, Lineup, compared
from w2w_lib.evaluation.portraits import PromptSeed, portraits
from w2w_lib.inputs import instance
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.sampling import Sampling
from w2w_lib.training.few_pictures import fine_tuned
from w2w_lib.training.loop import Latents
from w2w_lib.training.variants import FleetVariants


@dataclass(frozen=True)
class Outcome:
    """Pictures by people's models, what the line-up says of them, and the share of each model's with the background
    that was asked for (NaN where no prompt names one).
    """

    images: UInt8[np.ndarray, "models shots height width 3"]
    judged: Judged
    background: Float[np.ndarray, " models"]

    def numbers(self, reference: "Outcome | None" = None) -> dict[str, Interval]:
        """Means over people with intervals; with a reference of the same people, by how much they are above its."""
        instance("reference", reference, (Outcome, type(None)))
        above = np.zeros_like(self.background) if reference is None else reference.background
        found = compared(self.judged, reference and reference.judged)
        return found | {"background": over_people(self.background - above)}


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
        weights = fine_tuned(fleet, own, fleet_size)
        seconds = (time.perf_counter() - began) / len(own)
        outcome = trial.judge(fleet.layout, weights, list(own))
        first = first or outcome
        row = {k: v for kind, one in outcome.numbers().items() for k, v in one.named(kind).items()}
        gains = outcome.numbers(first) if outcome is not first else {}
        row |= {k: v for kind, one in gains.items() for k, v in one.named(f"{kind}_gain").items()}
        rows[name] = row | {"seconds": seconds}
        bar.set_postfix_str(f"{name}: AUC {row['auc']:.3f}, background {row['background']:.0%}")
    return pd.DataFrame.from_dict(rows, orient="index")
