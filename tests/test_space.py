"""The space, its directions and inversion against independent truths."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LinearRegression
from tiny_base import tiny_pipeline

from w2w_lib import inversion
from w2w_lib.bank import wearing
from w2w_lib.base_model import fingerprint
from w2w_lib.directions import (
    fit_directions,
    load_directions,
    random_direction,
    save_directions,
    separation,
)
from w2w_lib.editing import combined_step, flipped, opposite_strengths, random_step, side_effects, spill
from w2w_lib.generate import Sampling, generate
from w2w_lib.inversion import InversionRecipe, invert
from w2w_lib.layout import AdapterLayout
from w2w_lib.portraits import consistency, crop_portrait, head_mask, portraits, shots
from w2w_lib.slider import Studio, edit_strips, edited_image, panel
from w2w_lib.space import WeightSpace, held_out_share, independent_columns, outside

MODELS, PCS, LATENT = 60, 8, 3


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def layout(pipeline):
    return AdapterLayout.of(pipeline.unet, fingerprint(pipeline), "paper", rank=1, alpha=8)


@pytest.fixture(scope="module")
def theta(layout):
    """Weight vectors around a mean, mostly in a plane of LATENT dimensions."""
    rng = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(layout.dimension, LATENT, generator=rng)).Q.T
    factors = torch.randn(MODELS, LATENT, generator=rng) * torch.tensor([5.0, 3.0, 2.0])
    noise = 0.02 * torch.randn(MODELS, layout.dimension, generator=rng)
    return 0.1 * torch.randn(layout.dimension, generator=rng) + factors @ basis + noise


@pytest.fixture(scope="module")
def ids():
    return [f"train-{i:05d}" for i in range(MODELS)]


@pytest.fixture(scope="module")
def space(layout, theta, ids):
    return WeightSpace.fit(layout, theta, ids, PCS)


@pytest.fixture(scope="module")
def labels(space, ids):
    """Two attributes planted on one coefficient each, and one that is half of both."""
    unit = space.coefficients / space.std
    planted = {"first": unit[:, 0] > 0, "second": unit[:, 1] > 0, "both": unit[:, 0] + unit[:, 1] > 0}
    return pd.DataFrame({k: v.numpy() for k, v in planted.items()}, index=ids)


def cosine(a, b):
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


# ---------------------------------------------------------------- space
def test_space_is_numpys_svd(space, theta):
    centred = theta.double().numpy() - theta.double().numpy().mean(0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    overlap = np.abs((space.components.numpy() * rows[:PCS]).sum(1))
    np.testing.assert_allclose(overlap, 1, atol=1e-4)
    np.testing.assert_allclose(space.std.numpy(), singular[:PCS] / np.sqrt(MODELS - 1), rtol=1e-4)
    np.testing.assert_allclose(space.explained, singular[:PCS] ** 2 / (singular**2).sum(), rtol=1e-4)


def test_standardised_space_is_the_svd_of_standardised_weights(layout, theta, ids):
    space = WeightSpace.fit(layout, theta, ids, PCS, standardise=True)
    scaled = theta.double() / theta.double().std(0)
    singular = torch.linalg.svdvals(scaled - scaled.mean(0))
    torch.testing.assert_close(space.std.double(), singular[:PCS] / (MODELS - 1) ** 0.5, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("standardise", [False, True])
def test_all_components_give_every_model_back(layout, theta, ids, standardise):
    space = WeightSpace.fit(layout, theta, ids, standardise=standardise)
    assert len(space.components) == MODELS - 1
    torch.testing.assert_close(space.unproject(space.project(theta)), theta, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(space.project(theta), space.coefficients, rtol=1e-3, atol=1e-3)
    assert held_out_share(space, theta) == pytest.approx(1, abs=1e-4)


def test_share_explained_of_planted_dimensions(space, layout, theta):
    few = space.truncated(LATENT)
    assert few.explained.sum() > 0.95
    assert held_out_share(few, theta) == pytest.approx(few.explained.sum(), abs=1e-4)
    # A vector orthogonal to all components keeps nothing, one along a component everything.
    assert held_out_share(space, space.mean + space.components[:1]) == pytest.approx(1, abs=1e-5)
    assert held_out_share(space, outside(space, theta, seed=0)) == pytest.approx(0, abs=1e-5)


def test_shuffled_columns_keep_the_numbers_and_lose_the_structure(layout, theta, ids, space):
    shuffled = independent_columns(theta, seed=0)
    assert torch.equal(shuffled.sort(0).values, theta.sort(0).values)
    control = WeightSpace.fit(layout, shuffled, ids, PCS)
    assert control.total_variance == pytest.approx(space.total_variance, rel=1e-5)
    assert control.explained[:LATENT].sum() < 0.5 * space.explained[:LATENT].sum()


def test_samples_have_the_training_mean_and_deviation(space):
    drawn = space.sample(20_000, seed=0)
    torch.testing.assert_close(drawn.std(0), space.std, rtol=0.03, atol=0)
    assert (drawn.mean(0).abs() < 0.03 * space.std).all()
    assert torch.equal(space.sample(3, seed=5), space.sample(3, seed=5))
    assert not torch.equal(space.sample(3, seed=5), space.sample(3, seed=6))


def test_weights_outside_are_as_far_and_orthogonal(space, theta):
    strange = outside(space, theta, seed=0)
    distances = [(x - space.mean).norm(dim=1) for x in (strange, theta)]
    torch.testing.assert_close(*distances, rtol=1e-4, atol=0)
    assert ((strange - space.mean) @ space.components.T).abs().max() < 1e-4


def test_nearest_of_a_training_model_is_itself(space, ids):
    found, similarity = space.nearest(2.5 * space.coefficients[:5], count=2)
    assert [row[0] for row in found] == ids[:5]
    assert torch.allclose(similarity[:, 0], torch.ones(5))
    assert (similarity[:, 0] > similarity[:, 1]).all()


@pytest.mark.parametrize("standardise", [False, True])
def test_space_round_trip(layout, theta, ids, tmp_path, standardise):
    space = WeightSpace.fit(layout, theta, ids, PCS, standardise=standardise)
    space.save(tmp_path / "space.safetensors")
    found = WeightSpace.load(tmp_path / "space.safetensors")
    assert (found.layout, found.ids, found.total_variance) == (layout, ids, space.total_variance)
    for name in ("mean", "components", "coefficients", "scale"):
        kept, wanted = getattr(found, name), getattr(space, name)
        assert (kept is None and wanted is None) or torch.equal(kept, wanted)
    assert [p.name for p in tmp_path.iterdir()] == ["space.safetensors"]


def test_space_refuses(layout, theta, ids, tmp_path):
    with pytest.raises(ValueError, match="1 models: a space needs at least 2"):
        WeightSpace.fit(layout, theta[:1], ids[:1])
    with pytest.raises(ValueError, match="60 components: expected 1 to 59"):
        WeightSpace.fit(layout, theta, ids, MODELS)
    with pytest.raises(FileNotFoundError, match="run notebook 03 first"):
        WeightSpace.load(tmp_path / "none.safetensors")


# ---------------------------------------------------------------- directions
def test_plain_directions_are_linear_regression(space, labels):
    directions = fit_directions(space, labels, PCS, disentangle=False)
    unit = (space.coefficients / space.std).numpy()
    for attribute, direction in directions.items():
        normal = LinearRegression().fit(unit, labels[attribute]).coef_
        np.testing.assert_allclose(direction.vector, normal / np.linalg.norm(normal), atol=1e-4)


def test_planted_directions_are_found(space, labels):
    directions = fit_directions(space, labels[["first", "second"]], PCS)
    for k, direction in enumerate(directions.values()):
        planted = torch.eye(PCS)[k]
        assert cosine(direction.vector, planted) > 0.9
        assert direction.held_out_auc > 0.8
        assert direction.lowest < -1 and direction.highest > 1
        assert direction.vector.norm() == pytest.approx(1, abs=1e-5)


def test_disentangled_directions_move_one_score_each(space, labels):
    pair = labels[["first", "both"]]
    normals = torch.stack([d.vector for d in fit_directions(space, pair, PCS, disentangle=False).values()])
    vectors = torch.stack([d.vector for d in fit_directions(space, pair, PCS).values()])
    assert cosine(*normals) > 0.3  # the labels are entangled
    effect = normals @ vectors.T
    assert effect.diagonal().min() > 0.3
    assert (effect - effect.diagonal().diag()).abs().max() < 1e-5


def test_step_moves_the_projection_by_its_strength(layout, theta, ids, labels):
    for standardise in (False, True):
        space = WeightSpace.fit(layout, theta, ids, PCS, standardise=standardise)
        direction = fit_directions(space, labels[["first", "second"]], PCS)["first"]
        moved = space.project(theta[:3] + direction.step(space, 1.7))
        change = direction.projection(space, moved) - direction.projection(space, space.project(theta[:3]))
        torch.testing.assert_close(change, torch.full((3,), 1.7), rtol=1e-3, atol=1e-3)


def test_projections_of_training_models_have_unit_deviation(space, labels):
    direction = fit_directions(space, labels, PCS)["both"]
    projections = direction.projection(space, space.coefficients)
    assert projections.std() == pytest.approx(1, abs=1e-3)
    assert (projections.min().item(), projections.max().item()) == pytest.approx(
        (direction.lowest, direction.highest), abs=1e-5
    )


def test_separation_finds_labels_and_not_noise(space, labels):
    directions = fit_directions(space, labels, PCS, disentangle=False)
    assert min(separation(directions, space, space.coefficients, labels).values()) > 0.95
    coin = labels.sample(frac=1, random_state=0).set_axis(labels.index)
    assert max(abs(a - 0.5) for a in separation(directions, space, space.coefficients, coin).values()) < 0.25
    constant = labels.assign(first=True)
    assert np.isnan(separation(directions, space, space.coefficients, constant)["first"])


def test_directions_round_trip(space, labels, tmp_path):
    directions = fit_directions(space, labels, PCS)
    save_directions(directions, tmp_path / "d.safetensors")
    found = load_directions(tmp_path / "d.safetensors")
    assert list(found) == list(directions)
    for attribute, direction in directions.items():
        kept = found[attribute]
        assert torch.equal(kept.vector, direction.vector)
        assert (kept.lowest, kept.highest, kept.held_out_auc) == (
            direction.lowest,
            direction.highest,
            direction.held_out_auc,
        )


def test_directions_refuse(space, labels, tmp_path):
    with pytest.raises(ValueError, match="no row for identities train-00059"):
        fit_directions(space, labels.iloc[:-1])
    with pytest.raises(ValueError, match="labels first are the same for every identity"):
        fit_directions(space, labels.assign(first=True))
    with pytest.raises(FileNotFoundError, match="run notebook 04 first"):
        load_directions(tmp_path / "none.safetensors")


# ---------------------------------------------------------------- edits
def test_combined_steps_add_up(space, labels):
    directions = fit_directions(space, labels, PCS)
    both = combined_step(space, directions, {"first": 1.0, "second": -2.0})
    expected = directions["first"].step(space) - 2 * directions["second"].step(space)
    torch.testing.assert_close(both, expected)
    assert combined_step(space, directions, {"first": 0.0}).norm() == 0
    with pytest.raises(ValueError, match="no direction for Glasses: there are first, second, both"):
        combined_step(space, directions, {"Glasses": 1.0})


def test_opposite_strengths_go_to_the_other_extreme(space, labels):
    direction = fit_directions(space, labels, PCS)["first"]
    strengths = opposite_strengths(direction, np.array([True, False]), share=0.5)
    assert strengths.tolist() == pytest.approx([direction.lowest / 2, direction.highest / 2])


def test_random_step_is_as_long_and_points_elsewhere(space, labels):
    direction = fit_directions(space, labels, PCS)["first"]
    step, control = direction.step(space), random_step(space, direction, seed=3)
    assert control.norm() == pytest.approx(step.norm().item(), rel=1e-4)
    assert abs(cosine(step, control)) < 0.9
    assert random_direction(space, PCS, 0).vector.norm() == pytest.approx(1, abs=1e-5)


def test_side_effects_by_hand():
    before = pd.DataFrame({"a": [1.0, -1.0, 3.0, -3.0], "b": [0.5, -0.5, 0.5, -0.5]})
    turned = before.assign(a=-before["a"])  # |change of a| is 2 |a|, b untouched
    assert flipped(before, turned, "a").all() and not flipped(before, turned, "b").any()
    effects = side_effects(before, {"a": turned, "b": before.assign(b=-before["b"])})
    assert effects.loc["a", "a"] == pytest.approx(4 / before["a"].std())
    assert effects.loc["b", "b"] == pytest.approx(1 / before["b"].std())
    assert effects.loc["a", "b"] == 0 and spill(effects) == 0


# ---------------------------------------------------------------- pictures
def test_portraits_are_generate_row_by_row(pipeline, space, theta):
    taken = shots(["sks person", "person"], first_seed=7, count=3)
    assert taken == [("sks person", 7), ("person", 8), ("sks person", 9)]
    quick = Sampling(steps=2, batch_size=4)
    images = portraits(pipeline, space.layout, theta[:2], taken, quick, progress=False)
    alone = generate(pipeline, ["person"], [8], space.layout, theta[1:2], sampling=quick)
    assert images.shape[:2] == (2, 3)
    assert np.abs(images[1, 1].astype(int) - alone[0]).max() <= 1


def test_late_injection_is_between_the_original_and_the_edit(pipeline, space, theta):
    first, second = theta[:1], theta[1:2]

    def paint(inject_below, late=second, early=first):
        quick = Sampling(steps=4, guidance=1.5, inject_below=inject_below)
        return generate(pipeline, ["sks person"], [0], space.layout, late, sampling=quick, early=early)[0]

    original, edited = paint(1000, late=first), paint(1000)
    np.testing.assert_array_equal(paint(0), original)
    np.testing.assert_array_equal(paint(1000, early=None), edited)
    middle = paint(500)
    assert (middle != original).any() and (middle != edited).any()


def test_consistency_of_planted_embeddings():
    rng = np.random.default_rng(0)
    people = rng.normal(size=(40, 1, 16))
    assert consistency(people + 0.1 * rng.normal(size=(40, 3, 16))) == 1
    assert abs(consistency(rng.normal(size=(40, 3, 16))) - 0.5) < 0.1


def test_crop_puts_the_face_where_portraits_have_it():
    from skimage.data import astronaut

    from w2w_lib.judges import FALLBACK_BOX, detect_faces

    boxes, found = detect_faces(crop_portrait(astronaut(), 128)[None])
    assert found[0]
    assert np.abs(boxes[0] - FALLBACK_BOX).mean() < 25  # of 256
    with pytest.raises(ValueError, match="shows no face"):
        crop_portrait(np.zeros((64, 64, 3), np.uint8), 64)


def test_head_mask_covers_the_middle():
    mask = head_mask(8)[0]
    assert mask[4, 4] == 1 and mask[0, 0] == 0 and 0.2 < mask.mean() < 0.9


# ---------------------------------------------------------------- slider
@pytest.fixture(scope="module")
def studio(pipeline, space, labels, theta):
    directions = fit_directions(space, labels[["first", "second"]], PCS)
    return Studio(pipeline, space, directions, {"ann": theta[0], "bob": theta[1]}, Sampling(steps=2))


def test_slider_paints_the_edited_adapter(studio, space, theta):
    strengths = {"first": 2.0, "second": -1.0}
    image = edited_image(studio, "bob", strengths, "sks person", 4)
    edited = theta[1] + combined_step(space, studio.directions, strengths)
    expected = generate(studio.pipeline, ["sks person"], [4], space.layout, edited[None], sampling=studio.sampling)
    np.testing.assert_array_equal(image, expected[0])
    with pytest.raises(ValueError, match="unknown person 'eve': there are ann, bob"):
        edited_image(studio, "eve", {}, "sks person", 0)


def test_panel_follows_its_sliders_and_a_strip_needs_no_kernel(studio):
    widget = panel(studio, "sks person", seed=1)
    picture, controls = widget.children
    before = picture.value
    slider = controls.children[3]
    assert slider.description == "first" and not slider.continuous_update
    slider.value = 3.0
    assert picture.value != before and bytes(picture.value).startswith(b"\x89PNG")
    slider.value = 0.0
    assert picture.value == before
    ax = edit_strips(studio, "ann", ["first", "second"], [-1.0, 0.0, 1.0], "sks person", 1)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["first", "second"]


# ---------------------------------------------------------------- inversion
def teacher_loss(pipeline, layout, planted, batch):
    """A stand-in for the denoising loss whose minimum is known: the prediction of the model ``planted``."""
    teacher = copy.deepcopy(pipeline.unet)

    def loss(unet, scheduler, latents, noise, timesteps, text, mask):
        noisy = scheduler.add_noise(latents, noise, timesteps)
        with torch.no_grad(), wearing(teacher, layout, planted, torch.arange(len(noisy)) // batch):
            target = teacher(noisy, timesteps, text).sample
        return (unet(noisy, timesteps, text).sample - target).square().mean((1, 2, 3))

    return loss


def test_inversion_recovers_planted_coefficients(pipeline, space, monkeypatch):
    few = space.truncated(LATENT)
    planted = few.std * torch.tensor([[0.8, -0.5, 0.3], [-0.6, 0.4, 0.9]])
    recipe = InversionRecipe(steps=120, learning_rate=0.1, batch=4, prior=0.0)
    loss = teacher_loss(pipeline, few.layout, few.unproject(planted), recipe.batch)
    monkeypatch.setattr(inversion, "denoising_loss", loss)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    found, losses = inversion.invert(pipeline, few, latents, recipe, progress=False)
    assert (losses[-10:].mean(0) < 0.05 * losses[:10].mean(0)).all()
    torch.testing.assert_close(found / few.std, planted / few.std, rtol=0, atol=0.1)


def test_inversion_does_not_depend_on_company(pipeline, space):
    few = space.truncated(LATENT)
    recipe = InversionRecipe(steps=20, learning_rate=0.1, batch=4, prior=0.0)
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    together, losses = invert(pipeline, few, latents, recipe, progress=False)
    alone, _ = invert(pipeline, few, latents[:1], recipe, progress=False)
    assert losses.shape == (20, 2) and together.shape == (2, LATENT)
    torch.testing.assert_close(together[:1] / few.std, alone / few.std, rtol=0, atol=0.02)
    assert (together / few.std).abs().max() > 0.1


def test_inversion_follows_its_mask(pipeline, space):
    few, recipe = space.truncated(LATENT), InversionRecipe(steps=8, batch=2)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def found(mask=None):
        return invert(pipeline, few, latents, recipe, mask, progress=False)[0] / few.std

    everywhere = torch.ones(1, 1, 8, 8)
    torch.testing.assert_close(found(), found(3 * everywhere), rtol=0, atol=1e-3)
    assert (found() - found(head_mask(8)[None])).abs().max() > 0.02
