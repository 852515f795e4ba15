"""Spaces of some of the people, to see what more people buy, and the paper's directions in them."""

from collections.abc import Sequence
from math import lgamma, log, pi
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from w2w_lib.inputs import instance, known_seed, whole_number
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.space.arguments import generator
from w2w_lib.space.weight_space import WeightSpace

Key = tuple[int, int]  # number of people, repeat
Method = Literal["normals", "class means"]
Series = Literal["growing", "fixed", "counts"]
PAIR = ["first", "second"]


def nested_subspaces(
    layout: AdapterLayout,
    weights: Float[Tensor, "models d"],
    ids: Sequence[str],
    sizes: Sequence[int],
    repeats: int,
    seed: int = 0,
) -> dict[Key, WeightSpace]:
    """A space of the first N people of each of some random orders, by N and order (Dravid et al. 2024, Figs 9, 10).

    Within one order the smaller sets lie in the larger ones, so that differences between N are paired. The space of
    all people is the same in every order. ValueError for sizes below 2 or above the number of models.
    """
    ids, rng, found = list(ids), np.random.default_rng(known_seed(seed)), {}
    sizes = [whole_number("sizes", size, 2, len(ids)) for size in sizes]
    for repeat in range(whole_number("repeats", repeats)):
        order = rng.permutation(len(ids))
        for size in sizes:
            if size == len(ids) and repeat:
                found[size, repeat] = found[size, 0]
            else:
                rows = np.sort(order[:size])
                found[size, repeat] = WeightSpace.fit(layout, weights[rows], [ids[i] for i in rows])
    return found


class Condition(NamedTuple):
    """A space to measure, and the series that it belongs to."""

    series: Series
    models: int
    components: int
    repeat: int


def conditions(sizes: Sequence[int], counts: Sequence[int], fixed: int, repeats: int = 1) -> list[Condition]:
    """The spaces of three series: all components of more and more people, ``fixed`` ones of them, and more and more
    components of the largest space. ``repeats`` are the orders of people; of all people there is but one.
    """
    found = []
    for size in sizes:
        for repeat in range(1 if size == max(sizes) else repeats):
            found += [Condition("growing", size, size - 1, repeat), Condition("fixed", size, fixed, repeat)]
    return found + [Condition("counts", max(sizes), count, 0) for count in counts]


def random_subspace(space: WeightSpace, components: int, seed: int) -> WeightSpace:
    """The same mean with random orthonormal components: the control that knows nothing of people.

    The coefficients are those that the training models' own coordinates have there.
    """
    instance("space", space, WeightSpace)
    count = whole_number("components", components, 1, space.layout.dimension)
    noise = torch.randn(space.layout.dimension, count, generator=generator(seed))
    rows = torch.linalg.qr(noise).Q.T.contiguous()
    change = space.unproject(space.coefficients) - space.mean
    return WeightSpace(
        space.layout, space.ids, space.mean, rows, change @ rows.T, space.total_variance, space.rows, f"random {seed}"
    )


def coefficient_normals(
    space: WeightSpace, labels: pd.DataFrame, components: int, method: Method = "normals"
) -> dict[str, Float[Tensor, " pcs"]]:
    """Directions of length 1 among the raw coefficients, by label; with orthonormal components also among the weights.

    ``normals`` are the paper's: of the separating plane by least squares on the coefficients (Dravid et al. 2024,
    §3.3). ``class means`` go from the mean of people without the label to that of people with it. No limit on the
    number of components but the space's: with as many as there are people the plane fits every label, which is what
    Fig. 22 is about. Labels that are the same for everybody in the space are left out. ``labels`` are of 0 and 1,
    indexed by identity; ValueError for an identity without labels, and a space of standardised weights.
    """
    instance("space", space, WeightSpace)
    instance("labels", labels, pd.DataFrame)
    if space.scale is not None:
        raise ValueError("a space of standardised weights: expected one of the weights themselves")
    if missing := sorted(set(space.ids) - set(labels.index)):
        raise ValueError(f"labels: no row for {missing[0]} of the space; expected one for each of its people")
    if method not in get_args(Method):
        raise ValueError(f"method {method!r}: expected one of {', '.join(get_args(Method))}")
    count = whole_number("components", components, 1, len(space.components))
    table = labels.loc[space.ids].astype(float)
    table = table.loc[:, table.nunique() > 1]
    targets = torch.tensor(table.to_numpy())
    targets, coefficients = targets - targets.mean(0), space.coefficients[:, :count].double()
    if method == "normals":
        std = coefficients.std(0)  # least squares in units of it is well conditioned
        found = torch.linalg.lstsq((coefficients - coefficients.mean(0)) / std, targets).solution / std[:, None]
    else:
        found = coefficients.T @ targets
    found = (found / found.norm(dim=0)).float()
    return {name: found[:, k] for k, name in enumerate(table)}


def weight_step(space: WeightSpace, normal: Float[Tensor, " pcs"]) -> Float[Tensor, " d"]:
    """The change of weights, of length 1, along a direction among the first coefficients."""
    return normal @ space.components[: len(normal)]


def direction_cosines(normals: dict[str, Float[Tensor, " pcs"]]) -> pd.Series:
    """|cosine| of each pair of directions among the weights, by the two names (Dravid et al. 2024, Fig. 9)."""
    names, unit = list(normals), torch.stack(list(normals.values())).double()
    cosines = (unit @ unit.T).abs()
    first, second = np.triu_indices(len(names), 1)
    index = pd.MultiIndex.from_arrays([[names[i] for i in first], [names[j] for j in second]], names=PAIR)
    return pd.Series(cosines[first, second].numpy(), index, name="cosine")


def label_scores(
    normals: dict[str, Float[Tensor, " pcs"]], coefficients: Float[Tensor, "models all_pcs"]
) -> pd.DataFrame:
    """Projections of models (rows) onto directions (columns): what the linear classifiers say."""
    stacked = torch.stack(list(normals.values()), 1)
    return pd.DataFrame((coefficients[:, : len(stacked)] @ stacked).numpy(), columns=list(normals))


def chance_cosine(components: int) -> float:
    """Mean |cosine| of two random directions of so many numbers: about sqrt(2 / (pi m)), which falls by itself."""
    m = whole_number("components", components)
    return float(np.exp(lgamma(m / 2) - lgamma((m + 1) / 2) - log(pi) / 2))


def jointly_permuted(labels: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Every person with the labels of another one: they keep what they have in common, and tell nothing of weights."""
    order = np.random.default_rng(known_seed(seed)).permutation(len(labels))
    return labels.iloc[order].set_axis(labels.index)
