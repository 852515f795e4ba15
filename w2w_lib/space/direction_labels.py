"""Labels of people as directions need them: numbers of 0 and 1, one row for each model."""

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from w2w_lib.inputs import described, instance, nearest, some
from w2w_lib.space.weight_space import WeightSpace


def training_labels(space: WeightSpace, labels: pd.DataFrame) -> Float[Tensor, "models labels"]:
    """Labels of the people that a space was fitted on, in its order; ``labels`` is indexed by identity.

    ValueError for an identity without labels, a label that is neither 0 nor 1, and one that does not vary.
    """
    instance("space", space, WeightSpace)
    instance("labels", labels, pd.DataFrame)
    if labels.index.nlevels > 1:
        raise ValueError(f"labels: expected an index of identities, found one of {labels.index.nlevels} levels")
    missing = [i for i in space.ids if i not in labels.index]
    if missing:
        raise ValueError(f"labels: no row for identities {some(missing)} of the space")
    table = labels.loc[space.ids]
    if len(table) > len(space.ids):
        raise ValueError(f"labels: more than one row for identities {some(table.index[table.index.duplicated()])}")
    targets = zero_or_one(table, list(table.columns))
    constant = [c for c in table if table[c].nunique() < 2]
    if constant:
        raise ValueError(f"labels {some(constant)} are the same for every identity: leave them out")
    return targets


def labels_of_rows(labels: pd.DataFrame, attributes: list[str], models: int) -> Float[Tensor, "models labels"]:
    """Labels whose rows correspond to models, of any people; ValueError for another number of rows."""
    instance("labels", labels, pd.DataFrame)
    if len(labels) != models:
        raise ValueError(f"labels: {len(labels)} rows for {models} models; expected one for each")
    return zero_or_one(labels, attributes)


def zero_or_one(labels: pd.DataFrame, attributes: list[str]) -> Float[Tensor, "models labels"]:
    """Labels as numbers; ValueError for a label that is not there or is neither 0 nor 1."""
    if not attributes:
        raise ValueError("labels: there are none; expected at least one column of 0 and 1")
    for attribute in attributes:
        if not isinstance(attribute, str) or not attribute:
            raise ValueError(f"labels: expected columns with names of text, found {described(attribute)}")
        if attribute not in labels:
            raise ValueError(f"labels: no column {attribute!r}{nearest(attribute, map(str, labels.columns))}")
        if labels[attribute].ndim > 1:
            raise ValueError(f"labels: more than one column {attribute!r}; expected one")
        wrong = labels.index[~labels[attribute].isin([0, 1])]
        if len(wrong):
            found = labels.loc[wrong[0], attribute]
            raise ValueError(f"label {attribute!r}: expected 0 or 1, found {found} for {some(wrong)}")
    return torch.tensor(labels[attributes].to_numpy(float))
