"""Scores of single people under many conditions, kept so that intervals and comparisons need no rerun."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from w2w_lib.files.atomic import replacing

COLUMNS = ["experiment", "condition", "models", "components", "repeat", "person", "metric", "value"]


class Scores:
    """A table with one row for each score of a person (or sampled model) under one condition."""

    def __init__(self):
        self._parts: list[pd.DataFrame] = []

    def add(
        self,
        experiment: str,
        people: Sequence[str],
        metrics: Mapping[str, np.ndarray],
        condition: str = "",
        models: int = 0,
        components: int = 0,
        repeat: int = 0,
    ) -> None:
        """Append one column of scores for each metric; ValueError where there is not one for each person."""
        for metric, values in metrics.items():
            values = np.asarray(values, float)
            if values.shape != (len(people),):
                raise ValueError(
                    f"{metric}: scores of shape {values.shape} for {len(people)} people: expected one each"
                )
            own = [experiment, condition, models, components, repeat]
            rows = dict(zip(COLUMNS, own, strict=False)) | {"person": list(people), "metric": metric, "value": values}
            self._parts.append(pd.DataFrame(rows))

    @property
    def frame(self) -> pd.DataFrame:
        """All rows so far."""
        return pd.concat(self._parts, ignore_index=True) if self._parts else pd.DataFrame(columns=COLUMNS)

    def wide(self, experiment: str, metric: str, by: str, condition: str = "") -> pd.DataFrame:
        """People (rows) by the levels of one column, the mean over everything else: what paired intervals take.

        People without a score at every level are left out; ValueError where no row is of this kind.
        """
        table = self.frame
        chosen = table[
            (table["experiment"] == experiment) & (table["metric"] == metric) & (table["condition"] == condition)
        ]
        if chosen.empty:
            raise ValueError(f"no scores {metric!r} of {experiment!r} {condition!r}: expected some to have been added")
        return chosen.pivot_table("value", "person", by, "mean", dropna=False).dropna()

    def save(self, path: str | Path) -> None:
        """Write all rows as a Parquet file, whole or not at all."""
        with replacing(Path(path)) as file:
            self.frame.to_parquet(file)


def told_apart(faces: Float[np.ndarray, "models seeds dim"]) -> Float[np.ndarray, " models"]:
    """For each model the probability that two of its pictures are more alike than one of them and another model's.

    By cosine, a tie counts half: 0.5 where the models cannot be told apart. Its mean is the models' consistency.
    ValueError for a single model, and for a single picture by each.
    """
    models, seeds, dim = faces.shape
    if models < 2 or seeds < 2:
        raise ValueError(f"{models} models, {seeds} pictures by each: expected at least 2 of both")
    unit = faces / np.linalg.norm(faces, axis=2, keepdims=True)
    flat, owner = unit.reshape(-1, dim), np.repeat(np.arange(models), seeds)
    first, second = np.triu_indices(seeds, 1)
    found = np.empty(models)
    for k, own in enumerate(unit):
        same = (own @ own.T)[first, second][:, None]
        others = (own @ flat[owner != k].T).ravel()
        found[k] = (same > others).mean() + (same == others).mean() / 2
    return found
