"""Inversion against planted coefficients."""

import copy
from dataclasses import replace
from unittest.mock import Mock

import pytest
import torch
from planted import LATENT
from tiny_base import tiny_pipeline

from w2w_lib.evaluation.portraits import head_mask
from w2w_lib.lora.batched import apply_adapters
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.prompts import INSTANCE_PROMPT, encode_prompts
from w2w_lib.space import inversion
from w2w_lib.space.inversion import InversionRecipe, invert
from w2w_lib.space.inversion_recipes import RECIPES


def teacher_loss(pipeline, layout, planted, batch):
    """A stand-in for the denoising loss whose minimum is known: the prediction of the model ``planted``."""
    teacher = copy.deepcopy(pipeline.unet)

    def loss(unet, scheduler, latents, noise, timesteps, text, mask):
        noisy = scheduler.add_noise(latents, noise, timesteps)
        with torch.no_grad(), apply_adapters(teacher, layout, planted, batch):
            target = teacher(noisy, timesteps, text).sample
        return (unet(noisy, timesteps, text).sample - target).square().mean((1, 2, 3))

    return loss


def test_inversion_recovers_planted_coefficients(pipeline, space, monkeypatch):
    few = space.truncated(LATENT)
    # A and B with their signs changed make the same update BA: far from the mean there is a second minimum.
    few = replace(few, mean=3 * few.mean)
    planted = few.std * torch.tensor([[0.8, -0.5, 0.3], [-0.6, 0.4, 0.9]])
    recipe = InversionRecipe(steps=60, learning_rate=0.2, batch=2, prior=0.0)
    loss = teacher_loss(pipeline, few.layout, few.unproject(planted), recipe.batch)
    monkeypatch.setattr(inversion, "denoising_loss", loss)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found, losses = inversion.invert(pipeline, few, latents, recipe, progress=False)
    assert (losses[-10:].mean(0) < 0.05 * losses[:10].mean(0)).all()
    torch.testing.assert_close(found / few.std, planted / few.std, rtol=0, atol=0.1)


def test_the_prior_pulls_to_the_mean_as_in_ridge_regression(pipeline, space, monkeypatch):
    few, target = space.truncated(LATENT), torch.tensor([[0.9, -0.6, 0.3]])
    recipe = InversionRecipe(steps=400, learning_rate=0.05, batch=1, prior=0.6)
    applied = Mock(wraps=inversion.apply_adapters)
    monkeypatch.setattr(inversion, "apply_adapters", applied)

    def distance(*batch):  # of the applied coefficients, in standard deviations, to the target
        units = few.project(applied.call_args.args[2]) / few.std
        return (units - target).square().sum(1)

    monkeypatch.setattr(inversion, "denoising_loss", distance)
    found, _ = invert(pipeline, few, torch.zeros(1, 4, 8, 8), recipe, progress=False)
    torch.testing.assert_close(found / few.std, target / (1 + recipe.prior / LATENT), rtol=0, atol=0.01)


def test_inversion_does_not_depend_on_the_other_pictures(pipeline, space):
    few = space.truncated(LATENT)
    recipe = InversionRecipe(steps=10, learning_rate=0.1, batch=2, prior=0.0)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    together, losses = invert(pipeline, few, latents, recipe, progress=False)
    alone, _ = invert(pipeline, few, latents[:1], recipe, progress=False)
    assert losses.shape == (10, 2) and together.shape == (2, LATENT)
    torch.testing.assert_close(together[:1] / few.std, alone / few.std, rtol=0, atol=0.02)
    in_turn, losses_in_turn = invert(pipeline, few, latents, replace(recipe, at_once=1), progress=False)
    torch.testing.assert_close(together / few.std, in_turn / few.std, rtol=0, atol=0.02)
    torch.testing.assert_close(losses[0], losses_in_turn[0], rtol=1e-3, atol=1e-5)
    assert (together / few.std).abs().max() > 0.1


def test_inversion_follows_its_mask(pipeline, space):
    few, recipe = space.truncated(LATENT), InversionRecipe(steps=8, batch=2)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def found(mask=None):
        return invert(pipeline, few, latents, recipe, mask, progress=False)[0] / few.std

    everywhere = torch.ones(1, 1, 8, 8)
    torch.testing.assert_close(found(), found(3 * everywhere), rtol=0, atol=1e-3)
    assert (found() - found(head_mask(8)[None])).abs().max() > 0.02


