"""Which recipe of fine-tuning? Adapters of `val` people, trained on any base folder in several ways and judged alike.

    python benchmarks/recipes.py data/base/pocket my/other/base --people 24 --out recipes.json
    python benchmarks/recipes.py data/base/pocket --variants mine.yaml --only "as set" --only "plain prompts"

The recipe, the prompts and the sampling are those of the profile's `finetune` section. Variants are a YAML mapping of
names to changes of the recipe (also `targets`, `rank` and `views`), by default the profile's sweep; the first is what
the others are compared with. Real pictures in the line-up are views that no adapter has seen.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from w2w_lib.evaluation.lineup import Lineup
from w2w_lib.evaluation.portraits import prompts_with_seeds
from w2w_lib.evaluation.trial import Trial, try_recipes
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.base import open_base
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.people.people_set import People
from w2w_lib.training.variants import FleetVariants, encoded_class_pictures
from w2w_lib.workbook.lifetime import ends_together
from w2w_lib.workbook.settings import load
from w2w_lib.workbook.yaml_files import read_mapping

SHOWN = ["auc", "auc_gain", "alike_auc", "rank1", "detected", "background", "seconds"]


def compare(base: Path, changes: dict, profile: str, people: int, gallery: int, unseen: int) -> pd.DataFrame:
    """The table of ``try_recipes`` for a base; the first ``people`` of a gallery of ``val`` people get adapters."""
    settings = load(profile).finetune
    evaluation, pipeline = settings.evaluate, open_base(base, torch.bfloat16)
    size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    most = max(changed.get("views", load(profile).people.sets.views) for changed in changes.values())
    shown = People.render("val", people, most, size)
    contexts = shown.contexts()
    drawn = settings.prior_images, contexts, evaluation.sampling
    prior = {kind: encoded_class_pictures(pipeline, kind, *drawn) for kind in ("plain", "context")}
    layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline), settings.targets, settings.rank, settings.alpha)
    variants = FleetVariants(pipeline, layout, settings.recipe, prior, contexts=contexts)
    seeds = prompts_with_seeds(evaluation.prompts, evaluation.first_seed, evaluation.images)
    lineup = Lineup.of(People.render("val", gallery, unseen, size, first_view=most))
    trial = Trial(pipeline, lineup, seeds, evaluation.sampling)
    return try_recipes(variants, changes, shown.latents(pipeline), trial, settings.fleet_size)


@ends_together()
def main(
    bases: Annotated[list[Path], typer.Argument(help="Folders of base models.")],
    profile: Annotated[str, typer.Option(help="Whose recipe, prompts and sampling.")] = "pocket",
    variants: Annotated[Path | None, typer.Option(help="YAML: changes of the recipe by name.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Variants to try; the first is compared with.")] = None,
    people: Annotated[int, typer.Option(help="Who get adapters.")] = 24,
    gallery: Annotated[int, typer.Option(help="People of the line-up.")] = 50,
    unseen: Annotated[int, typer.Option(help="Pictures of each of them.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Where the numbers go, as JSON.")] = None,
) -> None:
    """Try every recipe on every base, print one table and write it."""
    expected = "changes of the recipe by name"
    changes = read_mapping(variants, expected, "write it") if variants else load(profile).finetune.evaluate.sweep
    changes = {name: changes[name] for name in only or changes}
    tables = {str(base): compare(base, changes, profile, people, gallery, unseen) for base in bases}
    table = pd.concat(tables, names=["base", "recipe"])
    print(table[[name for name in SHOWN if name in table]].round(3).to_string())
    if out:
        table.reset_index().to_json(out, orient="records", indent=1)


if __name__ == "__main__":
    typer.run(main)
