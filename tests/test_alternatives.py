"""The benchmark of adapters that are trained in other ways: what the ways are, and whose pictures they see."""

import numpy as np
import pytest
from alternatives import FIRST, ways_of
from ways import Scores, first_pictures, table

from w2w_lib.people.people_set import People
from w2w_lib.workbook.settings import load


def test_the_ways_are_the_profiles_own_and_changes_of_it():
    settings = load("pocket")
    ways = ways_of(settings)
    assert next(iter(ways.items())) == (FIRST, {}) and ways.items() >= settings.scale.alternatives.items()
    assert settings.finetune.targets == "paper" and ways["the release's layers"] == {"targets": "release"}


def test_fewer_pictures_are_the_first_ones_of_everybody():
    people = People.render("train", 2, 3, 64)
    fewer = first_pictures(people, 2)
    assert first_pictures(people, None) is people and fewer.ids == people.ids
    for person in people.ids:
        np.testing.assert_array_equal(fewer.of(person), people.of(person)[:2])
        assert fewer.contexts()[person] == people.contexts()[person][:2]


def test_differences_are_paired():
    rng = np.random.default_rng(0)
    of_people = rng.normal(size=200)
    first, better = ({"x": Scores({"mean": (of_people + more,)})} for more in (0, 0.1))
    row = table(better, first).iloc[0]
    assert row["difference_low"] == pytest.approx(0.1) == row["difference_high"]
    assert row["value_high"] - row["value_low"] > 0.2  # of the people, who are the same
