"""Pictures before and after an edit, measured as the paper's Table 1 does, and by what else the edit changed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, UInt8

from w2w_lib.evaluation.attributes import AttributeClassifier
from w2w_lib.evaluation.edit_words import described
from w2w_lib.evaluation.face_embedders import FaceEmbeddings, embed
from w2w_lib.evaluation.faces import FACE_PIXELS, FALLBACK_BOX
from w2w_lib.evaluation.identity_score import IdentityScale, raw_identity
from w2w_lib.evaluation.lpips import LPIPS
from w2w_lib.evaluation.pictures import as_pictures
from w2w_lib.evaluation.text_score import TextScorer, text_score
from w2w_lib.parallel import worker_count

AXES = "people shots height width 3"


def change_of(attribute: str) -> str:
    """The column of scores with the change of an attribute's logit."""
    return f"change of {attribute}"


@dataclass(frozen=True)
class EditJudge:
    """What edits of these people's pictures are measured by: ``before`` are the unedited ones, uint8 in ``AXES``."""

    people: Sequence[str]
    before: UInt8[np.ndarray, "people shots height width 3"]
    classifier: AttributeClassifier
    lpips: LPIPS
    scorer: TextScorer
    scale: IdentityScale | None = None  # of real pictures
    embedder: str = "dlib"
    face_weights: Path | None = None

    def __post_init__(self):
        if len(self.people) != len(as_pictures(self.before, AXES)):
            raise ValueError(f"{len(self.people)} names for pictures of {len(self.before)} people: expected as many")

    @cached_property
    def logits(self) -> pd.DataFrame:
        """The classifier's verdicts on the unedited pictures, people by people."""
        return self.classifier.logits(_flat(self.before))

    @cached_property
    def spread(self) -> pd.Series:
        """Standard deviation of each attribute's logit over the unedited pictures: the unit of changes."""
        return self.logits.std()

    @cached_property
    def faces(self) -> FaceEmbeddings:
        return self.embedded(self.before)

    def shows(self, attribute: str) -> Bool[np.ndarray, " people"]:
        """Whether a person's unedited pictures show the attribute, on average."""
        return self.logits[attribute].to_numpy().reshape(self.before.shape[:2]).mean(1) > 0

    def embedded(self, images: UInt8[np.ndarray, "people shots height width 3"]) -> FaceEmbeddings:
        return embed(_flat(images), self.embedder, self.face_weights, worker_count(None))  # who stay for the next edit

    def scores(
        self,
        after: UInt8[np.ndarray, "people shots height width 3"],
        attribute: str,
        rows: Sequence[int] | None = None,
        faces: bool = True,
    ) -> pd.DataFrame:
        """One row for each person, means over shots, of an edit that turns the attribute to its opposite.

        ``effect``: change of the attribute's logit in the wanted way, in standard deviations over unedited pictures;
        ``turned``: share of pictures whose verdict is the wanted one; ``spill``: mean size of the changes of all other
        attributes' logits, in the same unit; ``lpips``; ``text``: change of the text score for the words of the wanted
        attribute; and with ``faces`` ``identity`` (cosine of the faces before and after), ``normalised_identity``
        (by the ``scale``: strangers 0, another picture of the same person 1) and ``faceless``, the share of pictures in
        which a face is missing before or after; these do not count for identity. The columns ``change_of`` hold the
        change of every attribute's logit. ``rows`` are the positions of the people of ``after``, whose first shots are
        compared.
        """
        images, places = _flat(as_pictures(after, AXES)), self._places(after, rows)
        before, shown = _flat(self.before)[places], self.shows(attribute)[places // self.before.shape[1]]
        logits = self.classifier.logits(images)
        changes, wanted = self._changes(logits, places), np.where(shown, -1, 1)
        texts = [described(attribute, not one) for one in shown]
        found = {
            "effect": changes[attribute] * wanted,
            "turned": (logits[attribute] > 0).to_numpy() != shown,
            "spill": changes.drop(columns=attribute).abs().mean(axis=1),
            "lpips": self.lpips.of_pictures(before, images),
            "text": text_score(images, texts, self.scorer) - text_score(before, texts, self.scorer),
        }
        if faces:
            own = FaceEmbeddings(self.embedder, self.faces.embeddings[places], self.faces.found[places])
            raw = raw_identity(own, self.embedded(after))
            found |= {"identity": raw, "faceless": np.isnan(raw)}
            found |= {"normalised_identity": self.scale.calibrated(raw)} if self.scale else {}
        found |= {change_of(name): changes[name] for name in changes}
        return self._by_person(found, places)

    def changes(
        self, after: UInt8[np.ndarray, "people shots height width 3"], rows: Sequence[int] | None = None
    ) -> pd.DataFrame:
        """Change of every attribute's logit (columns of ``change_of``), a row for each person, as in ``scores``."""
        places = self._places(after, rows)
        changes = self._changes(self.classifier.logits(_flat(as_pictures(after, AXES))), places)
        return self._by_person({change_of(name): changes[name] for name in changes}, places)

    def context(
        self, after: UInt8[np.ndarray, "people shots height width 3"], rows: Sequence[int] | None = None
    ) -> Float[np.ndarray, " people"]:
        """LPIPS of what lies outside the face, mean over shots: of pictures with the face of before put in."""
        places, shape = self._places(after, rows), after.shape[:2]
        before, images = _flat(self.before)[places], _flat(after).copy()
        left, top, right, bottom = (FALLBACK_BOX / FACE_PIXELS * after.shape[3]).round().astype(int)
        images[:, top:bottom, left:right] = before[:, top:bottom, left:right]
        return self.lpips.of_pictures(before, images).reshape(shape).mean(1)

    def _places(self, after: np.ndarray, rows: Sequence[int] | None) -> Int[np.ndarray, " pictures"]:
        """Which unedited picture each edited one belongs to."""
        rows = np.arange(len(self.people)) if rows is None else np.asarray(rows)
        if len(after) != len(rows) or after.shape[1] > self.before.shape[1]:
            raise ValueError(
                f"pictures of shape {after.shape} of {len(rows)} people: expected a row for each of them, and at most "
                f"{self.before.shape[1]} shots"
            )
        return (rows[:, None] * self.before.shape[1] + np.arange(after.shape[1])).ravel()

    def _changes(self, logits: pd.DataFrame, places: np.ndarray) -> pd.DataFrame:
        return (logits - self.logits.iloc[places].to_numpy()) / self.spread

    def _by_person(self, found: Mapping[str, Any], places: np.ndarray) -> pd.DataFrame:
        table = pd.DataFrame({name: np.asarray(values, float) for name, values in found.items()})
        table["person"] = np.asarray(self.people)[places // self.before.shape[1]]
        return table.groupby("person", sort=False).mean().reset_index()


def _flat(images: np.ndarray) -> UInt8[np.ndarray, "pictures height width 3"]:
    return images.reshape(-1, *images.shape[2:])
