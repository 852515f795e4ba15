"""Does the method need a text encoder in which attributes are planted? Any base folders, measured alike.

    python benchmarks/encoders.py my/contrastive my/planted
    python benchmarks/encoders.py my/base --people 3 --gallery 4 --train 12 --others 3 --pictures 2 --least 1  # a trial

For each base: whether prompts are obeyed, how alike adapters of `val` people are on pictures that they have not seen,
how well labels are read from adapters, how often edits succeed, and how much of the adapters' variance prompts reach.
Recipe, prompts, sampling and strength are the profile's. Each number has its 95% interval over people (over seeds where
prompts alone are painted), and for every base but the first the paired difference from that one.

Rendered people and each base's adapters are kept in the folder ``--work``: an interrupted run goes on there, and
``--train`` and ``--others`` may grow. Two cores take a quarter of an hour for two bases and 50 people.
"""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from jaxtyping import Float
from ways import Measured, Scores, Way, edit_success, label_scores, likeness, table, world, write_tables

from w2w_lib.evaluation.attributes import mean_auc
from w2w_lib.evaluation.base_quality import prompted_attributes
from w2w_lib.evaluation.intervals import pseudo_values
from w2w_lib.lora.prompt_reach import TOGETHER, prompt_reach
from w2w_lib.models.base import open_base
from w2w_lib.models.denoising import denoising_loss, draw_rows, stream
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.prompts import encode_prompts
from w2w_lib.workbook import paths
from w2w_lib.workbook.settings import load

OBEYS = 0.95  # AUC from which an attribute follows the prompt
FIRST_SEED = 20_000  # of prompted pictures, as in notebook 00
DRAWS = 16  # of noise and timestep for each person, to measure the use of captions
ADDED = "BA c"  # what adapters add to keys and values, see prompt_reach
GROUPS = 12  # of people, of whom one at a time is left out


# ---------------------------------------------------------------- the measurements
def measure(base: Way) -> dict[str, Measured]:
    """Everything that is measured of a base, by part of the table."""
    logits = (prompt_logits(base),)
    return {
        "obeyed": Scores({"attributes": logits}, lambda own: float((prompt_aucs(own) >= OBEYS).sum())),
        "prompts": Scores({"AUC": logits}, lambda own: float(prompt_aucs(own).mean())),
        "captions": Scores({"use": caption_losses(base)}, lambda right, wrong: 1 - right.mean() / wrong.mean()),
        "likeness": likeness(base),
        "labels": Scores(label_scores(base), mean_auc),
        "edits": Scores(edit_success(base)),
        "reach": Scores(reach(base)),
    }


def prompt_logits(base: Way) -> Float[np.ndarray, "seeds attributes 2"]:
    """The classifier's logit of each attribute in pictures prompted to have it, and in pictures prompted not to."""
    world = base.world
    seeds = range(FIRST_SEED, FIRST_SEED + world.pictures)
    pictures = prompted_attributes(base.pipeline, seeds, world.profile.base.training.evaluate.sampling)
    logits = [[world.classifier.logits(own)[name] for own in pair] for name, pair in pictures.items()]
    return np.moveaxis(np.array(logits), -1, 0)


def prompt_aucs(logits: Float[np.ndarray, "seeds attributes 2"]) -> Float[np.ndarray, " attributes"]:
    """Share of pairs in which the picture prompted to have the attribute has the higher logit; a tie counts half."""
    return (1 + np.sign(logits[:, None, :, 0] - logits[None, :, :, 1])).mean((0, 1)) / 2


@torch.no_grad()
def caption_losses(base: Way) -> tuple[Float[np.ndarray, " people"], Float[np.ndarray, " people"]]:
    """Denoising loss of val people's pictures with their own captions, and with the next person's."""
    pipeline, people = base.pipeline, base.world.val
    pictures = people.latents(pipeline)
    said = people.pictures.groupby("id", sort=False)["caption_full"].apply(list)
    states = {i: encode_prompts(pipeline, captions) for i, captions in said.items()}
    steps, losses = (0, pipeline.scheduler.config.num_train_timesteps), []
    for own, other in zip(people.ids, np.roll(people.ids, -1), strict=True):
        latents = pictures[own]
        rows, noise, timesteps = draw_rows(stream(0, own), latents, DRAWS, steps)
        loss = partial(denoising_loss, pipeline.unet, pipeline.scheduler, latents[rows], noise, timesteps)
        losses.append([float(loss(states[i][rows]).mean()) for i in (own, other)])
    return tuple(np.array(losses).T)


def reach(base: Way) -> dict[str, tuple[np.ndarray]]:
    """Shares of what adapters add to keys and values, all layers together (see ``prompt_reach``), by pseudo-values."""
    weights = base.adapters.weights(base.space.ids)
    captions = base.world.val.pictures["caption_full"].tolist()

    def shares(rows: np.ndarray) -> np.ndarray:
        found = prompt_reach(base.pipeline, base.layout, weights[rows], captions).loc[(TOGETHER, ADDED)]
        return found[["reached by prompts", "principal components", "random"]].to_numpy()

    values = pseudo_values(len(weights), shares, min(GROUPS, len(weights)))
    return dict(zip(("prompts", "principal components", "random"), ((own,) for own in values.T), strict=True))


def main(
    bases: Annotated[
        list[Path], typer.Argument(help="Folders of base models; the first is what others are compared with.")
    ],
    profile: Annotated[str, typer.Option(help="Whose recipe, prompts, sampling and strength.")] = "pocket",
    people: Annotated[int, typer.Option(help="Val people, who get adapters and edits.")] = 24,
    gallery: Annotated[int, typer.Option(help="People of the line-up.")] = 50,
    train: Annotated[int, typer.Option(help="Train people whose adapters make the space.")] = 300,
    others: Annotated[int, typer.Option(help="Further train people, on whom labels are read as on the val ones.")] = 36,
    pictures: Annotated[int, typer.Option(help="For each prompt.")] = 16,
    least: Annotated[int, typer.Option(help="Held-back people with a label, and without it, to read it.")] = 5,
    work: Annotated[Path, typer.Option(help="Where people and adapters are kept.")] = paths.OUTPUTS / "encoders",
    out: Annotated[Path, typer.Option(help="Where the numbers go, as JSON.")] = paths.ENCODERS,
) -> None:
    """Measure every base, print one table and write it."""
    settings = load(profile)
    judged_on = world(settings, work, people, gallery, train, least, others, pictures)
    tables, first = [], None
    for folder in bases:
        pipeline = open_base(folder, None)
        found = measure(Way(pipeline, judged_on, work / fingerprint(pipeline)))
        tables.append(table(found, first).assign(base=folder.name, text=text_objective(folder)))
        first = first or found
        print(tables[-1].drop(columns="base").round(3).to_string())
    sizes = {"people": people, "gallery": gallery, "train": train, "held back": people + others, "seeds": pictures}
    write_tables(tables, out, sizes=sizes)


def text_objective(folder: Path) -> str:
    """How the base's text encoder was trained, by the record of the base's training."""
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))["recipe"]["text_objective"]


if __name__ == "__main__":
    typer.run(main)