def test_several_pictures_of_a_person_make_one_model(pipeline, space):
    few, recipe = space.truncated(LATENT), InversionRecipe(steps=8, batch=2)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 1, 8, 8)
    mask[2, :, :4] = 0

    def found(rows, **more):
        return invert(pipeline, few, latents[rows], recipe, mask[rows], progress=False, **more)[0] / few.std

    together = found([0, 1, 2], people=["a", "b", "a"])
    assert together.shape == (2, LATENT)
    torch.testing.assert_close(together[0], found([0, 2], people=["a", "a"])[0], rtol=0, atol=0.02)  # b alone is second
    twice = found([0, 0], people=["a", "a"])  # the same picture twice is that picture, noised in other ways
    torch.testing.assert_close(twice[0], found([0])[0], rtol=0, atol=0.02)
    assert (together[0] - twice[0]).abs().max() > 0.02


def test_every_picture_is_denoised_under_its_own_prompt(pipeline, space, monkeypatch):
    few, recipe = space.truncated(LATENT), InversionRecipe(steps=6, batch=3)
    latents = torch.arange(3.0)[:, None, None, None].expand(3, 4, 8, 8)  # a picture's number is its content
    prompts = ["a photo of sks person, on a blue background", "sks person", "a photo of sks person, smiling"]
    states = encode_prompts(pipeline, prompts)
    loss, seen = inversion.denoising_loss, []

    def watched(unet, scheduler, clean, noise, timesteps, text, mask):
        seen.extend(clean[:, 0, 0, 0].int().tolist())
        torch.testing.assert_close(text, states[clean[:, 0, 0, 0].long()], rtol=0, atol=1e-5)
        return loss(unet, scheduler, clean, noise, timesteps, text, mask)

    def found(prompts):
        people = ["a", "b", "a"]
        return invert(pipeline, few, latents, recipe, people=people, prompts=prompts, progress=False)[0] / few.std

    with monkeypatch.context() as patch:
        patch.setattr(inversion, "denoising_loss", watched)
        said = found(prompts)
    assert set(seen) == {0, 1, 2}
    assert (said - found(None)).abs().max() > 0.02
    torch.testing.assert_close(found(None), found([INSTANCE_PROMPT] * 3), rtol=0, atol=1e-3)


def test_a_start_is_where_the_optimisation_begins(pipeline, space, monkeypatch):
    few, start = space.truncated(LATENT), space.std[None, :LATENT] * torch.tensor([[1.0, -2.0, 0.5]])
    applied = Mock(wraps=inversion.apply_adapters)
    monkeypatch.setattr(inversion, "apply_adapters", applied)
    found, _ = invert(pipeline, few, torch.zeros(1, 4, 8, 8), InversionRecipe(steps=1), progress=False, start=start)
    torch.testing.assert_close(applied.call_args.args[2], few.unproject(start), rtol=1e-4, atol=1e-5)
    moved = (found - start).abs() / few.std
    torch.testing.assert_close(moved, torch.full_like(moved, 0.1), rtol=0, atol=1e-3)  # Adam's first step


@pytest.mark.parametrize(("name", "steps"), [("paper", 400), ("ours", 200)])
def test_recipes_have_names_and_units(pipeline, space, monkeypatch, name, steps):
    few, target = space.truncated(LATENT), space.std[None, :LATENT] * 0.7
    applied = Mock(wraps=inversion.apply_adapters)
    monkeypatch.setattr(inversion, "apply_adapters", applied)
    monkeypatch.setattr(
        inversion, "denoising_loss", lambda *_: (few.project(applied.call_args.args[2]) - target).square().sum(1)
    )
    monkeypatch.setitem(RECIPES, name, replace(RECIPES[name], batch=1))
    found, losses = invert(pipeline, few, torch.zeros(1, 4, 8, 8), name, progress=False)
    assert len(losses) == steps
    torch.testing.assert_close(found / few.std, target / few.std, rtol=0, atol=0.05)
    first = (few.project(applied.call_args_list[1].args[2]) / (1 if name == "paper" else few.std)).flatten()
    torch.testing.assert_close(first, torch.full_like(first, 0.1), rtol=0, atol=1e-3)  # raw, or standard deviations
    with pytest.raises(ValueError, match="no recipe 'papr', did you mean 'paper'"):
        invert(pipeline, few, torch.zeros(1, 4, 8, 8), "papr")


def test_the_papers_settings_are_those_of_its_appendix():
    paper = RECIPES["paper"]
    assert (paper.steps, paper.learning_rate, paper.weight_decay, paper.prior) == (400, 0.1, 1e-10, 0)
    assert (paper.units, paper.schedule) == ("raw", "constant")


