"""Is it still the same person after an edit? The paper's ID score, raw and on a scale from strangers to the same."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from w2w_lib.evaluation.face_embedders import FaceEmbeddings
from w2w_lib.evaluation.identity import id_score
from w2w_lib.inputs import finite_number, instance


@dataclass(frozen=True)
class IdentityScale:
    """The mean cosines of pictures of two people and of one person, by one back end; ValueError unless these differ."""

    back_end: str
    strangers: float
    same: float

    def __post_init__(self):
        if not finite_number("strangers", self.strangers) < finite_number("same", self.same):
            raise ValueError(
                f"{self.back_end}: the mean cosine of strangers is {self.strangers:.3g}, that of the same person "
                f"{self.same:.3g}: expected it to be larger; this back end cannot tell these people apart"
            )

    @classmethod
    def fitted(cls, faces: FaceEmbeddings) -> "IdentityScale":
        """The scale of some people, each with several pictures: embeddings (people, shots, dim).

        All pairs of pictures in which a face was found count alike. ValueError where there is no pair of two people, or
        none of one person.
        """
        instance("faces", faces, FaceEmbeddings)
        if faces.embeddings.ndim != 3:
            raise ValueError(f"faces of shape {faces.embeddings.shape}: expected (people, shots, dim); reshape them")
        with np.errstate(invalid="ignore"):
            unit = faces.embeddings / np.linalg.norm(faces.embeddings, axis=-1, keepdims=True)
        unit, shots = np.where(faces.found[..., None], unit, 0), faces.found.sum(1)
        # Of vectors of length 1, |sum|² is their number and twice the sum of the cosines of all pairs.
        own, people = unit.sum(1), shots.sum()
        of_same, of_all = (own**2).sum() - people, (own.sum(0) ** 2).sum() - people
        same, pairs = (shots * (shots - 1)).sum(), people * (people - 1)
        if not same or pairs == same:
            raise ValueError(
                f"faces found in {shots.tolist()} pictures of these people: expected two of somebody, and two people"
            )
        return cls(faces.back_end, float((of_all - of_same) / (pairs - same)), float(of_same / same))

    def calibrated(self, raw: Float[np.ndarray, "*batch"]) -> Float[np.ndarray, "*batch"]:
        """Cosines as shares of the way from strangers (0) to other pictures of the same person (1); NaN stays NaN."""
        return (raw - self.strangers) / (self.same - self.strangers)


def raw_identity(before: FaceEmbeddings, after: FaceEmbeddings) -> Float[np.ndarray, "*batch"]:
    """Cosine of each face before an edit and after it (Dravid et al. 2024, §4.3); NaN where either has no face.

    ValueError where the two are of other shapes, or by other back ends.
    """
    instance("before", before, FaceEmbeddings), instance("after", after, FaceEmbeddings)
    if before.back_end != after.back_end or before.embeddings.shape != after.embeddings.shape:
        raise ValueError(
            f"before: {before.back_end} {before.embeddings.shape}, after: {after.back_end} {after.embeddings.shape}: "
            "expected the same pictures before and after, by the same back end"
        )
    if not before.embeddings.size:
        return np.zeros(before.found.shape)
    return np.where(before.found & after.found, id_score(before.embeddings, after.embeddings), np.nan)
