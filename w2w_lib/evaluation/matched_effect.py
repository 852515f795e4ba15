"""What an edit spills where its wanted effect is the same: strengths of other spaces do not compare."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Bool, Float
from torch import Tensor

from w2w_lib.evaluation.attributes import AttributeClassifier
from w2w_lib.evaluation.intervals import mean
from w2w_lib.evaluation.portraits import PromptSeed, portraits
from w2w_lib.evaluation.trade_off import cost_at
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.sampling import Sampling


def edited_logits(
    pipeline: StableDiffusionPipeline,
    layout: AdapterLayout,
    classifier: AttributeClassifier,
    own: Float[Tensor, "people d"],
    step: Float[Tensor, " d"],
    strengths: Float[Tensor, "people strengths"],
    shot: PromptSeed,
    sampling: Sampling,
) -> Float[np.ndarray, "people strengths attributes"]:
    """The classifier's logits of one picture of everybody's model moved by the step, at each of its strengths."""
    moved = own[:, None] + strengths[..., None] * step
    images = portraits(pipeline, layout, moved.flatten(0, 1), [shot], sampling, progress=False)
    return classifier.logits(images[:, 0]).to_numpy().reshape(*strengths.shape, -1)


def changes(
    before: pd.DataFrame, after: Float[np.ndarray, "people strengths attributes"], attribute: str, others: Sequence[str]
) -> tuple[Float[np.ndarray, "people strengths"], Float[np.ndarray, "people strengths"]]:
    """Change of the attribute's logit towards its opposite, and mean |change| of the others', for each person.

    In standard deviations of each logit over the unedited people. ``before`` has the columns of ``after``.
    """
    change = (after - before.to_numpy()[:, None]) / before.std().to_numpy()
    towards = np.where(before[attribute] > 0, -1, 1)
    names = list(before.columns)
    rest = [names.index(name) for name in others if name != attribute]
    return towards[:, None] * change[..., names.index(attribute)], np.abs(change[..., rest]).mean(2)


def mean_spill_at(
    wanted: Float[np.ndarray, "people attributes strengths"],
    unwanted: Float[np.ndarray, "people attributes strengths"],
    effect: float,
) -> float:
    """Mean over attributes of the unwanted change where the wanted one is ``effect``, both means over people.

    Attributes that never have the effect do not count; NaN where none has it. The strengths rise, and a strength 0,
    which changes nothing, precedes them.
    """
    curves = ([np.append(0.0, part[:, k].mean(0)) for part in (wanted, unwanted)] for k in range(wanted.shape[1]))
    return mean(np.array([cost_at(*curve, effect) for curve in curves]))


def spill_above_best(
    wanted: Float[np.ndarray, "people spaces attributes strengths"],
    unwanted: Float[np.ndarray, "people spaces attributes strengths"],
    effect: float,
    end: int,
) -> float:
    """``mean_spill_at`` of the first (``end`` 0) or the last (-1) of several spaces, above the least of those between.

    NaN where that space, or every one between, never has the effect.
    """
    spill = [mean_spill_at(wanted[:, k], unwanted[:, k], effect) for k in range(wanted.shape[1])]
    return spill[end] - np.nanmin(spill[1:-1]) if np.isfinite(spill[1:-1]).any() else float("nan")


def opposite_lengths(shown: Bool[np.ndarray, " people"], lengths: Sequence[float]) -> Float[Tensor, "people strengths"]:
    """Strengths of a step that gives the attribute: backwards for people who show it, in these lengths."""
    return torch.where(torch.tensor(np.asarray(shown)), -1.0, 1.0)[:, None] * torch.tensor(list(lengths))
