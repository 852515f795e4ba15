"""People trained in small groups are those trained together."""

import pytest
from tiny_fleet import RECIPE, WITHIN

from w2w_lib.training.few_pictures import fine_tuned
from w2w_lib.training.fleet import Fleet


def test_groups_change_nothing_and_the_order_is_kept(pipeline, layout, images, prior):
    fleet = Fleet(pipeline, layout, RECIPE, prior)
    together, _ = fleet.train(images)
    in_turn = fine_tuned(fleet, images, at_once=2)
    assert in_turn.shape == together.shape
    difference = (in_turn - together).norm(dim=1) / (together - fleet.initial).norm(dim=1)
    assert difference.max() < WITHIN
    with pytest.raises(ValueError, match="no identities"):
        fine_tuned(fleet, {})
