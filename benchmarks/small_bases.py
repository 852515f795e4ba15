"""Small bases that differ in the training of their text encoder alone, for `benchmarks/encoders.py`.

    python benchmarks/small_bases.py outputs/small_bases joint planted --steps 5000
    python benchmarks/encoders.py outputs/small_bases/joint outputs/small_bases/planted --people 50

Each is trained from scratch on the same described people, with the codec of the shipped base, for the same number of
steps; an interrupted run goes on. Nobody is known by name: a text encoder that is frozen before the UNet's training
cannot learn names. On two cores 5,000 steps, those of the published comparison, take half an hour.
"""

import os
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from safetensors.torch import load_file

from w2w_lib.files.atomic import save_tensors
from w2w_lib.models.base import open_base
from w2w_lib.pocket.base_training import train_base
from w2w_lib.pocket.codec import PatchCodec
from w2w_lib.pocket.recipe import BaseRecipe
from w2w_lib.pocket.training_data import prepare_data
from w2w_lib.workbook import paths, profiles

SHARED = ("data.safetensors", "refiner.safetensors")  # of the work folder, the same for all
AT_ONCE = 512  # pictures


@torch.no_grad()
def prepare(recipe: BaseRecipe, codec: PatchCodec, work: Path) -> None:
    """Render and caption people as for any base, and encode them with this codec in place of one of their own."""
    if all((work / name).exists() for name in SHARED):
        return
    work.mkdir(parents=True, exist_ok=True)
    prepare_data(recipe, work)
    pixels = torch.from_numpy(np.load(work / "images.npy", allow_pickle=False)).permute(0, 3, 1, 2)
    latents = torch.cat([codec.encoder(part / 127.5 - 1) for part in pixels.split(AT_ONCE)]).contiguous()
    weights = codec.state_dict()
    linear = PatchCodec(latent_channels=recipe.latent_channels, patch=recipe.patch).state_dict()
    stored = load_file(work / SHARED[0]) | {"latents": latents} | {f"codec.{name}": weights[name] for name in linear}
    save_tensors(weights, work / SHARED[1])
    save_tensors(stored, work / SHARED[0])


def main(
    out: Annotated[Path, typer.Argument(help="The folder to write; a base for each objective in it.")],
    objectives: Annotated[list[str], typer.Argument(help="joint, planted, contrastive.")],
    people: Annotated[int, typer.Option(help="Whom captions describe, one picture of each.")] = 10_000,
    steps: Annotated[int, typer.Option(help="Of the UNet's training.")] = 2500,
    batch: Annotated[int, typer.Option(help="Pictures of a step.")] = 64,
    seed: int = 0,
) -> None:
    """Train a base for each objective."""
    shared = {"people": people, "known": 0, "steps": steps, "batch_size": batch, "seed": seed}
    recipes = [BaseRecipe(**shared, text_objective=objective) for objective in objectives]
    codec = open_base(profiles.base("pocket")).vae.float()
    prepare(recipes[0], codec, common := out / "work")
    for recipe in recipes:
        work = common / recipe.text_objective
        work.mkdir(parents=True, exist_ok=True)
        for name in SHARED:
            if not (work / name).exists():
                os.link(common / name, work / name)
        train_base(recipe, out / recipe.text_objective, work, compiled=True)
        print(paths.shown(out / recipe.text_objective))


if __name__ == "__main__":
    typer.run(main)
