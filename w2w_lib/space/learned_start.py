"""A learned start of the inversion: from features of a picture to the coefficients of its person's model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from w2w_lib.evaluation.pictures import finite_embeddings
from w2w_lib.inputs import instance, nearest, whole_number
from w2w_lib.space.weight_space import WeightSpace

PENALTIES = tuple(np.logspace(1, 7, 7))  # of ridge regression, on features of variance 1


@dataclass(frozen=True)
class LearnedStart:
    """Ridge regression from features of one picture to coefficients, in standard deviations of the training models.

    ``share`` is how much of the coefficients' variance it explains of people whom it was not fitted on.
    """

    model: Pipeline
    std: Float[Tensor, " pcs"]
    penalty: float
    share: float

    @classmethod
    def fit(
        cls,
        space: WeightSpace,
        features: Float[np.ndarray, "pictures features"],
        people: Sequence[str],
        penalties: Sequence[float] = PENALTIES,
        folds: int = 4,
    ) -> "LearnedStart":
        """Fit it on pictures of training people; the penalty is chosen by cross-validation over people.

        ValueError for features that are not finite, another number of names, names that the space was not fitted on
        and fewer people than folds.
        """
        instance("space", space, WeightSpace)
        features, folds = finite_embeddings(features, "learned start", axes=2), whole_number("folds", folds, 2)
        rows = {identity: row for row, identity in enumerate(space.ids)}
        if isinstance(people, str) or len(people) != len(features):
            raise ValueError(f"people: expected a name for each of {len(features)} pictures, found {len(people)}")
        if unknown := [i for i in people if i not in rows]:
            raise ValueError(f"no training model of {unknown[0]!r}{nearest(str(unknown[0]), space.ids)}")
        if len(set(people)) < folds:
            raise ValueError(f"pictures of {len(set(people))} people: expected at least {folds}, one for each fold")
        targets = (space.coefficients / space.std)[[rows[i] for i in people]].numpy()
        apart = list(GroupKFold(folds).split(features, groups=list(people)))
        ridge = RidgeCV(list(penalties), cv=apart, scoring="r2")
        model = make_pipeline(StandardScaler(), ridge).fit(features, targets)
        return cls(model, space.std, float(ridge.alpha_), float(ridge.best_score_))

    def predict(self, features: Float[np.ndarray, "pictures features"]) -> Float[Tensor, "pictures pcs"]:
        """Coefficients for each picture; ValueError for another number of features, or not finite ones."""
        features = finite_embeddings(features, "learned start", axes=2)
        if features.shape[1] != (width := self.model.n_features_in_):
            raise ValueError(f"learned start: expected rows of {width} features, found shape {features.shape}")
        return torch.from_numpy(self.model.predict(features)).float() * self.std
