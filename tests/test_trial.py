"""Recipes on trial: what is trained, what is painted, what is counted."""

import numpy as np
import pandas as pd
import torch
from tiny_base import tiny_pipeline
from tiny_fleet import RECIPE

from w2w_lib.evaluation import trial as trial_module
from w2w_lib.evaluation.intervals import Interval
from w2w_lib.evaluation.lineup import Judged, Lineup
from w2w_lib.evaluation.trial import Outcome, Trial, try_recipes
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.sampling import Sampling
from w2w_lib.training.variants import ClassPictures, FleetVariants


def test_gains_are_paired(monkeypatch):
    monkeypatch.setattr(trial_module, "compared", lambda judged, reference=None: {})
    judged, images = object.__new__(Judged), np.zeros((4, 2, 1, 1, 3), np.uint8)
    ours = Outcome(images, judged, np.array([1.0] * 3 + [0.0]))
    theirs = Outcome(images, judged, np.zeros(4))
    assert ours.numbers()["background"].value == 0.75
    gain = ours.numbers(theirs)["background"]
    assert gain.value == 0.75 and 0 <= gain.low < 0.75 < gain.high <= 1
    unasked = Outcome(images[:, :1], judged, np.full(4, np.nan))
    assert np.isnan(unasked.numbers()["background"].value)


def test_every_recipe_is_trained_and_judged_on_the_same(monkeypatch, images, prior):
    pipeline = tiny_pipeline()
    layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline))
    variants = FleetVariants(pipeline, layout, RECIPE, {"plain": ClassPictures(prior)})
    judged = []

    def judge(self, layout, weights, ids):
        judged.append((layout.rank, weights, ids))
        return Numbers(float(len(judged)))

    class Numbers:
        def __init__(self, value):
            self.value = value

        def numbers(self, reference=None):
            value = self.value - (reference.value if reference else 0)
            names = ("auc", "rank1", "background")
            return {name: Interval(value, value - 1, value + 1) for name in names}

    monkeypatch.setattr(Trial, "judge", judge)
    trial = Trial(pipeline, object.__new__(Lineup), [], Sampling())
    changes = {"as set": {}, "short": {"steps": 2, "views": 2}, "rank 2": {"rank": 2}}
    table = try_recipes(variants, changes, images, trial, fleet_size=2)
    assert list(table.index) == list(changes) and (table["seconds"] > 0).all()
    assert table["auc"].tolist() == [1, 2, 3] and table["auc_gain"].tolist()[1:] == [1, 2]
    assert pd.isna(table.loc["as set", "auc_gain"]) and table.loc["short", "auc_gain_low"] == 0
    assert [rank for rank, *_ in judged] == [1, 1, 2] and all(ids == list(images) for *_, ids in judged)
    short = variants.fleet(steps=2).train({i: x[:2] for i, x in images.items()})[0]
    torch.testing.assert_close(judged[1][1], short, rtol=1e-4, atol=1e-5)
