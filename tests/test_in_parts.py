"""A few more adapters, as the rows of a dataset were trained."""

import numpy as np
import pytest
import torch

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.images import encode_images
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.people.rendered.changed_people import render_changed
from w2w_lib.people.rendered.counterfactuals import render_counterfactuals
from w2w_lib.training.fleet import Fleet
from w2w_lib.training.in_parts import fleet_of, train_on
from w2w_lib.training.recipe import FleetRecipe

PRIOR = Sampling(steps=2)
RECIPE = FleetRecipe(steps=3, learning_rate=1e-2, instance_batch=2, prior_batch=1, prior_weight=1.0)


def test_rows_trained_later_are_those_of_the_dataset(pipeline, tmp_path):
    layout = AdapterLayout.of(pipeline.unet, fingerprint(pipeline), "paper", rank=1, alpha=1.0)
    pictures = generate(pipeline, ["person"] * 2, [0, 1], sampling=PRIOR)
    fleet = Fleet(pipeline, layout, RECIPE, encode_images(pipeline, pictures))
    also = {"prior_images": 2, "prior": vars(PRIOR)}
    dataset = fleet.dataset(tmp_path / "weights", also)
    images = np.random.default_rng(0).integers(0, 255, (3, 2, 16, 16, 3), dtype=np.uint8)
    ids = ["ada", "bea", "cyd"]
    fleet.train_all({i: encode_images(pipeline, own) for i, own in zip(ids, images, strict=True)}, dataset)
    again = fleet_of(dataset, pipeline)
    weights = train_on(pipeline, again, images[::-1], ids[::-1], size=2)
    stored = dataset.weights(ids[::-1])
    assert (weights - stored).norm() < 1e-3 * (stored - fleet.initial).norm()
    other = train_on(pipeline, fleet_of(dataset, pipeline, seed=1), images, ids)
    assert (other - dataset.weights(ids)).norm() > 0.01 * (stored - fleet.initial).norm()
    with pytest.raises(ValueError, match="a name of its own"):
        train_on(pipeline, again, images, ["ada", "ada", "bea"])
    bare = fleet.dataset(tmp_path / "bare")
    with pytest.raises(ValueError, match="how its class pictures were made"):
        fleet_of(bare, pipeline)
    assert torch.equal(again.initial, dataset.initial)


@pytest.mark.slow
def test_changed_people_are_the_counterfactual_renders():
    views = render_changed("heldout", [3, 1], "Eyeglasses", views=2, size=64, workers=1)
    _, first = render_counterfactuals("heldout", [3, 1], "Eyeglasses", 64)
    assert views.shape == (2, 2, 64, 64, 3)
    np.testing.assert_array_equal(views[:, 0], first)
    with pytest.raises(ValueError, match="no attribute 'Glasses'"):
        render_changed("heldout", [0], "Glasses", views=1)
