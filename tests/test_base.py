"""Training the base: what captions mean, a run that can be interrupted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from safetensors.torch import load_file

from w2w_lib.models.base import open_base
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.images import encode_images
from w2w_lib.models.prompts import encode_prompts
from w2w_lib.people.rendered.captions import (
    VOCABULARY,
    all_features,
    altered,
    as_text,
    caption_features,
    caption_full,
)
from w2w_lib.people.rendered.meaning import meaning
from w2w_lib.people.rendered.names import known_names
from w2w_lib.people.rendered.person import ATTRIBUTES, sample_person
from w2w_lib.people.rendered.view import BACKGROUNDS, EXPRESSIONS, SHIRTS, sample_view
from w2w_lib.pocket.architecture import MAX_TOKENS, build_tokenizer
from w2w_lib.pocket.base_trainer import BaseTrainer
from w2w_lib.pocket.base_training import train_base
from w2w_lib.pocket.model_card import model_card
from w2w_lib.pocket.recipe import BaseRecipe
from w2w_lib.pocket.training_data import _caption, prepare_data, tokenizer_of, with_identifier
from w2w_lib.release.random_base import random_stable_diffusion

SMALL = {
    "people": 60,
    "views": 2,
    "known": 0,
    "refiner_channels": [16, 16],
    "refine_steps": 2,
    "refine_batch_size": 4,
    "text_width": 128,
    "text_layers": 2,
    "channels": [16, 32],
    "batch_size": 4,
}


# ---------------------------------------------------------------- captions and what they mean
def test_captions_fit_the_text_encoder():
    tokenizer, rng = build_tokenizer(VOCABULARY), np.random.default_rng(0)
    for index in range(300):
        person, view = sample_person("tests", index), sample_view("tests", index, 0)
        for text in (caption_full(person, view), as_text(caption_features(person, view, rng))):
            assert len(tokenizer(text).input_ids) <= MAX_TOKENS


def test_every_phrase_of_a_caption_has_a_meaning():
    rng = np.random.default_rng(0)
    for index in range(50):
        person, view = sample_person("tests", index), sample_view("tests", index, 0)
        assert set(caption_features(person, view, rng)) <= {"opening", *meaning(person, view)}


def test_an_altered_caption_says_one_thing_of_another_picture():
    rng, changed = np.random.default_rng(0), 0
    for index in range(40):
        said = caption_features(sample_person("train", index), sample_view("train", index, 0), rng)
        others = all_features(sample_person("train", index + 1), sample_view("train", index + 1, 0))
        wrong = altered(said, others, rng)
        different = [name for name in said if wrong[name] != said[name]]
        assert list(wrong) == list(said) and len(different) <= 1
        changed += len(different)
        assert all(others[name].endswith(wrong[name]) for name in different)
        assert as_text(wrong).startswith("a photo") == as_text(said).startswith("a photo")
    assert changed > 25  # some captions say nothing


def test_the_identifier_goes_before_the_noun():
    assert with_identifier("a photo of a woman, bald, no lipstick") == "a photo of sks woman, bald, no lipstick"
    assert with_identifier("person") == "sks person"


def test_half_of_the_captions_say_the_identifier():
    captions, tokenizer = _caption(BaseRecipe(**SMALL)), build_tokenizer(VOCABULARY)
    says = (captions["tokens"] == tokenizer.convert_tokens_to_ids("sks</w>")).any(-1)
    assert torch.equal(says, captions["identified"]) and 0.3 < says.float().mean() < 0.6


def test_captions_of_known_people_name_them_and_say_nothing_of_their_looks():
    recipe = BaseRecipe(**(SMALL | {"people": 4, "known": 5, "known_views": 3}))
    captions, tokenizer = _caption(recipe), tokenizer_of(5)
    said = tokenizer.batch_decode(captions["tokens"].flatten(0, 1).tolist(), skip_special_tokens=True)
    of_known, names = said[: 5 * 3 * recipe.captions_per_view], known_names(5)
    views = {word for phrases in (BACKGROUNDS, SHIRTS, EXPRESSIONS) for phrase in phrases for word in phrase.split()}
    views |= set("a photo of facing left right forward lit from the front on background wearing , mouth open".split())
    for position, caption in enumerate(of_known):
        name = names[position // (3 * recipe.captions_per_view)]
        assert not caption or name in caption.split(), caption
        assert set(caption.split()) <= views | {name}, caption
    assert sum(map(bool, of_known)) > 50 and not captions["identified"][:15].any()
    assert not any(name in caption.split() for name in names for caption in said[len(of_known) :])


def test_names_are_single_tokens_and_no_words_of_captions():
    names, tokenizer = known_names(300), tokenizer_of(300)
    assert len(set(names)) == 300 and not set(names) & set(VOCABULARY) and names[:20] == known_names(20)
    assert all(len(tokenizer.tokenize(name)) == 1 for name in names)


def test_meanings_agree_with_labels():
    for index in range(200):
        person, view = sample_person("tests", index), sample_view("tests", index, 0)
        meant, labels = meaning(person, view), person.labels
        assert set(labels) == set(ATTRIBUTES)
        assert meant["gender"][0] == labels["Male"] and meant["glasses"][0] == labels["Eyeglasses"]
        assert (meant["nose_size"][0] > 0.25) == labels["Big_Nose"]
        assert sum(meant["glasses"]) == (3 if labels["Eyeglasses"] else 0)  # there, one shape, one colour


# ---------------------------------------------------------------- somebody else's base
def test_a_base_with_another_scheduler_is_painted_with_its_noise_and_without_clipping(tmp_path):
    theirs = random_stable_diffusion()
    theirs.scheduler = DPMSolverMultistepScheduler(beta_start=0.001, beta_end=0.02, prediction_type="v_prediction")
    theirs.save_pretrained(tmp_path)
    pipeline = open_base(tmp_path)
    config = pipeline.scheduler.config
    assert (config.clip_sample, config.steps_offset, config.prediction_type) == (False, 1, "v_prediction")
    torch.testing.assert_close(pipeline.scheduler.betas, theirs.scheduler.betas)
    pictures = torch.rand(3, 3, 64, 64) * 2 - 1
    encoded = encode_images(pipeline, pictures)
    one_by_one = torch.cat([encode_images(pipeline, picture[None]) for picture in pictures])
    torch.testing.assert_close(encoded, one_by_one, rtol=1e-4, atol=1e-5)
    assert pipeline.vae.use_slicing  # a picture at a time: memory is what it saves


def test_a_base_in_half_precision_is_the_same_base(tmp_path):
    random_stable_diffusion().save_pretrained(tmp_path)
    exact, half = open_base(tmp_path), open_base(tmp_path, torch.bfloat16)
    assert fingerprint(exact) == fingerprint(half)
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([10, 900]), encode_prompts(exact, ["sks person", "person"])
    expected, found = (pipeline.unet(*inputs).sample for pipeline in (exact, half))
    assert found.dtype == torch.float32 and next(half.unet.parameters()).dtype == torch.bfloat16
    assert 0 < (found - expected).norm() < 0.05 * expected.norm()


# ---------------------------------------------------------------- the run
@pytest.mark.slow
def test_an_interrupted_run_ends_in_the_same_base(tmp_path):
    recipe = BaseRecipe(**(SMALL | {"people": 8, "text_steps": 2, "text_batch_size": 4, "steps": 4}))
    work = tmp_path / "work"
    train_base(recipe, tmp_path / "whole", work, checkpoint_every=4)
    (work / "checkpoint.pt").unlink()
    trainer = BaseTrainer(recipe, prepare_data(recipe, work), work)
    for _ in range(2):
        trainer.train_step()
    trainer.save_checkpoint()
    log = train_base(recipe, tmp_path / "resumed", work, checkpoint_every=4)
    assert [entry["step"] for entry in log] == [4]
    name = "unet/diffusion_pytorch_model.safetensors"
    whole, resumed = (load_file(tmp_path / run / name) for run in ("whole", "resumed"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    untrained = BaseTrainer(recipe, prepare_data(recipe, work), work).unet.state_dict()
    assert any(not torch.equal(whole[key], untrained[key].half()) for key in whole)


def test_a_finished_base_is_not_trained_again(tmp_path):
    recipe = BaseRecipe(**{"steps": 7, "channels": [16, 32]})
    (tmp_path / "training.json").write_text(
        '{"recipe": {"steps": 7, "channels": [16, 32]}, "log": [{"step": 7, "loss": 0.5}]}'
    )
    assert train_base(recipe, tmp_path, tmp_path / "work") == [{"step": 7, "loss": 0.5}]
    with pytest.raises(ValueError, match=r"another recipe \(steps 7 there, 8 here\).*move the folder away"):
        train_base(BaseRecipe(**{"steps": 8, "channels": [16, 32]}), tmp_path, tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_a_work_folder_belongs_to_one_recipe(tmp_path):
    recipe = BaseRecipe(**(SMALL | {"people": 8, "text_steps": 2, "text_batch_size": 4, "steps": 1}))
    train_base(recipe, tmp_path / "base", tmp_path / "work")
    with pytest.raises(ValueError, match=r"work holds a base made by another recipe \(seed 0 there, 1 here\)"):
        train_base(replace(recipe, seed=1), tmp_path / "other", tmp_path / "work")


@pytest.mark.slow
def test_the_loss_is_the_weighted_squared_error_of_the_velocity(tmp_path):
    recipe = BaseRecipe(**(SMALL | {"people": 8, "text_steps": 2, "text_batch_size": 4, "face_weight": 3.0}))
    (tmp_path / "work").mkdir()
    trainer = BaseTrainer(recipe, prepare_data(recipe, tmp_path / "work"), tmp_path / "work")
    latents = trainer.data.latents[:3]
    noise, timesteps = (
        torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 500, 999]),
    )
    signal = trainer.scheduler.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
    velocity = signal * noise - (1 - signal**2).sqrt() * latents
    velocity[:, 3, 4, 4] += 0.5  # where portraits have their face
    losses = trainer._loss(lambda *_: velocity, latents, noise, timesteps, torch.zeros(3, 1, 128))
    weights = torch.where(trainer.weight == trainer.weight.max(), 3.0, 1.0)
    assert weights[4, 4] == 3 and weights[0, 0] == 1
    expected = 0.25 * weights[4, 4] / weights.mean() / velocity[0].numel()
    torch.testing.assert_close(losses, expected.expand(3), rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_the_saved_weights_are_a_moving_average_of_those_trained(tmp_path):
    recipe = BaseRecipe(**(SMALL | {"people": 8, "text_steps": 2, "text_batch_size": 4, "steps": 4}))
    (tmp_path / "work").mkdir()
    trainer = BaseTrainer(recipe, prepare_data(recipe, tmp_path / "work"), tmp_path / "work")
    average = [learned.detach().clone() for learned in trainer.learned]
    for step in range(1, 4):
        trainer.train_step()
        kept = min(recipe.ema_decay, 1 - step**-0.75)  # the warm-up's decay
        average = [kept * old + (1 - kept) * new.detach() for old, new in zip(average, trainer.learned, strict=True)]
    for found, expected in zip(trainer.ema.shadow_params, average, strict=True):
        torch.testing.assert_close(found, expected)
    assert any(not torch.equal(a, b) for a, b in zip(trainer.ema.shadow_params, trainer.learned, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["contrastive", "joint"])
def test_only_a_joint_text_encoder_learns_with_the_unet(tmp_path, objective):
    changed = {"people": 8, "text_steps": 2, "text_batch_size": 4, "steps": 4, "text_objective": objective}
    recipe, work = BaseRecipe(**(SMALL | changed)), tmp_path / "work"
    work.mkdir()
    data = prepare_data(recipe, work)
    trainer = BaseTrainer(recipe, data, work)
    before = {name: tensor.clone() for name, tensor in trainer.text_encoder.state_dict().items()}
    for _ in range(2):
        trainer.train_step()
    after = trainer.text_encoder.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before) == (objective == "joint")
    trainer.save_checkpoint()
    resumed = BaseTrainer(recipe, data, work)
    assert resumed.load_checkpoint()
    for one, other in zip(trainer.learned, resumed.learned, strict=True):
        assert torch.equal(one, other)
    saved = resumed.pipeline(data.codec).text_encoder.state_dict()
    averages = trainer.ema.shadow_params[len(trainer.masters) :] or [*trainer.text_encoder.parameters()]
    for found, expected in zip(saved.values(), averages, strict=True):
        assert torch.equal(found, expected)


@pytest.mark.slow
def test_the_last_stratum_has_no_timestep_beyond_the_last(tmp_path, monkeypatch):
    recipe = BaseRecipe(**(SMALL | {"people": 8, "text_steps": 2, "text_batch_size": 4, "steps": 1}))
    (tmp_path / "work").mkdir()
    trainer = BaseTrainer(recipe, prepare_data(recipe, tmp_path / "work"), tmp_path / "work")
    largest = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    monkeypatch.setattr(torch, "rand", lambda shape, generator, device=None: largest.expand(shape))
    assert trainer.train_step().isfinite()


def test_an_unknown_recipe_setting_is_named():
    with pytest.raises(ValueError, match="no setting 'stepz', did you mean 'steps'"):
        BaseRecipe(**{"stepz": 7})


def test_model_card_states_recipe_and_measurements():
    card = model_card(BaseRecipe(steps=77), {"faces_detected": 0.98765}, "In one go.")
    assert (
        "| steps | 77 |" in card and "| faces_detected | 0.9877 |" in card and "In one go." in card and "Limits" in card
    )


def test_a_tokenizer_built_twice_is_the_same_and_has_one_token_for_a_word():
    first, second = build_tokenizer(list(VOCABULARY)), build_tokenizer(list(VOCABULARY))
    assert first.backend_tokenizer.to_str() == second.backend_tokenizer.to_str()  # vocabulary and merges
    assert first.tokenize("a photo of a sks person, bald") == [
        f"{w}</w>" for w in "a photo of a sks person , bald".split()
    ]