def test_inversion_refuses(pipeline, space, unchecked):
    latents, few = torch.zeros(2, 4, 8, 8), space.truncated(LATENT)
    mask, nan = torch.ones(2, 1, 8, 8), torch.full((2, 4, 8, 8), torch.nan)
    empty = torch.stack([mask[0], 0 * mask[0]])
    other = tiny_pipeline(seed=1)
    bases = f"on base {space.layout.base}, this pipeline is base {fingerprint(other)}"
    late = InversionRecipe(timesteps=(0, 1001))
    everything = (pipeline, few, latents, None, None, False, None, None)
    for arguments, error in [
        ((other, few, latents), bases),
        ((pipeline, few, latents[0]), r"latents: expected pictures of 4 channels, .* found \(4, 8, 8\)"),
        ((pipeline, few, latents.numpy()), "latents: expected a tensor of floating-point numbers, found ndarray"),
        ((pipeline, few, torch.zeros(1, 4, 8, 6)), r"latents: .* as this base paints, found \(1, 4, 8, 6\)"),
        ((pipeline, few.components, latents), "space: expected WeightSpace, found Tensor"),
        ((pipeline.unet, few, latents), "pipeline: expected StableDiffusionPipeline, found UNet"),
        ((pipeline, few, latents, {"steps": 5}), "recipe: expected InversionRecipe, found dict"),
        ((pipeline, few, latents, None, mask.numpy()), "mask: expected a tensor"),
        ((pipeline, few, latents[:, :3]), "latents: expected pictures of 4 channels"),
        ((pipeline, few, latents[:0]), "latents: expected pictures"),
        ((pipeline, few, nan), "latents: rows 0, 1 hold NaN"),
        ((pipeline, few, latents, late), "timesteps: expected an end of at most 1000, the scheduler's, found 1001"),
        ((pipeline, few, latents, None, mask[:1]), r"mask: expected shape \(2, 1, 8, 8\), found \(1, 1, 8, 8\)"),
        ((pipeline, few, latents, None, nan[:, :1]), "mask: rows 0, 1 hold NaN"),
        (
            (pipeline, few, latents, None, None, False, ["a"]),
            "people: expected a list of 2, one for each picture",
        ),
        ((pipeline, few, latents, None, None, False, "ab"), "people: expected a list of 2, one"),
        ((pipeline, few, latents, None, None, False, ["a", "a"], few.coefficients[:2]), "start: .* 1 people, found 2"),
        ((pipeline, few, latents, None, None, False, None, torch.zeros(2, 2)), "start: expected rows of 3 numbers"),
        ((*everything, ["sks person"]), "prompts: expected a list of 2, one for each picture, found list"),
        ((*everything, "sks person"), "prompts: expected a list of 2, one for each picture, found 'sks person'"),
        ((*everything, ["sks person", 3]), "prompt 3: expected a text"),
        ((pipeline, few, latents, None, -mask), "mask: expected numbers of at least 0"),
        (
            (pipeline, few, latents, None, empty),
            "mask: expected numbers of at least 0, and above it somewhere in every",
        ),
    ]:
        with pytest.raises(ValueError, match=error):
            invert(*arguments)


def test_an_inversion_that_diverges_says_so(pipeline, space, monkeypatch):
    monkeypatch.setattr(inversion, "denoising_loss", lambda *_: torch.full((2,), torch.nan, requires_grad=True))
    with pytest.raises(ValueError, match="inversion of pictures 0 diverged at step 0: lower the learning rate"):
        invert(pipeline, space, torch.zeros(1, 4, 8, 8), InversionRecipe(batch=2), progress=False)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"steps": 0}, "InversionRecipe: steps: .*greater than 0, found 0"),
        ({"learning_rate": float("nan")}, "InversionRecipe: learning_rate"),
        ({"learning_rate": -0.1}, "InversionRecipe: learning_rate"),
        ({"batch": 1.5}, "InversionRecipe: batch"),
        ({"at_once": 0}, "InversionRecipe: at_once"),
        ({"prior": -1.0}, "InversionRecipe: prior"),
        ({"units": "sigma"}, "InversionRecipe: units: .*'deviations' or 'raw'"),
        ({"schedule": "linear"}, "InversionRecipe: schedule: .*'cosine' or 'constant'"),
        ({"weight_decay": -1.0}, "InversionRecipe: weight_decay"),
        ({"timesteps": ("0", "500")}, "InversionRecipe: timesteps.0: Input should be a valid integer"),
        ({"timesteps": (500, 500)}, "InversionRecipe: .*expected a first one and a later end"),
        ({"timesteps": (-1, 500)}, "InversionRecipe: .*expected a first one and a later end"),
        ({"seed": -1}, "InversionRecipe: seed"),
        ({"step": 3}, "InversionRecipe: no setting 'step', did you mean 'steps'?"),
    ],
)
def test_a_recipe_is_checked(settings, error, unchecked):
    with pytest.raises(ValueError, match=error):
        InversionRecipe(**settings)
