"""Fleets that differ in single settings, and how the adapters that they train are measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_base import tiny_pipeline
from tiny_fleet import RECIPE

from w2w_lib.evaluation import likeness
from w2w_lib.evaluation.identity import Faces
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.lora.prompt_response import prompt_response
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.prompts import encode_prompts
from w2w_lib.models.sampling import Sampling
from w2w_lib.training.fleet import Fleet
from w2w_lib.training.variants import FleetVariants


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def layout(pipeline):
    return AdapterLayout.of(pipeline.unet, fingerprint(pipeline))


def test_a_variant_is_the_fleet_of_the_changed_settings(pipeline, layout, prior, images):
    variants = FleetVariants(pipeline, layout, RECIPE, prior)
    changed, _ = variants.fleet(steps=2, prior_weight=0.0).train(images)
    directly, _ = Fleet(pipeline, layout, replace(RECIPE, steps=2, prior_weight=0.0), prior).train(images)
    torch.testing.assert_close(changed, directly, rtol=0, atol=0)
    release = variants.fleet(targets="release")
    assert release.layout == AdapterLayout.of(pipeline.unet, layout.base, "release")
    with pytest.raises(ValueError, match=f"the layout is of base {layout.base}, this pipeline is base "):
        variants.fleet(pipeline=tiny_pipeline(1))
    with pytest.raises(ValueError, match="no setting 'stesp', did you mean 'steps'"):
        variants.fleet(stesp=2)


def test_likeness_is_of_the_trained_adapters(pipeline, layout, prior, images, monkeypatch):
    fleet, ids = FleetVariants(pipeline, layout, RECIPE, prior).fleet(), list(images)
    measured = {}

    def verify(pictures, ids, real):
        measured.update(pictures=pictures, ids=ids)
        return {"auc": 0.75}

    monkeypatch.setattr(likeness, "verify", verify)
    real = Faces(np.zeros((3, 4)), np.array(ids), np.ones(3, bool))
    seeds = [("sks person", 1), ("person", 2)]
    weights, numbers = likeness.trained_likeness(pipeline, fleet, images, real, seeds, Sampling(steps=2))
    torch.testing.assert_close(weights, fleet.train(images)[0], rtol=0, atol=0)
    assert numbers == {"auc": 0.75} and measured["ids"] == ids and measured["pictures"].shape[:2] == (3, 2)


def test_prompt_response_is_that_of_the_first_row_of_a(pipeline, layout):
    weights, prompts = layout.initial(3), ["sks person", "a photo of sks person, smiling"]
    found = prompt_response(pipeline, layout, weights, prompts)
    states, bare = encode_prompts(pipeline, prompts).mean(1), encode_prompts(pipeline, ["person"]).mean(1)[0]
    varied, to_class = [], []
    for factor in layout.factors:  # of the paper's layers, all read text
        if factor.is_down:
            a = layout.unflatten(weights[None])[factor.key][0, 0]
            values = np.array([float(a @ state) for state in states])
            varied.append(values.std(ddof=1) / abs(values.mean()))
            to_class.append(abs(float(a @ bare)) / abs(values.mean()))
    expected = {"variation over prompts": varied, "response to the class prompt": to_class}
    for name, values in expected.items():
        assert found[name] == pytest.approx(sorted(values)[(len(values) - 1) // 2], rel=1e-4)  # torch's lower median
    blind = AdapterLayout.of(pipeline.unet, layout.base, ("attn1.to_q",))
    assert prompt_response(pipeline, blind, blind.initial(0), prompts) == {}
