"""How the coefficients of a space are distributed, and which labels they go with."""

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import kurtosis
from torch import Tensor

from w2w_lib.space.arguments import finite_rows


def kurtosis_error(models: int) -> float:
    """Standard error of the excess kurtosis of so many normal numbers (Joanes and Gill 1998); about sqrt(24 / n)."""
    n = models
    if n < 4:
        raise ValueError(f"{n} models: expected at least 4, or the kurtosis has no error")
    skewness = 6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3))
    return float(2 * np.sqrt(skewness * (n**2 - 1) / ((n - 3) * (n + 5))))


def excess_kurtosis(coefficients: Float[Tensor, "models pcs"]) -> pd.DataFrame:
    """Unbiased excess kurtosis of every component, and how many standard errors it is from a normal one's 0.

    One row for each component, counted from 1 (Dravid et al. 2024, Fig. 20).
    """
    values = finite_rows("coefficients", coefficients, coefficients.shape[-1], axes=2).double().numpy()
    found = kurtosis(values, axis=0, bias=False)
    index = pd.RangeIndex(1, len(found) + 1, name="component")
    return pd.DataFrame({"kurtosis": found, "errors from normal": found / kurtosis_error(len(values))}, index)


def label_correlations(coefficients: Float[Tensor, "models pcs"], labels: pd.DataFrame) -> pd.DataFrame:
    """Pearson's correlation of every component (row, from 1) with every label that varies (column).

    ValueError where there are not as many labels' rows as models.
    """
    if len(coefficients) != len(labels):
        raise ValueError(f"{len(coefficients)} models, labels of {len(labels)}: expected a row for each")
    varying = labels.loc[:, labels.nunique() > 1].astype(float)
    both = torch.cat([coefficients.double(), torch.tensor(varying.to_numpy())], 1)
    found = np.corrcoef(both.numpy(), rowvar=False)[: coefficients.shape[1], coefficients.shape[1] :]
    return pd.DataFrame(found, pd.RangeIndex(1, coefficients.shape[1] + 1, name="component"), list(varying))


def named_by_labels(correlations: pd.DataFrame, most: int = 2) -> pd.Series:
    """A name for every component: the labels that it goes with most, with the correlation, such as "Male -0.81"."""
    names = {}
    for component, row in correlations.iterrows():
        strongest = row.abs().nlargest(most).index
        names[component] = ", ".join(f"{name} {row[name]:+.2f}" for name in strongest)
    return pd.Series(names, name="goes with")
