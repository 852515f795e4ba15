"""How alike faces are, by their embeddings: ID score, verification, diversity."""

import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist, pdist
from sklearn.metrics import roc_auc_score

from w2w_lib.evaluation.pictures import finite_embeddings


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


def diversity(embeddings: Float[np.ndarray, "models seeds dim"]) -> float:
    """Mean distance between two pictures by the same model; NaN for a single picture by each."""
    if finite_embeddings(embeddings, "diversity", axes=3).shape[1] < 2:
        return float("nan")
    return float(np.mean([pdist(own) for own in embeddings]))
