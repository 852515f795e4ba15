"""Fleets on one base that differ from each other in single settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from torch import Tensor

from w2w_lib.inputs import instance, nearest, whole_number
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.images import encode_images
from w2w_lib.models.prompts import CLASS_PROMPT, in_context
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.space.gauges import with_rank
from w2w_lib.training.fleet import Fleet
from w2w_lib.training.prompt_table import Contexts
from w2w_lib.training.recipe import FleetRecipe, InstancePrompt


class ClassPictures(NamedTuple):
    """Latents of class pictures and the contexts that they were generated for, empty if for the class prompt alone."""

    latents: Float[Tensor, "images channels height width"]
    contexts: Sequence[str] = ()


@dataclass(frozen=True)
class FleetVariants:
    """What fleets have in common: the base, the layout, the recipe, class pictures for each of its instance prompts
    that is used, and by identity the contexts of people's pictures, where they are known.
    """

    pipeline: StableDiffusionPipeline
    layout: AdapterLayout
    recipe: FleetRecipe
    prior: Mapping[str, ClassPictures]
    checkpointing: bool = False
    contexts: Contexts = field(default_factory=dict)

    def fleet(
        self,
        *,
        targets: str | tuple[str, ...] | None = None,
        rank: int | None = None,
        views: int | None = None,
        pipeline: StableDiffusionPipeline | None = None,
        compiled: bool = False,
        **changes,
    ) -> Fleet:
        """A fleet with other target modules or rank (B A weighted as before), the first ``views`` pictures of each
        person, another precision of the base, or other fields of the recipe.

        ``pipeline`` is the same base opened in another precision. ValueError for a field that the recipe lacks, and for
        an instance prompt without class pictures.
        """
        instance("recipe", self.recipe, FleetRecipe)
        pipeline, layout = pipeline or self.pipeline, self.layout
        if targets is not None:
            layout = AdapterLayout.of(pipeline.unet, layout.base, targets, layout.rank, layout.alpha)
        if rank is not None:
            layout = with_rank(layout, rank)
        recipe = replace(self.recipe, **changes)
        if recipe.instance_prompt not in self.prior:
            raise ValueError(
                f"no class pictures for the instance prompt {recipe.instance_prompt!r}"
                f"{nearest(recipe.instance_prompt, self.prior)}"
            )
        latents, prior_contexts = self.prior[recipe.instance_prompt]
        kept = {i: own[:views] for i, own in self.contexts.items()}
        return Fleet(pipeline, layout, recipe, latents, compiled, self.checkpointing, kept, prior_contexts)


def class_pictures(
    pipeline: StableDiffusionPipeline, count: int, contexts: Sequence[str] = (), sampling: Sampling | None = None
) -> UInt8[np.ndarray, "images height width 3"]:
    """Samples of the base for the class prompt, each in one of the contexts, if there are some."""
    prompts = [in_context(CLASS_PROMPT, context) for context in contexts] or [CLASS_PROMPT] * count
    return generate(pipeline, prompts, range(count), sampling=sampling)


def encoded_class_pictures(
    pipeline: StableDiffusionPipeline,
    kind: InstancePrompt,
    count: int,
    contexts: Contexts,
    sampling: Sampling | None = None,
) -> ClassPictures:
    """Class pictures for a kind of instance prompt: in contexts drawn from those of training people, or for the class
    prompt alone.
    """
    said = drawn_contexts(contexts, count) if kind == "context" else []
    return ClassPictures(encode_images(pipeline, class_pictures(pipeline, count, said, sampling)), said)


def drawn_contexts(contexts: Contexts, count: int, seed: int = 0) -> list[str]:
    """Contexts for ``count`` class pictures, drawn from those of people's pictures; none where these have none."""
    all_of_them = [context for own in contexts.values() for context in own if context]
    if not all_of_them:
        return []
    rng = np.random.default_rng(whole_number("seed", seed, 0))
    return rng.choice(sorted(all_of_them), whole_number("count", count)).tolist()
