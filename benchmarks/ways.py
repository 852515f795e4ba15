"""One way to train a world's people on a base: their adapters, the space of them, and what is measured of both."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from w2w_lib.evaluation.attributes import AttributeClassifier, varying
from w2w_lib.evaluation.edits import flipped
from w2w_lib.evaluation.intervals import Interval, mean, over_people
from w2w_lib.evaluation.lineup import Lineup
from w2w_lib.evaluation.portraits import portraits, prompts_with_seeds
from w2w_lib.evaluation.trial import Outcome, Trial
from w2w_lib.evaluation.visibility import editable
from w2w_lib.files.atomic import write_text
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.people.people_set import People
from w2w_lib.space.controls import random_step
from w2w_lib.space.directions import fit_directions
from w2w_lib.space.edits import opposite_strengths
from w2w_lib.space.weight_space import WeightSpace
from w2w_lib.training.variants import FleetVariants, encoded_class_pictures
from w2w_lib.training.weights_dataset import WeightsDataset
from w2w_lib.workbook import paths
from w2w_lib.workbook.sections import Profile

EDITED = ("Male", "Young", "Eyeglasses", "Chubby")


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
    """A row for each number with its interval, and with its difference from the first way's if that is given."""
    rows = []
    for part, measured in found.items():
        above = measured.numbers(first[part]) if first else {}
        for name, one in measured.numbers().items():
            difference = above[name].named("difference") if first else {}
            rows.append({"part": part, "measure": name} | one.named("value") | difference)
    return pd.DataFrame(rows)


def write_tables(tables: list[pd.DataFrame], out: Path, **about: Any) -> None:
    """The rows of all tables as JSON, after what is said about them."""
    rows = json.loads(pd.concat(tables).to_json(orient="records"))
    write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n", out)


# ---------------------------------------------------------------- what all ways have in common, and one of them
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


class Way:
    """A base, and the adapters of everybody on it, trained by the profile's recipe with some changes.

    ``changes`` are those of ``FleetVariants.fleet``.
    """

    def __init__(
        self, pipeline: StableDiffusionPipeline, world: World, folder: Path, changes: Mapping[str, Any] | None = None
    ):
        self.pipeline, self.world, self.folder, self.changes = pipeline, world, folder, dict(changes or {})

    @cached_property
    def adapters(self) -> WeightsDataset:
        """Everybody's; those that are not there yet are trained now."""
        world, settings = self.world, self.world.profile.finetune
        sampling = settings.evaluate.sampling
        kind = self.changes.get("instance_prompt", settings.recipe.instance_prompt)
        drawn = kind, settings.prior_images, world.val.contexts(), sampling
        prior = {kind: encoded_class_pictures(self.pipeline, *drawn)}
        base = fingerprint(self.pipeline)
        layout = AdapterLayout.of(self.pipeline.unet, base, settings.targets, settings.rank, settings.alpha)
        people = [first_pictures(one, self.changes.get("views")) for one in (world.train, world.val)]
        contexts, latents, seen = {}, {}, {}
        for one in people:
            contexts |= one.contexts()
            latents |= one.latents(self.pipeline)
            seen |= one.fingerprints()
        fleets = FleetVariants(self.pipeline, layout, settings.recipe, prior, settings.checkpointing, contexts)
        fleet = fleets.fleet(compiled=settings.compiled and bool(shutil.which("g++")), **self.changes)
        dataset = fleet.dataset(self.folder, {"prior_images": settings.prior_images, "prior": vars(sampling)})
        fleet.train_all(latents, dataset, settings.fleet_size, settings.workers, seen)
        return dataset

    @property
    def layout(self) -> AdapterLayout:
        return self.adapters.layout

    @cached_property
    def space(self) -> WeightSpace:
        ids = self.world.train.ids[: self.world.fitted]
        return WeightSpace.fit(self.layout, self.adapters.weights(ids), ids)


def world(
    profile: Profile,
    work: Path,
    people: int,
    gallery: int,
    train: int,
    least: int,
    others: int = 0,
    pictures: int = 0,
) -> World:
    """Rendered people for ``Way``: ``val`` ones, who get adapters and edits, a gallery of them, and ``train`` ones."""
    sets = profile.people.sets
    draw = partial(rendered, work, size=sets.size)
    return World(
        profile,
        val=draw("val", people, sets.views),
        train=draw("train", train + others, sets.views),
        fitted=train,
        unseen=draw("val", gallery, sets.unseen, first_view=sets.views),
        pictures=pictures,
        least=least,
    )


def first_pictures(people: People, views: int | None) -> People:
    """The people with their first pictures alone, so many of each; with all of them for None."""
    if views is None:
        return people
    kept = (people.pictures.groupby("id", sort=False).cumcount() < views).to_numpy()
    return People(people.images[kept], people.pictures[kept].reset_index(drop=True), people.labels)


# ---------------------------------------------------------------- the measurements
def likeness(way: Way) -> Outcome:
    """Pictures by val people's models in the line-up of pictures that no adapter has seen."""
    evaluation, ids = way.world.profile.finetune.evaluate, way.world.val.ids
    seeds = prompts_with_seeds(evaluation.prompts, evaluation.first_seed, evaluation.images)
    trial = Trial(way.pipeline, way.world.lineup, seeds, evaluation.sampling)
    return trial.judge(way.layout, way.adapters.weights(ids), ids)


def label_scores(way: Way) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Scores of held-back people's adapters for each label, with the labels: all together, and one by one."""
    world = way.world
    labels = world.labels.loc[world.held_back]
    enough = labels.columns[(labels.sum() >= world.least) & ((~labels).sum() >= world.least)]
    enough = varying(world.labels.loc[way.space.ids], enough)
    directions = fit_directions(way.space, world.labels[enough], method="class means")
    coefficients = way.space.project(way.adapters.weights(world.held_back))
    scores = np.stack([directions[a].scores(way.space, coefficients).numpy() for a in enough], 1)
    truths = labels[enough].to_numpy(bool)
    return {"mean": (scores, truths)} | {a: (scores[:, [k]], truths[:, [k]]) for k, a in enumerate(enough)}


def edit_success(way: Way) -> dict[str, tuple[np.ndarray]]:
    """Whether the classifier's decision changes, for each val person: by edits, and by random steps of their length.

    As in notebook 04: from what the picture shows to the opposite, at the profile's strength.
    """
    world, space, settings = way.world, way.space, way.world.profile.edit
    shot, weights = prompts_with_seeds(settings.prompts, settings.first_seed, 1), way.adapters.weights(world.val.ids)

    def logits(own: Float[Tensor, "models d"]) -> pd.DataFrame:
        images = portraits(way.pipeline, way.layout, own, shot, settings.sampling, progress=False)
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
