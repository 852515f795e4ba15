"""Fleets on one base that differ from each other in single settings."""

from dataclasses import dataclass, replace

from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from w2w_lib.inputs import instance
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.training.fleet import Fleet
from w2w_lib.training.recipe import FleetRecipe


@dataclass(frozen=True)
class FleetVariants:
    """What fleets have in common: the base, the layout, the recipe and the class pictures' latents."""

    pipeline: StableDiffusionPipeline
    layout: AdapterLayout
    recipe: FleetRecipe
    prior_latents: Float[Tensor, "images channels height width"]
    checkpointing: bool = False

    def fleet(
        self,
        *,
        targets: str | tuple[str, ...] | None = None,
        pipeline: StableDiffusionPipeline | None = None,
        compiled: bool = False,
        **changes,
    ) -> Fleet:
        """A fleet with other target modules, another precision of the base, or other fields of the recipe.

        ``pipeline`` is the same base opened in another precision. ValueError for a field that the recipe lacks.
        """
        instance("recipe", self.recipe, FleetRecipe)
        pipeline, layout = pipeline or self.pipeline, self.layout
        if targets is not None:
            layout = AdapterLayout.of(pipeline.unet, layout.base, targets, layout.rank, layout.alpha)
        recipe = replace(self.recipe, **changes)
        return Fleet(pipeline, layout, recipe, self.prior_latents, compiled, self.checkpointing)
