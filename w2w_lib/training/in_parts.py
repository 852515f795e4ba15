"""Adapters of a few more people, trained here and now as those of a dataset were."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from torch import Tensor
from tqdm import tqdm

from w2w_lib.inputs import instance, some, whole_number
from w2w_lib.models.images import encode_images
from w2w_lib.models.recipe import Sampling
from w2w_lib.training.fleet import Fleet
from w2w_lib.training.prompt_table import Contexts, texts_fingerprint
from w2w_lib.training.recipe import FleetRecipe
from w2w_lib.training.variants import encoded_class_pictures
from w2w_lib.training.weights_dataset import WeightsDataset

CLASS_PICTURES = ("prior_images", "prior")  # what a dataset's recipe says of them, as notebook 02 writes it


def fleet_of(
    dataset: WeightsDataset,
    pipeline: StableDiffusionPipeline,
    known: Contexts | None = None,
    contexts: Contexts | None = None,
    **changes,
) -> Fleet:
    """The fleet that would train further rows of a dataset: its layout, recipe, class pictures and start.

    Where the recipe's prompts name contexts, class pictures' are drawn from those of ``known``, the training people,
    and ``contexts`` are those of the people to come. ``changes`` are other fields of the recipe. ValueError for a
    dataset whose header does not say how its class pictures were made, or says that they were made in other contexts,
    and for another base than its own.
    """
    instance("dataset", dataset, WeightsDataset)
    own = {field.name for field in fields(FleetRecipe)}
    recipe = FleetRecipe(**{name: value for name, value in dataset.recipe.items() if name in own} | changes)
    if missing := [name for name in CLASS_PICTURES if name not in dataset.recipe]:
        raise ValueError(f"dataset: its recipe lacks {some(missing)}, how its class pictures were made; train it anew")
    count, sampling = (dataset.recipe[name] for name in CLASS_PICTURES)
    prior = encoded_class_pictures(pipeline, recipe.instance_prompt, count, known or {}, Sampling(**sampling))
    fleet = Fleet(pipeline, dataset.layout, recipe, prior.latents, contexts=contexts, prior_contexts=prior.contexts)
    named = fleet.prompts.class_prompts
    if dataset.recipe.get("class_prompts") != (texts_fingerprint(named) if named else None):
        raise ValueError("dataset: its class pictures were made in other contexts; give those of its training people")
    fleet.initial = dataset.initial  # to the last digit, as another machine may have computed it
    return fleet


def train_on(
    pipeline: StableDiffusionPipeline,
    fleet: Fleet,
    images: UInt8[np.ndarray, "people views height width 3"],
    ids: Sequence[str],
    size: int = 32,
) -> Float[Tensor, "people d"]:
    """Weights of an adapter for each person's pictures, at most ``size`` trained at once on the fleet's base.

    A person of the same name gets the same random numbers in every call, so that two adapters of one person differ by
    the pictures alone. ValueError for names that are not one for each person, or not different.
    """
    size, ids = whole_number("size", size), list(ids)
    if len(ids) != len(images) or len(set(ids)) < len(ids):
        raise ValueError(f"{len(ids)} names for pictures of {len(images)} people: expected a name of its own for each")
    parts = []
    with fleet.session() as train, tqdm(total=len(ids), desc="fine-tune", unit="person") as bar:
        for first in range(0, len(ids), size):
            group = slice(first, first + size)
            latents = {i: encode_images(pipeline, own) for i, own in zip(ids[group], images[group], strict=True)}
            parts.append(train(latents)[0])
            bar.update(len(latents))
    return torch.cat(parts)
