"""Scores of single people, and what they are of, against counts by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_base import tiny_pipeline

from w2w_lib.evaluation.identity import verification_auc
from w2w_lib.evaluation.scores import Scores, told_apart
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.training.alternatives import train_alternative
from w2w_lib.training.recipe import FleetRecipe
from w2w_lib.training.variants import ClassPictures, FleetVariants


def test_scores_are_people_by_levels_with_repeats_averaged(tmp_path):
    scores = Scores()
    for repeat, shift in enumerate((0.0, 1.0)):
        scores.add("a", ["x", "y"], {"id": np.array([1.0, 2.0]) + shift}, "growing", 50, 49, repeat)
    scores.add("a", ["x", "y"], {"id": np.array([3.0, np.nan])}, "growing", 100, 99)
    scores.add("a", ["x"], {"id": np.array([9.0])}, "fixed", 50, 20)
    table = scores.wide("a", "id", "models", "growing")
    assert table.loc["x"].to_dict() == {50: 1.5, 100: 3.0} and list(table.index) == ["x"]
    scores.save(tmp_path / "scores.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "scores.parquet"), scores.frame)
    with pytest.raises(ValueError, match="one each"):
        scores.add("a", ["x"], {"id": np.zeros(2)})
    with pytest.raises(ValueError, match="no scores 'auc'"):
        scores.wide("a", "auc", "models")


def test_models_are_told_apart_as_pairs_of_pictures_say():
    faces = np.random.default_rng(0).normal(size=(6, 3, 5)) + 2 * np.random.default_rng(1).normal(size=(6, 1, 5))
    found = told_apart(faces)
    unit = faces / np.linalg.norm(faces, axis=2, keepdims=True)
    wins = [
        unit[2, a] @ unit[2, b] > unit[2, c] @ unit[other, d]
        for a, b in ((0, 1), (0, 2), (1, 2))
        for c in range(3)
        for other in range(6)
        for d in range(3)
        if other != 2
    ]
    assert found[2] == pytest.approx(np.mean(wins))
    alike = told_apart(np.tile(faces[:1], (4, 1, 1)))
    consistency = verification_auc(unit.reshape(-1, 5), np.repeat(range(6), 3))
    assert found.mean() == pytest.approx(consistency, abs=0.08) and (alike < found.mean()).all()
    assert told_apart(np.ones((3, 2, 4))).tolist() == [0.5] * 3


def test_alternatives_are_what_the_fleet_trains_with_these_changes(prior, images):
    pipeline = tiny_pipeline()
    layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline), "paper", rank=1, alpha=3)
    recipe = FleetRecipe(steps=2, instance_batch=2, prior_batch=1)
    fleets = FleetVariants(pipeline, layout, recipe, {"plain": ClassPictures(prior)})
    changed = train_alternative(fleets, images, {"rank": 2, "views": 1, "steps": 3}, fleet_size=2)
    assert (changed.layout.rank, changed.layout.scale) == (2, layout.scale) and changed.seconds > 0
    whole = replace(fleets, layout=changed.layout).fleet(steps=3)
    expected, _ = whole.train({i: own[:1] for i, own in images.items()})
    torch.testing.assert_close(changed.weights, expected, atol=1e-4, rtol=1e-3)
