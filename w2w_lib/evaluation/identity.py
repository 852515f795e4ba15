"""Does a personalised model paint its person? Generated pictures against real ones, by embeddings of their faces."""

from collections.abc import Hashable, Sequence, Sized
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics import roc_auc_score

from w2w_lib.evaluation.faces import embed_faces
from w2w_lib.evaluation.pictures import as_pictures, finite_embeddings
from w2w_lib.inputs import instance, nearest, whole_number
from w2w_lib.people.people_set import People

RESAMPLES = 100  # of the people, for a standard error


@dataclass(frozen=True)
class Faces:
    """Embeddings of pictures, whose they are, and whether a face was found; ValueError where these do not fit."""

    embeddings: Float[np.ndarray, "pictures dim"]
    people: np.ndarray
    found: np.ndarray

    def __post_init__(self):
        object.__setattr__(self, "embeddings", finite_embeddings(self.embeddings, "faces", axes=2))
        for name in ("people", "found"):
            object.__setattr__(self, name, np.asarray(getattr(self, name)))
        if self.people.ndim != 1 or self.found.ndim != 1 or self.found.dtype != bool:
            raise ValueError("faces: expected a list of names and one of True and False, a face found or not")
        if not len(self.embeddings) == len(self.people) == len(self.found):
            raise ValueError(
                f"faces: {len(self.embeddings)} embeddings, {len(self.people)} names, {len(self.found)} flags: "
                "expected one of each for every picture"
            )

    @classmethod
    def of(cls, people: People, ids: Sequence[str], views: int, skip: int = 0) -> "Faces":
        """``views`` pictures of each identity after the first ``skip``, or as many as there are, but one at least.

        ValueError for unknown names.
        """
        views, skip = whole_number("views", views), whole_number("skip", skip, 0)
        instance("people", people, People)
        _check_names(ids, people.ids)
        images = [own[skip:][:views] if len(own := people.of(i)) > skip else own[-1:] for i in ids]
        embeddings, found = embed_faces(np.concatenate(images))
        return cls(embeddings, np.repeat(ids, [len(own) for own in images]), found)

    def templates(self) -> tuple[list[str], Float[np.ndarray, "people dim"]]:
        """The mean embedding of each person."""
        ids = list(dict.fromkeys(self.people))
        return ids, np.stack([self.embeddings[self.people == i].mean(0) for i in ids])


def verify(
    images: UInt8[np.ndarray, "models prompts height width 3"], ids: Sequence[str], real: Faces, seed: int = 0
) -> dict[str, float]:
    """How well generated pictures are told to be their own person among all.

    AUC and its standard error over people (the models drawn with replacement, ``RESAMPLES`` times), the share of
    pictures whose nearest person is their own (rank-1), mean ID score, share of pictures with a face found. AUC and
    error are NaN where there is a single person. ValueError where there is not a name for each model, or no real
    picture of one.
    """
    images = as_pictures(images, "models prompts height width 3")
    instance("real", real, Faces), whole_number("seed", seed, 0)
    names, templates = real.templates()
    _check_names(ids, names)
    if len(images) != len(ids) or not images.shape[1]:
        raise ValueError(
            f"{len(ids)} names for pictures of shape {images.shape}: expected a name for each model, and at least one "
            "picture by each"
        )
    embeddings, found = embed_faces(images.reshape(-1, *images.shape[2:]))
    _check_widths(embeddings, templates)
    people = np.repeat(ids, images.shape[1])
    closest = cdist(embeddings, templates).argmin(1)
    own = templates[[names.index(p) for p in people]]
    return {
        "auc": verification_auc(embeddings, people, real.embeddings, real.people),
        "auc_error": _auc_error(embeddings.reshape(*images.shape[:2], -1), ids, real, np.random.default_rng(seed)),
        "rank1": float((np.array(names)[closest] == people).mean()),
        "id_score": float(id_score(embeddings, own).mean()),
        "detected": float(found.mean()),
    }


def _check_names(ids: Sequence[str], known: Sequence[str]) -> None:
    if isinstance(ids, str) or not isinstance(ids, Sized) or not len(ids):
        raise ValueError(f"names {ids!r}: expected a list of at least one identity")
    there = set(known)
    if unknown := [i for i in ids if not isinstance(i, Hashable) or i not in there]:
        raise ValueError(f"no real pictures of {unknown[0]!r}{nearest(str(unknown[0]), map(str, known))}")


