"""What a stage records, and finds of other stages."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from w2w_lib.people.people_set import People
from w2w_lib.workbook import paths
from w2w_lib.workbook.artefacts import Artefacts
from w2w_lib.workbook.settings import load


def test_metrics_leave_out_what_is_not_finite_and_say_so(elsewhere, capsys, unchecked):
    Artefacts("smoke").record("space", {"auc": 0.12345, "spread": math.nan, "odds": math.inf, "people": 3})
    assert json.loads(paths.metrics("smoke", "space").read_text()) == {"auc": 0.1235, "people": 3.0}
    assert "odds, spread" in capsys.readouterr().out
    with pytest.raises(ValueError, match="metrics of stage 'space': auc is 'high', expected a number"):
        Artefacts("smoke").record("space", {"auc": "high"})
    with pytest.raises(ValueError, match="stage 'spaces'"):
        Artefacts("smoke").record("spaces", {"auc": 1.0})


def test_metrics_and_splits_that_are_none_are_refused(unchecked):
    for numbers in ({"auc": 10**400}, [1.0]):
        with pytest.raises(ValueError, match="metrics of stage 'space'"):
            Artefacts("smoke").record("space", numbers)
    with pytest.raises(ValueError, match="no split 'trian', did you mean 'train'"):
        Artefacts("smoke").people("trian")
    for name in (None, 5):
        with pytest.raises(ValueError, match="no name of a profile"):
            Artefacts(name)


def test_what_is_not_made_yet_is_named_with_the_command_that_makes_it(elsewhere):
    nothing = Artefacts("smoke")
    makers = [lambda: nothing.people("train"), lambda: nothing.dataset("heldout"), lambda: nothing.space]
    for open_it in [*makers, lambda: nothing.directions]:
        with pytest.raises(FileNotFoundError, match=r"outputs/smoke/.*run `make reproduce PROFILE=smoke`"):
            open_it()
    with pytest.raises(ValueError, match="unknown profile"):
        Artefacts("smok")


def test_further_pictures_are_those_after_the_ones_that_stages_have_seen(elsewhere):
    sets = replace(load("smoke").people.sets, heldout=2)
    sets.load("heldout_unseen").save(paths.outputs("smoke", "people", "heldout_unseen"))
    whole = People.render("heldout", 2, sets.views + 1, sets.size)
    further = Artefacts("smoke").unseen("heldout", whole.ids[::-1], 1)
    assert further.ids == whole.ids[::-1] and len(further.images) == 2
    for identity in whole.ids:
        np.testing.assert_array_equal(further.of(identity), whole.of(identity)[sets.views :])
