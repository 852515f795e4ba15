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
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import pandas as pd
import torch
import typer
from jaxtyping import Float
from torch import Tensor

from w2w_lib.evaluation.attributes import AttributeClassifier, mean_auc, varying
from w2w_lib.evaluation.base_quality import prompted_attributes
from w2w_lib.evaluation.edits import flipped
from w2w_lib.evaluation.intervals import Interval, mean, over_people, pseudo_values
from w2w_lib.evaluation.lineup import Lineup
from w2w_lib.evaluation.portraits import portraits, prompts_with_seeds
from w2w_lib.evaluation.trial import Trial
from w2w_lib.evaluation.visibility import editable
from w2w_lib.files.atomic import write_text
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.lora.prompt_reach import TOGETHER, prompt_reach
from w2w_lib.models.base import open_base
from w2w_lib.models.denoising import denoising_loss, draw_rows, stream
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.prompts import encode_prompts
from w2w_lib.people.people_set import People
from w2w_lib.space.controls import random_step
from w2w_lib.space.directions import fit_directions
from w2w_lib.space.edits import opposite_strengths
from w2w_lib.space.weight_space import WeightSpace
from w2w_lib.training.variants import FleetVariants, encoded_class_pictures
from w2w_lib.training.weights_dataset import WeightsDataset
from w2w_lib.workbook import paths
from w2w_lib.workbook.sections import Profile
from w2w_lib.workbook.settings import load

OBEYS = 0.95  # AUC from which an attribute follows the prompt
FIRST_SEED = 20_000  # of prompted pictures, as in notebook 00
EDITED = ("Male", "Young", "Eyeglasses", "Chubby")
DRAWS = 16  # of noise and timestep for each person, to measure the use of captions
ADDED = "BA c"  # what adapters add to keys and values, see prompt_reach
GROUPS = 12  # of people, of whom one at a time is left out


# ---------------------------------------------------------------- numbers with intervals
class Measured(Protocol):
    """What gives numbers, and by how much they are above those of a reference of the same people."""

    def numbers(self, reference: "Measured | None" = None) -> dict[str, Interval]: ...


@dataclass(frozen=True)
class Scores:
    """A statistic of each of the named scores: one or several arrays with a row for each person."""

    of: dict[str, tuple[np.ndarray, ...]]
    statistic: Callable[..., float] = mean

    def numbers(self, reference: "Scores | None" = None) -> dict[str, Interval]:
        if reference is None:
            return {name: over_people(*own, statistic=self.statistic) for name, own in self.of.items()}
        pairs = {name: (*own, *reference.of[name]) for name, own in self.of.items()}
        return {name: over_people(*both, statistic=self._difference) for name, both in pairs.items()}

    def _difference(self, *groups: np.ndarray) -> float:
        half = len(groups) // 2
        return self.statistic(*groups[:half]) - self.statistic(*groups[half:])


def table(found: dict[str, Measured], first: dict[str, Measured] | None) -> pd.DataFrame:
    """A row for each number with its interval, and with its difference from the first base's if that is given."""
    rows = []
    for part, measured in found.items():
        above = measured.numbers(first[part]) if first else {}
        for name, one in measured.numbers().items():
            difference = above[name].named("difference") if first else {}
            rows.append({"part": part, "measure": name} | one.named("value") | difference)
    return pd.DataFrame(rows)


# ---------------------------------------------------------------- what all bases have in common, and one of them
@dataclass(frozen=True)
class World:
    """People and judges. Adapters of the first ``fitted`` of ``train`` make a space; all others are held back."""

    profile: Profile
    val: People
    train: People
    fitted: int
    unseen: People  # other pictures of val people, and of further ones
    pictures: int  # for each prompt
    least: int  # held-back people with a label, and without it

    @cached_property
    def lineup(self) -> Lineup:
        return Lineup.of(self.unseen)

    @cached_property
    def classifier(self) -> AttributeClassifier:
        return AttributeClassifier.load(paths.ATTRIBUTE_CLASSIFIER)

    @property
    def held_back(self) -> list[str]:
        return self.train.ids[self.fitted :] + self.val.ids

    @cached_property
    def labels(self) -> pd.DataFrame:
        return pd.concat([self.train.labels, self.val.labels])


def rendered(work: Path, split: str, count: int, views: int, size: int, first_view: int = 0) -> People:
    """As ``People.render``, kept in the work folder."""
    folder = work / "people" / f"{split}_{count}_{first_view}-{first_view + views}_{size}"
    if not folder.exists():
        People.render(split, count, views, size, first_view).save(folder)
    return People.load(folder)


class Base:
    """A base model, and the adapters of everybody on it."""

    def __init__(self, folder: Path, world: World, work: Path):
        self.world, settings = world, world.profile.finetune
        self.pipeline = open_base(folder, torch.bfloat16)
        name = fingerprint(self.pipeline)
        self.layout = AdapterLayout.of(self.pipeline.unet, name, settings.targets, settings.rank, settings.alpha)
        self.folder = work / name
        self.val_latents = world.val.latents(self.pipeline)

    @cached_property
    def adapters(self) -> WeightsDataset:
        """Everybody's; those that are not there yet are trained now."""
        world, settings = self.world, self.world.profile.finetune
        sampling, kind = settings.evaluate.sampling, settings.recipe.instance_prompt
        drawn = kind, settings.prior_images, world.val.contexts(), sampling
        prior = {kind: encoded_class_pictures(self.pipeline, *drawn)}
        contexts = world.train.contexts() | world.val.contexts()
        fleets = FleetVariants(self.pipeline, self.layout, settings.recipe, prior, settings.checkpointing, contexts)
        fleet = fleets.fleet(compiled=settings.compiled and bool(shutil.which("g++")))
        dataset = fleet.dataset(self.folder, {"prior_images": settings.prior_images, "prior": vars(sampling)})
        latents = self.val_latents | world.train.latents(self.pipeline)
        seen = world.train.fingerprints() | world.val.fingerprints()
        fleet.train_all(latents, dataset, settings.fleet_size, settings.workers, seen)
        return dataset

    @cached_property
    def space(self) -> WeightSpace:
        ids = self.world.train.ids[: self.world.fitted]
        return WeightSpace.fit(self.layout, self.adapters.weights(ids), ids)


