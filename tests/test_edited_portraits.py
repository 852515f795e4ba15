"""Edited portraits against the merged weights that they stand for."""

import numpy as np
import pytest
import torch

from w2w_lib.evaluation.edited_portraits import EditedPortraits
from w2w_lib.evaluation.portraits import prompts_with_seeds
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.space.controls import random_direction

QUICK = Sampling(steps=2)
SHOTS = prompts_with_seeds(["a photo of sks person", "sks person, smiling"], 3, 2)


@pytest.fixture(scope="module")
def edited(pipeline, space, weights):
    return EditedPortraits(pipeline, space, weights[:2], SHOTS, QUICK)


def close(images: np.ndarray, others: np.ndarray) -> bool:
    return np.abs(images.astype(int) - others).max() <= 1


def test_a_step_goes_to_the_training_extreme_either_way(edited, space):
    direction = random_direction(space, 4, seed=0)
    given = np.array([True, False])
    moved = direction.projection(
        space, space.project(edited.moved(direction, given) - edited.weights + space.mean_model)
    )
    np.testing.assert_allclose(moved, [direction.highest, direction.lowest], rtol=1e-3)
    half = edited.moved(direction, given, 0.5)
    torch.testing.assert_close(half, (edited.weights + edited.moved(direction, given)) / 2, rtol=1e-4, atol=1e-5)
    assert close(edited.along(direction, given, 0.0), edited.unedited())


def test_a_slider_acts_beside_the_persons_adapter(edited, pipeline, space, weights):
    slider, given = weights[5], np.array([True, False])
    images = edited.with_slider(slider, 0.7, given)
    merged = {n: p.clone() for n, p in pipeline.unet.state_dict().items()}
    layout, row = space.layout, 1
    factors = {k: v for k, v in layout.unflatten(torch.stack([edited.weights[row], slider])).items()}
    for factor in layout.factors:
        if factor.is_down:
            down, up = factors[factor.key], factors[factor.key.replace("lora_A", "lora_B")]
            own, others = ((up[k] @ down[k]) * layout.scale for k in (0, 1))
            merged[f"{factor.module}.weight"] += own - 0.7 * others
    kept = {n: p.clone() for n, p in pipeline.unet.state_dict().items()}
    try:
        pipeline.unet.load_state_dict(merged)
        expected = generate(pipeline, [SHOTS[1][0]], [SHOTS[1][1]], sampling=QUICK)
    finally:
        pipeline.unet.load_state_dict(kept)
    assert close(images[row, 1], expected[0])


def test_prompting_asks_everybody_for_their_own_opposite(edited, pipeline, space):
    images = edited.asked("Male", np.array([True, False]))
    woman = generate(pipeline, ["sks woman, smiling"], [4], space.layout, edited.weights[1:], sampling=QUICK)
    assert close(images[1, 1], woman[0])


def test_a_control_goes_as_far_as_the_edit(edited, space):
    direction = random_direction(space, 4, seed=0)
    other = random_direction(space, 4, seed=1).step(space)
    given = np.array([True, True])
    images = edited.beside(other, direction, given)
    few = edited.of([1], 1)
    assert close(few.beside(other, direction, given[:1]), images[1:, :1])


def test_a_sliders_strength_matches_the_change_of_the_layers(edited, space, weights):
    direction, given = random_direction(space, 4, seed=0), np.array([True, False])
    strength = edited.matched_strength(weights[5], direction, given)

    def dense(one):
        f = space.layout.unflatten(one[None])
        pairs = [(f[k.key.replace("lora_A", "lora_B")][0] @ f[k.key][0]) for k in space.layout.factors if k.is_down]
        return torch.cat([pair.flatten() for pair in pairs])

    moved = edited.moved(direction, given)
    changes = [(dense(after) - dense(own)).norm() for after, own in zip(moved, edited.weights, strict=True)]
    assert strength * dense(weights[5]).norm() == pytest.approx(float(torch.stack(changes).median()), rel=1e-3)
