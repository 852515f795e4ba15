"""Does a personalised model paint its person? Generated pictures against real ones, by dlib's embedder."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from sklearn.metrics import roc_auc_score

from w2w_lib.evaluation.faces import embed_faces
from w2w_lib.people.people_set import People

RESAMPLES = 100  # of the people, for a standard error


@dataclass(frozen=True)
class Faces:
    """Embeddings of pictures and whose they are."""

    embeddings: Float[np.ndarray, "pictures dim"]
    people: np.ndarray
    found: np.ndarray

    @classmethod
    def of(cls, people: People, ids: list[str], views: int) -> "Faces":
        """The first ``views`` pictures of each identity, or as many as there are."""
        images = [people.of(i)[:views] for i in ids]
        embeddings, found = embed_faces(np.concatenate(images))
        return cls(embeddings, np.repeat(ids, [len(own) for own in images]), found)

    def templates(self) -> tuple[list[str], Float[np.ndarray, "people dim"]]:
        """The mean embedding of each person."""
        ids = list(dict.fromkeys(self.people))
        return ids, np.stack([self.embeddings[self.people == i].mean(0) for i in ids])


def verify(
    images: UInt8[np.ndarray, "models prompts height width 3"], ids: list[str], real: Faces, seed: int = 0
) -> dict[str, float]:
    """How well generated pictures are told to be their own person among all.

    AUC and its standard error over people (the models drawn with replacement, time and again), the share of pictures
    whose nearest person is their own (rank-1), mean ID score, share of pictures with a face found.
    """
    embeddings, found = embed_faces(images.reshape(-1, *images.shape[2:]))
    people = np.repeat(ids, images.shape[1])
    names, templates = real.templates()
    nearest = np.linalg.norm(embeddings[:, None] - templates[None], axis=-1).argmin(1)
    own = templates[[names.index(p) for p in people]]
    return {
        "auc": verification_auc(embeddings, people, real.embeddings, real.people),
        "auc_error": _auc_error(embeddings.reshape(*images.shape[:2], -1), ids, real, np.random.default_rng(seed)),
        "rank1": float((np.array(names)[nearest] == people).mean()),
        "id_score": float(id_score(embeddings, own).mean()),
        "detected": float(found.mean()),
    }


def _auc_error(embeddings: Float[np.ndarray, "models prompts dim"], ids: list[str], real: Faces, rng) -> float:
    aucs = []
    for _ in range(RESAMPLES):
        drawn = rng.integers(len(ids), size=len(ids))
        if len(set(drawn)) < 2:  # of very few people; there is nobody to tell them from
            continue
        people = np.repeat(np.array(ids)[drawn], embeddings.shape[1])
        chosen = np.isin(real.people, people)
        pictures = embeddings[drawn].reshape(len(people), -1)
        aucs.append(verification_auc(pictures, people, real.embeddings[chosen], real.people[chosen]))
    return float(np.std(aucs))


def id_score(a: Float[np.ndarray, "*batch dim"], b: Float[np.ndarray, "*batch dim"]) -> Float[np.ndarray, "*batch"]:
    """Cosine similarity of embeddings, the paper's ID score (Dravid et al. 2024, §4.3)."""
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def verification_auc(
    embeddings: Float[np.ndarray, "n dim"],
    people: np.ndarray,
    others: Float[np.ndarray, "m dim"] | None = None,
    other_people: np.ndarray | None = None,
) -> float:
    """Area under the ROC curve of 'same person?' from embedding distance, over all pairs.

    With one set, all unordered pairs within it; with two (say generated and real), all pairs across.
    """
    if others is None:
        first, second = np.triu_indices(len(embeddings), 1)
        distance = np.linalg.norm(embeddings[first] - embeddings[second], axis=1)
        same = people[first] == people[second]
    else:
        distance = np.linalg.norm(embeddings[:, None] - others[None], axis=-1).ravel()
        same = (people[:, None] == other_people[None]).ravel()
    return float(roc_auc_score(same, -distance))


def consistency(embeddings: Float[np.ndarray, "models shots dim"]) -> float:
    """AUC of 'same model?' over all pairs of pictures: 0.5 if the models cannot be told apart."""
    models, count, width = embeddings.shape
    return verification_auc(embeddings.reshape(-1, width), np.repeat(np.arange(models), count))


def diversity(embeddings: Float[np.ndarray, "models shots dim"]) -> float:
    """Mean distance between two pictures by the same model."""
    first, second = np.triu_indices(embeddings.shape[1], 1)
    return float(np.linalg.norm(embeddings[:, first] - embeddings[:, second], axis=-1).mean())