# ---------------------------------------------------------------- the measurements
def measure(base: Base) -> dict[str, Measured]:
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


def prompt_logits(base: Base) -> Float[np.ndarray, "seeds attributes 2"]:
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
def caption_losses(base: Base) -> tuple[Float[np.ndarray, " people"], Float[np.ndarray, " people"]]:
    """Denoising loss of val people's pictures with their own captions, and with the next person's."""
    pipeline, people = base.pipeline, base.world.val
    said = people.pictures.groupby("id", sort=False)["caption_full"].apply(list)
    states = {i: encode_prompts(pipeline, captions) for i, captions in said.items()}
    steps, losses = (0, pipeline.scheduler.config.num_train_timesteps), []
    for own, other in zip(people.ids, np.roll(people.ids, -1), strict=True):
        latents = base.val_latents[own]
        rows, noise, timesteps = draw_rows(stream(0, own), latents, DRAWS, steps)
        loss = partial(denoising_loss, pipeline.unet, pipeline.scheduler, latents[rows], noise, timesteps)
        losses.append([float(loss(states[i][rows]).mean()) for i in (own, other)])
    return tuple(np.array(losses).T)


def likeness(base: Base) -> Measured:
    """Pictures by val people's models in the line-up of pictures that no adapter has seen."""
    evaluation, ids = base.world.profile.finetune.evaluate, base.world.val.ids
    seeds = prompts_with_seeds(evaluation.prompts, evaluation.first_seed, evaluation.images)
    trial = Trial(base.pipeline, base.world.lineup, seeds, evaluation.sampling)
    return trial.judge(base.layout, base.adapters.weights(ids), ids)


def label_scores(base: Base) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores of held-back people's adapters for each label, with the labels: all together, and one by one."""
    world = base.world
    labels = world.labels.loc[world.held_back]
    enough = labels.columns[(labels.sum() >= world.least) & ((~labels).sum() >= world.least)]
    enough = varying(world.labels.loc[base.space.ids], enough)
    directions = fit_directions(base.space, world.labels[enough], method="class means")
    coefficients = base.space.project(base.adapters.weights(world.held_back))
    scores = np.stack([directions[a].scores(base.space, coefficients).numpy() for a in enough], 1)
    truths = labels[enough].to_numpy(bool)
    return {"mean": (scores, truths)} | {a: (scores[:, [k]], truths[:, [k]]) for k, a in enumerate(enough)}


def edit_success(base: Base) -> dict[str, tuple[np.ndarray]]:
    """Whether the classifier's decision changes, for each val person: by edits, and by random steps of their length.

    As in notebook 04: from what the picture shows to the opposite, at the profile's strength.
    """
    world, space, settings = base.world, base.space, base.world.profile.edit
    shot, weights = prompts_with_seeds(settings.prompts, settings.first_seed, 1), base.adapters.weights(world.val.ids)

    def logits(own: Float[Tensor, "models d"]) -> pd.DataFrame:
        images = portraits(base.pipeline, base.layout, own, shot, settings.sampling, progress=False)
        return world.classifier.logits(images[:, 0])

    labels = world.labels.loc[space.ids]
    directions = fit_directions(space, labels[editable(labels, settings.attributes)], seed=settings.seed)
    before, found = logits(weights), {"edit": {}, "random": {}}
    for k, attribute in enumerate(a for a in EDITED if a in directions):
        direction = directions[attribute]
        alpha = opposite_strengths(direction, (before[attribute] > 0).to_numpy(), settings.strength)[:, None]
        steps = {"edit": direction.step(space), "random": random_step(space, direction, settings.seed + k)}
        for kind, step in steps.items():
            turned = flipped(before, logits(weights + alpha * step), attribute)
            found[kind][attribute] = turned.astype(float)
    means = {f"mean, {kind}": (np.mean(list(own.values()), axis=0),) for kind, own in found.items()}
    return means | {f"{a}, {kind}": (turned,) for kind, own in found.items() for a, turned in own.items()}


def reach(base: Base) -> dict[str, tuple[np.ndarray]]:
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
    sets = settings.people.sets
    draw = partial(rendered, work, size=sets.size)
    world = World(
        settings,
        val=draw("val", people, sets.views),
        train=draw("train", train + others, sets.views),
        fitted=train,
        unseen=draw("val", gallery, sets.unseen, first_view=sets.views),
        pictures=pictures,
        least=least,
    )
    tables, first = [], None
    for folder in bases:
        found = measure(Base(folder, world, work))
        tables.append(table(found, first).assign(base=folder.name, text=text_objective(folder)))
        first = first or found
        print(tables[-1].drop(columns="base").round(3).to_string())
    sizes = {"people": people, "gallery": gallery, "train": train, "held back": people + others, "seeds": pictures}
    rows = json.loads(pd.concat(tables).to_json(orient="records"))
    write_text(json.dumps({"sizes": sizes, "rows": rows}, indent=1) + "\n", out)


def text_objective(folder: Path) -> str:
    """How the base's text encoder was trained, by the record of the base's training."""
    return json.loads((folder / "training.json").read_text(encoding="utf-8"))["recipe"]["text_objective"]


if __name__ == "__main__":
    typer.run(main)
