"""A line-up: pictures by people's models against real ones, which no method has seen, of a gallery that holds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, UInt8
from scipy.spatial.distance import cdist
from sklearn.preprocessing import normalize

from w2w_lib.evaluation.faces import embed_faces
from w2w_lib.evaluation.identity import id_score
from w2w_lib.evaluation.intervals import Interval, over_people
from w2w_lib.evaluation.pictures import as_pictures, finite_embeddings
from w2w_lib.inputs import instance, nearest
from w2w_lib.people.people_set import People

# Who share all of these look alike at a glance: sex, skin, hair.
ALIKE = ("Male", "Pale_Skin", "Bald", "Black_Hair", "Brown_Hair", "Blond_Hair", "Gray_Hair")


@dataclass(frozen=True)
class Lineup:
    """Embeddings of real pictures, whose they are, and the labels of these people that say who looks alike.

    The size of the gallery (``ids``) decides how hard rank-1 is: compare only numbers of one gallery.
    """

    faces: Float[np.ndarray, "pictures dim"]
    people: np.ndarray
    labels: pd.DataFrame

    def __post_init__(self):
        finite_embeddings(self.faces, "line-up", axes=2)
        if len(self.people) != len(self.faces) or set(self.people) - set(self.labels.index):
            raise ValueError(f"line-up of {len(self.faces)} faces: expected a person with labels for each")

    @classmethod
    def of(cls, people: People) -> "Lineup":
        """The gallery of these people and all of their pictures."""
        instance("people", people, People)
        kinds = [name for name in ALIKE if name in people.labels]
        return cls(embed_faces(people.images)[0], people.pictures["id"].to_numpy(), people.labels[kinds])

    @property
    def ids(self) -> list[str]:
        return list(dict.fromkeys(self.people))

    @cached_property
    def strangers(self) -> float:
        """Mean cosine of two real pictures of different people: what normalised ID calls 0."""
        return float(np.nanmean(self._cosines[~self._same]))

    @cached_property
    def themselves(self) -> float:
        """Mean cosine of two real pictures of one person: what normalised ID calls 1; NaN with one picture of each."""
        own = self._cosines[self._same & ~np.eye(len(self.people), dtype=bool)]
        return float(own.mean()) if len(own) else float("nan")

    def judge(self, images: UInt8[np.ndarray, "models shots height width 3"], ids: Sequence[str]) -> "Judged":
        """What the line-up says of pictures by these people's models, in this order; ValueError for unknown people."""
        images = as_pictures(images, "models shots height width 3")
        embeddings, found = embed_faces(images.reshape(-1, *images.shape[2:]))
        shape = images.shape[:2]
        return Judged(self, list(ids), embeddings.reshape(*shape, -1), found.reshape(shape))

    @cached_property
    def _cosines(self) -> Float[np.ndarray, "pictures pictures"]:
        unit = normalize(self.faces)
        return unit @ unit.T

    @cached_property
    def _same(self) -> Bool[np.ndarray, "pictures pictures"]:
        return self.people[:, None] == self.people


