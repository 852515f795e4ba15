"""A learned start of the inversion: from features of a picture to the coefficients of its person's model."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from w2w_lib.evaluation.pictures import finite_embeddings
from w2w_lib.inputs import instance, nearest, whole_number
from w2w_lib.space.weight_space import WeightSpace

PENALTIES = (1e3, 1e4, 1e5, 1e6)  # of ridge regression, on features of variance 1


@dataclass(frozen=True)
class LearnedStart:
    """Ridge regression from features of one picture to coefficients, in standard deviations of the training models.

    ``shares`` are how much of each coefficient's variance it explains, of people whom it was not fitted on.
    """

    models: dict[float, Pipeline]  # by penalty; each predicts the coefficients that have it
    std: Float[Tensor, " pcs"]
    penalties: Float[np.ndarray, " pcs"]
    shares: Float[np.ndarray, " pcs"]

    @property
    def share(self) -> float:
        """The share of the coefficients' total variance."""
        variance = self.std.numpy() ** 2
        return float((self.shares * variance).sum() / variance.sum())

    @classmethod
    def fit(
        cls,
        space: WeightSpace,
        features: Float[np.ndarray, "pictures features"],
        people: Sequence[str],
        penalties: Sequence[float] = PENALTIES,
        folds: int = 4,
    ) -> "LearnedStart":
        """Fit it on pictures of training people; each coefficient's penalty is chosen by cross-validation over people.

        ValueError for features that are not finite, another number of names, names that the space was not fitted on
        and fewer people than folds.
        """
        instance("space", space, WeightSpace)
        features, folds = finite_embeddings(features, "learned start", axes=2), whole_number("folds", folds, 2)
        if space.known < len(space.components):
            raise ValueError(
                f"space: {len(space.components)} components, coefficients of the first {space.known}; expected those "
                "of all: truncate it"
            )
        rows = {identity: row for row, identity in enumerate(space.ids)}
        if isinstance(people, str) or len(people) != len(features):
            raise ValueError(f"people: expected a name for each of {len(features)} pictures, found {len(people)}")
        if unknown := [i for i in people if i not in rows]:
            raise ValueError(f"no training model of {unknown[0]!r}{nearest(str(unknown[0]), space.ids)}")
        if len(set(people)) < folds:
            raise ValueError(f"pictures of {len(set(people))} people: expected at least {folds}, one for each fold")
        targets = (space.coefficients / space.std)[[rows[i] for i in people]].numpy()
        apart = list(GroupKFold(folds).split(features, groups=list(people)))
        tried = [cross_val_predict(_ridge(penalty), features, targets, cv=apart) for penalty in penalties]
        shares = np.stack([r2_score(targets, predicted, multioutput="raw_values") for predicted in tried])
        best = np.asarray(penalties, float)[shares.argmax(0)]
        models = {penalty: _ridge(penalty).fit(features, targets[:, best == penalty]) for penalty in np.unique(best)}
        return cls(models, space.std, best, shares.max(0).astype(float))

    def predict(self, features: Float[np.ndarray, "pictures features"]) -> Float[Tensor, "pictures pcs"]:
        """Coefficients for each picture; ValueError for another number of features, or not finite ones."""
        features = finite_embeddings(features, "learned start", axes=2)
        if features.shape[1] != (width := next(iter(self.models.values())).n_features_in_):
            raise ValueError(f"learned start: expected rows of {width} features, found shape {features.shape}")
        units = np.empty((len(features), len(self.std)))
        for penalty, model in self.models.items():
            chosen = self.penalties == penalty
            units[:, chosen] = model.predict(features).reshape(len(features), chosen.sum())
        return torch.from_numpy(units).float() * self.std


def _ridge(penalty: float) -> Pipeline:
    return make_pipeline(StandardScaler(), Ridge(penalty))
