"""Fleets that differ in single settings, and how the adapters that they train are measured."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_base import tiny_pipeline
from tiny_fleet import RECIPE

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.lora.prompt_response import prompt_response
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.prompts import encode_prompts
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.training.fleet import Fleet
from w2w_lib.training.variants import ClassPictures, FleetVariants, class_pictures, drawn_contexts


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def layout(pipeline):
    return AdapterLayout.of(pipeline.unet, fingerprint(pipeline))


def test_a_variant_is_the_fleet_of_the_changed_settings(pipeline, layout, prior, images):
    variants = FleetVariants(pipeline, layout, RECIPE, {"plain": ClassPictures(prior)})
    changed, _ = variants.fleet(steps=2, prior_weight=0.0).train(images)
    directly, _ = Fleet(pipeline, layout, replace(RECIPE, steps=2, prior_weight=0.0), prior).train(images)
    torch.testing.assert_close(changed, directly, rtol=0, atol=0)
    release = variants.fleet(targets="release")
    assert release.layout == AdapterLayout.of(pipeline.unet, layout.base, "release")
    with pytest.raises(ValueError, match=f"the layout is of base {layout.base}, this pipeline is base "):
        variants.fleet(pipeline=tiny_pipeline(1))
    assert variants.fleet(rank=2).layout == AdapterLayout.of(pipeline.unet, layout.base, rank=2, alpha=2.0)
    with pytest.raises(ValueError, match="no setting 'stesp', did you mean 'steps'"):
        variants.fleet(stesp=2)
    with pytest.raises(ValueError, match="no class pictures for the instance prompt 'context'; expected one of plain"):
        variants.fleet(instance_prompt="context")


def test_variants_keep_contexts_and_pictures_together(pipeline, layout, prior, images):
    contexts, drawn = {"person-0": ["smiling", "man", "woman", ""]}, ["man"] * len(prior)
    priors = {"plain": ClassPictures(prior[:3]), "context": ClassPictures(prior, drawn)}
    variants = FleetVariants(pipeline, layout, RECIPE, priors, contexts=contexts)
    first = {"person-0": images["person-0"][:2]}
    found, _ = variants.fleet(instance_prompt="context", views=2).train(first)
    settings = {"contexts": {"person-0": ["smiling", "man"]}, "prior_contexts": drawn}
    directly, _ = Fleet(pipeline, layout, replace(RECIPE, instance_prompt="context"), prior, **settings).train(first)
    torch.testing.assert_close(found, directly, rtol=0, atol=0)
    plain, _ = variants.fleet().train(first)
    torch.testing.assert_close(plain, Fleet(pipeline, layout, RECIPE, prior[:3]).train(first)[0], rtol=0, atol=0)


def test_class_pictures_are_of_drawn_contexts(pipeline):
    contexts = {"a": ["man", "smiling"], "b": ["", "woman"]}
    drawn = drawn_contexts(contexts, 300)
    assert set(drawn) == {"man", "smiling", "woman"} and drawn == drawn_contexts(contexts, 300)
    assert drawn_contexts({}, 3) == drawn_contexts({"a": [""]}, 3) == []
    sampling = Sampling(steps=2)
    painted = class_pictures(pipeline, 2, ["man", "smiling"], sampling)
    prompts = ["a photo of person, man", "a photo of person, smiling"]
    np.testing.assert_array_equal(painted, generate(pipeline, prompts, [0, 1], sampling=sampling))
    np.testing.assert_array_equal(
        class_pictures(pipeline, 2, [], sampling), generate(pipeline, ["person"] * 2, [0, 1], sampling=sampling)
    )


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
