"""The table to choose directions from, against directions that were fitted one by one."""

import time

import numpy as np
import pandas as pd
import pytest
import torch
from planted import MODELS, PCS

from w2w_lib.space.direction_choice import direction_table
from w2w_lib.space.direction_methods import METHODS
from w2w_lib.space.directions import fit_directions, separation
from w2w_lib.space.weight_space import WeightSpace


@pytest.fixture(scope="module")
def others(space):
    """Other people's coefficients, and labels planted as in the space's own."""
    coefficients = space.sample(40, seed=5)
    unit = coefficients / space.std
    planted = {"first": unit[:, 0] > 0, "second": unit[:, 1] > 0, "both": unit[:, 0] + unit[:, 1] > 0}
    return coefficients, pd.DataFrame({name: shown.numpy() for name, shown in planted.items()})


@pytest.mark.parametrize("standardise", [False, True])
def test_the_table_holds_what_directions_have(layout, weights, ids, labels, others, standardise):
    space = WeightSpace.fit(layout, weights, ids, PCS, standardise=standardise)
    coefficients, theirs = others
    table = direction_table(space, labels, coefficients, theirs, [5])
    assert list(table.index) == [(method, 5) for method in METHODS]
    for (method, m), row in table.iterrows():
        fit = fit_directions(space, labels, m, method=method)
        steps = np.stack([d.step(space).numpy() for d in fit.values()])
        between = np.corrcoef(np.hstack([steps, -steps]))[np.triu_indices(3, 1)]  # of mean 0: cosines
        expected = [np.mean(list(separation(fit, space, coefficients, theirs).values())), np.abs(between).mean()]
        assert row.tolist() == pytest.approx([*expected, np.linalg.norm(steps, axis=1).mean()], rel=1e-3)


def test_classifiers_are_judged_on_the_other_people(space, labels, others):
    coefficients, theirs = others
    right = direction_table(space, labels, coefficients, theirs, [PCS], ["class means"])["auc"].item()
    wrong = direction_table(space, labels, coefficients, ~theirs, [PCS], ["class means"])["auc"].item()
    assert right > 0.9 and wrong == pytest.approx(1 - right)
    constant = direction_table(space, labels, coefficients, theirs.assign(first=True), [PCS], ["class means"])
    assert constant["auc"].item() > 0.8  # of the other two
    one = direction_table(space, labels[["first"]], coefficients, theirs * 0, [PCS], ["paper"]).iloc[0]
    assert one[["auc", "cosine"]].isna().all() and one["norm"] > 0


@pytest.mark.slow
def test_a_thousand_people_and_three_hundred_components_take_seconds(layout):
    rng = torch.Generator().manual_seed(0)
    models, pcs = 1000, 300
    coefficients = torch.linalg.qr(torch.randn(models, pcs, generator=rng)).Q * torch.linspace(3, 0.1, pcs)
    components = torch.linalg.qr(torch.randn(layout.dimension, pcs, generator=rng)).Q.T.contiguous()
    ids = [f"p{i}" for i in range(models)]
    big = WeightSpace(layout, ids, torch.zeros(layout.dimension), components, coefficients, 1.0, "rows", "exact")
    planted = torch.rand(models, 10, generator=rng) > 0.5
    labels = pd.DataFrame(planted.numpy(), ids, [f"a{k}" for k in range(10)])
    start = time.perf_counter()
    direction_table(big, labels, coefficients, labels, [30, 100, 300], ["paper", "class means", "joint"])
    assert time.perf_counter() - start < 20


def test_the_table_refuses(space, labels, others, unchecked):
    coefficients, theirs = others
    for arguments, error in [
        ({"components": []}, "methods and components: expected a list of each"),
        ({"methods": "paper"}, "methods and components: expected a list of each, found 'paper'"),
        ({"methods": ["plain"]}, "no method 'plain'; expected one of paper, class means"),
        ({"components": [PCS + 1]}, "components: expected a whole number of at least 1 and at most 8, found 9"),
        ({"their_labels": theirs[:9]}, "labels: 9 rows for 40 models"),
        ({"their_labels": theirs[["first"]]}, "labels: no column 'second'"),
        ({"labels": labels[: MODELS - 1]}, "labels: no row for identities"),
        ({"coefficients": coefficients[:, :4]}, "coefficients: expected rows of 8 numbers"),
    ]:
        given = {"labels": labels, "coefficients": coefficients, "their_labels": theirs, "components": [PCS]}
        with pytest.raises(ValueError, match=error):
            direction_table(space, **given | arguments)
