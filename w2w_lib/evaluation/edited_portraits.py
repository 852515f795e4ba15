"""Pictures of the same people edited in several ways: in weight space, by a text slider, by the prompt."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from w2w_lib.evaluation.edit_words import asked_for
from w2w_lib.evaluation.portraits import PromptSeed, portraits
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.lora.stacked import change_norm, stacked
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.space.directions import Direction
from w2w_lib.space.edits import opposite_strengths
from w2w_lib.space.weight_space import WeightSpace

Pictures = UInt8[np.ndarray, "people shots height width 3"]


@dataclass(frozen=True)
class EditedPortraits:
    """People's models, and what their pictures are made with: the same prompts and seeds before and after an edit.

    ``given`` says for each person (row of ``weights``) whether an edit gives the attribute or takes it away, and
    ``share`` is the part of the paper's strength, the training models' largest projection.
    """

    pipeline: StableDiffusionPipeline
    space: WeightSpace
    weights: Float[Tensor, "people d"]
    shots: Sequence[PromptSeed]
    sampling: Sampling

    def unedited(self) -> Pictures:
        return self._portraits(self.space.layout, self.weights)

    def along(self, direction: Direction, given: Bool[np.ndarray, " people"], share: float = 1.0) -> Pictures:
        """After a step along a direction of the space (Dravid et al. 2024, §3.3)."""
        return self._portraits(self.space.layout, self.moved(direction, given, share))

    def moved(
        self, direction: Direction, given: Bool[np.ndarray, " people"], share: float = 1.0
    ) -> Float[Tensor, "people d"]:
        """The edited weights."""
        strengths = opposite_strengths(direction, ~np.asarray(given), share)
        return self.weights + strengths[:, None].to(self.weights) * direction.step(self.space)

    def beside(
        self,
        steps: Float[Tensor, " d"],
        direction: Direction,
        given: Bool[np.ndarray, " people"],
        share: float = 1.0,
    ) -> Pictures:
        """After other steps as many times as ``along`` would go its own: a control of equal length."""
        strengths = opposite_strengths(direction, ~np.asarray(given), share)
        return self._portraits(self.space.layout, self.weights + strengths[:, None] * steps)

    def with_slider(self, slider: Float[Tensor, " d"], strength: float, given: Bool[np.ndarray, " people"]) -> Pictures:
        """With a text slider on top of every person's adapter (Gandikota et al. 2023), as strong in both ways."""
        signs = torch.where(torch.as_tensor(np.asarray(given)), 1.0, -1.0)
        layout, weights = stacked(self.space.layout, self.weights, slider[None], strength * signs)
        return self._portraits(layout, weights)

    def asked(self, attribute: str, given: Bool[np.ndarray, " people"]) -> Pictures:
        """With the attribute in the prompt of the unedited models."""
        prompts = [asked_for(prompt, attribute, bool(one)) for one in given for prompt, _ in self.shots]
        seeds = [seed for _ in given for _, seed in self.shots]
        rows = torch.arange(len(self.weights)).repeat_interleave(len(self.shots))
        images = generate(
            self.pipeline, prompts, seeds, self.space.layout, self.weights[rows], sampling=self.sampling, progress=False
        )
        return images.reshape(len(self.weights), len(self.shots), *images.shape[1:])

    def matched_strength(
        self, slider: Float[Tensor, " d"], direction: Direction, given: Bool[np.ndarray, " people"]
    ) -> float:
        """The strength at which the slider changes the layers as much as the full edit along ``direction``.

        By the Frobenius norm of the change of all ΔW, the median over people. The paper gives both the same norm.
        """
        layout, change = stacked(self.space.layout, self.moved(direction, given), self.weights, -1.0)
        return float(change_norm(layout, change).median() / change_norm(self.space.layout, slider[None])[0])

    def of(self, rows: Sequence[int], shots: int | None = None) -> "EditedPortraits":
        """Of some of the people alone, and the first shots."""
        if not len(rows):
            raise ValueError("rows: none given; expected positions of people")
        return replace(self, weights=self.weights[torch.as_tensor(rows)], shots=self.shots[:shots])

    def _portraits(self, layout: AdapterLayout, weights: Float[Tensor, "people d"]) -> Pictures:
        return portraits(self.pipeline, layout, weights, self.shots, self.sampling, progress=False)
