"""What more numbers, pictures or steps for each person buy: a space of adapters trained in each way, judged alike.

    python benchmarks/alternatives.py
    python benchmarks/alternatives.py --people 3 --gallery 4 --train 12 --samples 3 --only "as set" --only "rank 2"

Ways are the profile's own, its `scale.alternatives`, the other choice of layers and twice the steps. For each: how
alike adapters of `val` people are on pictures that they have not seen, how well labels are read from them, how often
edits succeed, whether a model sampled from the space is one person, and the seconds that a person took. Each number has
its 95% interval over people (over samples, where those are judged), and the paired difference from the first way's.

People and adapters are kept in the folder ``--work``: an interrupted run goes on there. Two cores take three
minutes for a way.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from ways import Measured, Scores, Way, edit_success, label_scores, likeness, table, world, write_tables

from w2w_lib.evaluation.attributes import mean_auc
from w2w_lib.evaluation.portraits import embed_portraits, portraits, prompts_with_seeds
from w2w_lib.evaluation.scores import told_apart
from w2w_lib.models.base import open_base
from w2w_lib.workbook import paths
from w2w_lib.workbook.sections import Profile
from w2w_lib.workbook.settings import load

FIRST = "as set"
SHOTS = 4  # pictures by each sampled model


def ways_of(profile: Profile) -> dict[str, dict]:
    """Changes of the recipe by name."""
    others = {"paper": "release", "release": "paper"}
    more = {"twice the steps": {"steps": 2 * profile.finetune.recipe.steps}}
    if (layers := others.get(profile.finetune.targets)) is not None:
        more[f"the {layers}'s layers"] = {"targets": layers}
    return {FIRST: {}} | profile.scale.alternatives | more


def measure(way: Way, samples: int) -> dict[str, Measured]:
    """Everything that is measured of a way, by part of the table."""
    return {
        "likeness": likeness(way),
        "labels": Scores({"mean": label_scores(way)["mean"]}, mean_auc),
        "edits": Scores(edit_success(way)),
        "samples": Scores(sampled(way, samples)),
    }


def sampled(way: Way, count: int) -> dict[str, tuple[np.ndarray]]:
    """Of each model sampled from the space, whether its pictures are of one person, and the share with a face."""
    settings, space = way.world.profile.scale, way.space
    shots = prompts_with_seeds(settings.prompts, settings.first_seed, SHOTS)
    models = space.unproject(space.sample(count, settings.seed))
    images = portraits(way.pipeline, way.layout, models, shots, settings.sampling, progress=False)
    faces, found = embed_portraits(images)
    return {"consistency": (told_apart(faces),), "faces found": (found.mean(1),)}


def main(
    base: Annotated[Path, typer.Argument(help="Folder of a base model.")] = paths.ROOT / "data" / "base" / "pocket",
    profile: Annotated[str, typer.Option(help="Whose recipe, prompts, sampling and strength.")] = "pocket",
    only: Annotated[list[str] | None, typer.Option(help="Ways to try; the first is compared with.")] = None,
    people: Annotated[int, typer.Option(help="Val people, who get adapters and edits.")] = 50,
    gallery: Annotated[int, typer.Option(help="People of the line-up.")] = 50,
    train: Annotated[int, typer.Option(help="Train people whose adapters make the space.")] = 160,
    samples: Annotated[int, typer.Option(help="Models drawn from the space.")] = 48,
    least: Annotated[int, typer.Option(help="Val people with a label, and without it, to read it.")] = 5,
    work: Annotated[Path, typer.Option(help="Where people and adapters are kept.")] = paths.OUTPUTS / "alternatives",
    out: Annotated[Path, typer.Option(help="Where the numbers go, as JSON.")] = paths.ALTERNATIVES,
) -> None:
    """Measure every way, print one table and write it."""
    settings = load(profile)
    ways = ways_of(settings)
    if unknown := set(only or ()) - set(ways):
        raise typer.BadParameter(f"{sorted(unknown)}: expected some of {sorted(ways)}", param_hint="only")
    judged_on = world(settings, work, people, gallery, train, least)
    pipeline, tables, costs, first = open_base(base, None), [], {}, None
    for name in only or ways:
        way = Way(pipeline, judged_on, work / name.replace(" ", "_"), ways[name])
        found = measure(way, samples)
        tables.append(table(found, first).assign(way=name))
        seconds = np.median(list(way.adapters.seconds().values()))  # the first groups' have the compilation in them
        costs[name] = {"numbers": way.layout.dimension, "seconds": float(seconds)}
        first = first or found
        print(f"{name}: {costs[name]}", tables[-1].drop(columns="way").round(3).to_string(), sep="\n", flush=True)
    sizes = {"people": people, "gallery": gallery, "train": train, "samples": samples}
    write_tables(tables, out, sizes=sizes, costs=costs)


if __name__ == "__main__":
    typer.run(main)
