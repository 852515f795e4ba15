"""Which recipe of fine-tuning? Adapters of `val` people, trained on any base folder in several ways and judged alike.

    python benchmarks/recipes.py outputs/base_training/base --people 24 --out recipes.json
    python benchmarks/recipes.py data/base/pocket --variants mine.yaml --only "as set" "context prompts"

The recipe, the prompts and the sampling are those of the profile's `finetune` section. Variants are a YAML mapping of
names to changes of the recipe (also `targets`, `rank` and `views`), by default the profile's sweep; the first is what
the others are compared with. Real pictures in the line-up are views that no adapter has seen.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
import torch

from w2w_lib.evaluation.lineup import Lineup
from w2w_lib.evaluation.portraits import prompts_with_seeds
from w2w_lib.evaluation.trial import Trial, try_recipes
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.base import open_base
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.images import encode_images
from w2w_lib.people.people_set import People
from w2w_lib.training.variants import ClassPictures, FleetVariants, class_pictures, drawn_contexts
from w2w_lib.workbook.settings import load
from w2w_lib.workbook.yaml_files import read_mapping

SHOWN = ["auc", "auc_gain", "alike_auc", "rank1", "detected", "background", "seconds"]


def compare(base: Path, changes: dict | None, profile: str, people: int, gallery: int, unseen: int) -> pd.DataFrame:
    """The table of ``try_recipes`` for a base; the first ``people`` of a gallery of ``val`` people get adapters."""
    settings = load(profile).finetune
    evaluation, changes = settings.evaluate, changes or settings.evaluate.sweep
    pipeline = open_base(base, torch.bfloat16)
    size = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    most = max(changed.get("views") or 0 for changed in changes.values()) or load(profile).people.sets.views
    shown = People.render("val", people, most, size)
    contexts = shown.contexts()
    painted = {"plain": [], "context": drawn_contexts(contexts, settings.prior_images)}
    prior = {
        kind: ClassPictures(
            encode_images(pipeline, class_pictures(pipeline, settings.prior_images, said, evaluation.sampling)), said
        )
        for kind, said in painted.items()
    }
    layout = AdapterLayout.of(
        pipeline.unet, fingerprint(pipeline), settings.targets, settings.rank, settings.alpha
    )
    variants = FleetVariants(pipeline, layout, settings.recipe, prior, contexts=contexts)
    seeds = prompts_with_seeds(evaluation.prompts, evaluation.first_seed, evaluation.images)
    lineup = Lineup.of(People.render("val", gallery, unseen, size, first_view=most))
    trial = Trial(pipeline, lineup, seeds, evaluation.sampling)
    return try_recipes(variants, changes, shown.latents(pipeline), trial, settings.fleet_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path, help="folder of a base model")
    parser.add_argument("--profile", default="pocket", help="whose recipe, prompts and sampling")
    parser.add_argument("--variants", type=Path, help="YAML: changes of the recipe by name")
    parser.add_argument("--only", nargs="+", help="names of the variants to try, the first to compare with")
    parser.add_argument("--people", type=int, default=24, help="who get adapters")
    parser.add_argument("--gallery", type=int, default=50, help="people of the line-up")
    parser.add_argument("--unseen", type=int, default=4, help="pictures of each of them")
    parser.add_argument("--out", type=Path, help="JSON to write the whole table to")
    given = parser.parse_args()
    expected = "changes of the recipe by name"
    changes = read_mapping(given.variants, expected, "write it") if given.variants else None
    changes = changes or load(given.profile).finetune.evaluate.sweep
    changes = {name: changes[name] for name in given.only or changes}
    table = compare(given.base, changes, given.profile, given.people, given.gallery, given.unseen)
    print(table[[name for name in SHOWN if name in table]].round(3).to_string())
    if given.out:
        given.out.write_text(json.dumps(table.T.to_dict(), indent=1) + "\n")


if __name__ == "__main__":
    main()