@dataclass(frozen=True)
class Judged:
    """Pictures by people's models in a line-up; ``ids`` name the models, which are people of the gallery."""

    lineup: Lineup
    ids: list[str]
    embeddings: Float[np.ndarray, "models shots dim"]
    found: Bool[np.ndarray, "models shots"]  # a face

    def __post_init__(self):
        finite_embeddings(self.embeddings, "line-up", axes=3)
        if unknown := [i for i in self.ids if i not in set(self.lineup.people)]:
            raise ValueError(f"no real pictures of {unknown[0]!r}{nearest(unknown[0], self.lineup.ids)}")
        if len(set(self.ids)) < len(self.ids) or len(self.ids) != len(self.embeddings):
            raise ValueError(
                f"{len(self.ids)} names for {len(self.embeddings)} models: expected one of its own for each"
            )

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row for each person, means over the person's pictures.

        ``rank1``: the share whose nearest mean face of the gallery is the person's own. ``id_score``: cosine with the
        person's mean face. ``normalised_id``: mean cosine with the person's real pictures, 0 for two real pictures of
        strangers and 1 for two of one person. ``detected``: a face was found.
        """
        lineup, names = self.lineup, np.array(self.lineup.ids)
        templates = np.stack([lineup.faces[lineup.people == i].mean(0) for i in names])
        own = templates[[lineup.ids.index(i) for i in self.ids]]
        flat = self.embeddings.reshape(-1, self.embeddings.shape[2])
        closest = names[cdist(flat, templates).argmin(1)].reshape(self.found.shape)
        cosines = normalize(flat) @ normalize(lineup.faces).T
        same = np.where(self._own, cosines, np.nan).reshape(len(self.ids), -1)
        return pd.DataFrame(
            {
                "rank1": (closest == np.array(self.ids)[:, None]).mean(1),
                "id_score": id_score(self.embeddings, own[:, None]).mean(1),
                "normalised_id": (np.nanmean(same, 1) - lineup.strangers) / (lineup.themselves - lineup.strangers),
                "detected": self.found.mean(1),
            },
            self.ids,
        )

    def auc(self, models: np.ndarray, others: np.ndarray, alike: bool = False) -> float:
        """Probability that a generated picture is nearer to a real one of its person than one is of two people.

        Among the people with a model, so that pictures which are the same for everybody have 0.5. Where people must be
        ``alike``, a person is compared with everybody in the gallery who has the same labels, and not at all without
        its like. ``models`` and ``others`` (people of the gallery without a model) are positions, each as often as it
        was drawn. NaN where nobody is left.
        """
        drawn = np.bincount(models, minlength=len(self.ids))
        people = dict(zip(self.ids, drawn, strict=True))
        people |= dict(zip(self._others, np.bincount(others, minlength=len(self._others)), strict=True))
        of_models = np.repeat(drawn, self.embeddings.shape[1])[:, None]
        gallery = np.array([people[i] for i in self.lineup.people])
        different = self._alike if alike else ~self._own & np.isin(self.lineup.people, self.ids)
        genuine = self._own & (different * gallery).any(1, keepdims=True)
        levels = self._levels.max() + 1
        hits = np.bincount(self._levels[genuine], np.broadcast_to(of_models, genuine.shape)[genuine], levels)
        misses = np.bincount(self._levels[different], (of_models * gallery)[different], levels)
        if not hits.sum() or not misses.sum():
            return float("nan")
        farther = misses[::-1].cumsum()[::-1] - misses / 2  # a tie counts half
        return float(hits @ farther / hits.sum() / misses.sum())

    def summary(self) -> dict[str, Interval]:
        """AUC, AUC among people who look alike, and the means of the scores, each with its interval."""
        return compared(self)

    @cached_property
    def _others(self) -> list[str]:
        return [i for i in self.lineup.ids if i not in set(self.ids)]

    @cached_property
    def _pictured(self) -> np.ndarray:
        return np.repeat(self.ids, self.embeddings.shape[1])

    @cached_property
    def _own(self) -> Bool[np.ndarray, "pictures gallery"]:
        return self._pictured[:, None] == self.lineup.people

    @cached_property
    def _alike(self) -> Bool[np.ndarray, "pictures gallery"]:
        """Different people with the same labels; nobody where there are no labels to tell."""
        if self.lineup.labels.empty:
            return np.zeros_like(self._own)
        kinds = self.lineup.labels.groupby(list(self.lineup.labels)).ngroup()
        return (kinds[self._pictured].to_numpy()[:, None] == kinds[self.lineup.people].to_numpy()) & ~self._own

    @cached_property
    def _levels(self) -> np.ndarray:
        """Every distance's place among the different ones."""
        flat = self.embeddings.reshape(-1, self.embeddings.shape[2])
        distances = cdist(flat, self.lineup.faces)
        return np.unique(distances, return_inverse=True)[1].reshape(distances.shape)


def compared(judged: Judged, reference: Judged | None = None) -> dict[str, Interval]:
    """What ``Judged.summary`` says of the first, or by how much it is above the second, of the same people.

    Intervals are over people: those with a model and the others of the gallery are drawn each on their own, for both
    methods alike. ValueError where the two are of other people or of another gallery.
    """
    instance("judged", judged, Judged)
    if reference is not None and (judged.ids != reference.ids or judged.lineup is not reference.lineup):
        raise ValueError("two methods to compare: expected pictures of the same people in the same line-up")
    rows = (np.arange(len(judged.ids)), np.arange(len(judged._others)))
    found = {}
    for name, alike in {"auc": False, "alike_auc": True}.items():

        def difference(models, others=rows[1][:0], alike=alike) -> float:
            below = reference.auc(models, others, alike) if reference else 0.0
            return judged.auc(models, others, alike) - below

        found[name] = over_people(*(r for r in rows if len(r)), statistic=difference, paired=False)
    scores = judged.scores if reference is None else judged.scores - reference.scores
    return found | {name: over_people(scores[name].to_numpy()) for name in scores}


def verdicts(judged: dict[str, Judged]) -> pd.DataFrame:
    """A table of texts, one row for each method: what ``Judged.summary`` says."""
    rows = {name: {k: str(v) for k, v in one.summary().items()} for name, one in judged.items()}
    return pd.DataFrame.from_dict(rows, orient="index")


def among_themselves(
    embeddings: Float[np.ndarray, "models shots dim"], found: Bool[np.ndarray, "models shots"]
) -> Judged:
    """The first half of each model's pictures in a line-up of the other half of all models'.

    Its AUC is the consistency of models that belong to nobody: 0.5 if they cannot be told apart. ValueError for a
    single picture by each.
    """
    models, shots, dim = finite_embeddings(embeddings, "models", axes=3).shape
    if shots < 2:
        raise ValueError("one picture by each model: expected at least 2, to compare with each other")
    half, names = shots // 2, [f"model {k + 1}" for k in range(models)]
    rest = embeddings[:, half:].reshape(-1, dim)
    gallery = Lineup(rest, np.repeat(names, shots - half), pd.DataFrame(index=pd.Index(names)))
    return Judged(gallery, names, embeddings[:, :half], found[:, :half])


def first_as_good(tried: Mapping[str, Judged]) -> str:
    """The name of the first method that is not worse than the last one: whose AUC's difference may be 0 or above."""
    instance("tried", tried, Mapping)
    last = list(tried.values())[-1]
    return next(name for name, one in tried.items() if one is last or not compared(one, last)["auc"].high < 0)