def _auc_error(embeddings: Float[np.ndarray, "models prompts dim"], ids: list[str], real: Faces, rng) -> float:
    aucs = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(ids), size=len(ids))
        if len(set(drawn)) < 2:  # all of one person: there is no other to compare with
            continue
        people = np.repeat(np.array(ids)[drawn], embeddings.shape[1])
        chosen = np.isin(real.people, people)
        pictures = embeddings[drawn].reshape(len(people), -1)
        aucs.append(verification_auc(pictures, people, real.embeddings[chosen], real.people[chosen]))
    return float(np.std(aucs)) if aucs else float("nan")


def id_score(a: Float[np.ndarray, "*batch dim"], b: Float[np.ndarray, "*#batch dim"]) -> Float[np.ndarray, "*_"]:
    """Cosine similarity of embeddings, the paper's ID score (Dravid et al. 2024, §4.3); NaN for a vector of zeros."""
    a, b = finite_embeddings(a, "ID score"), finite_embeddings(b, "ID score")
    pairs = zip(a.shape[-2::-1], b.shape[-2::-1], strict=False)
    if a.shape[-1] != b.shape[-1] or any(n != m and 1 not in (n, m) for n, m in pairs):
        raise ValueError(f"ID score: embeddings of shapes {a.shape} and {b.shape}: expected as many of as many numbers")
    with np.errstate(invalid="ignore"):
        return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def verification_auc(
    embeddings: Float[np.ndarray, "n dim"],
    people: np.ndarray,
    others: Float[np.ndarray, "m dim"] | None = None,
    other_people: np.ndarray | None = None,
) -> float:
    """Area under the ROC curve of 'same person?' from embedding distance, over all pairs.

    With one set, all unordered pairs within it; with two (say generated and real), all pairs across. NaN where all
    pairs are of one person, or none is. ValueError where there is not a name for each embedding.
    """
    embeddings, people = _with_names(embeddings, people)
    if others is None:
        first, second = np.triu_indices(len(embeddings), 1)
        distance, same = pdist(embeddings), people[first] == people[second]
    else:
        others, other_people = _with_names(others, other_people)
        _check_widths(embeddings, others)
        distance, same = cdist(embeddings, others).ravel(), (people[:, None] == other_people[None]).ravel()
    if same.all() or not same.any():
        return float("nan")
    return float(roc_auc_score(same, -distance))


def _check_widths(embeddings: Float[np.ndarray, "n dim"], others: Float[np.ndarray, "m other_dim"]) -> None:
    ours, theirs = embeddings.shape[1], others.shape[1]
    if ours != theirs:
        raise ValueError(
            f"verification: embeddings of {ours} and of {theirs} numbers: expected as many; measure both alike"
        )


def _with_names(
    embeddings: Float[np.ndarray, "n dim"], people: np.ndarray | None
) -> tuple[Float[np.ndarray, "n dim"], np.ndarray]:
    embeddings = finite_embeddings(embeddings, "verification", axes=2)
    people = np.asarray(people)
    if people.shape != embeddings.shape[:1]:
        raise ValueError(f"verification: {len(embeddings)} embeddings and names of shape {people.shape}")
    return embeddings, people


def consistency(embeddings: Float[np.ndarray, "models seeds dim"]) -> float:
    """AUC of 'same model?' over all pairs of pictures: 0.5 if the models cannot be told apart.

    NaN for a single model, and for a single picture by each.
    """
    embeddings = finite_embeddings(embeddings, "consistency", axes=3)
    models, count, width = embeddings.shape
    return verification_auc(embeddings.reshape(-1, width), np.repeat(np.arange(models), count))


def diversity(embeddings: Float[np.ndarray, "models seeds dim"]) -> float:
    """Mean distance between two pictures by the same model; NaN for a single picture by each."""
    if finite_embeddings(embeddings, "diversity", axes=3).shape[1] < 2:
        return float("nan")
    return float(np.mean([pdist(own) for own in embeddings]))
