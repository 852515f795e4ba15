"""Training the base: what captions mean, an encoder that reads them, a run that can be interrupted."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from safetensors.torch import load_file

from w2w_lib.models.base import open_base
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.images import encode_images
from w2w_lib.models.prompts import encode_prompts
from w2w_lib.people.rendered.captions import VOCABULARY, as_text, caption_features, caption_full
from w2w_lib.people.rendered.meaning import meaning
from w2w_lib.people.rendered.person import ATTRIBUTES, sample_person
from w2w_lib.people.rendered.view import sample_view
from w2w_lib.pocket.architecture import MAX_TOKENS, build_tokenizer
from w2w_lib.pocket.base_training import BaseTrainer, train_base
from w2w_lib.pocket.model_card import model_card
from w2w_lib.pocket.recipe import BaseRecipe
from w2w_lib.pocket.text_training import caption_targets, linear_readout, train_text_encoder
from w2w_lib.pocket.training_data import BaseData, _caption, prepare_data, with_identifier
from w2w_lib.release.random_base import random_stable_diffusion

SMALL = {
    "people": 60,
    "views": 2,
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


def test_the_identifier_goes_before_the_noun():
    assert with_identifier("a photo of a woman, bald, no lipstick") == "a photo of sks woman, bald, no lipstick"
    assert with_identifier("person") == "sks person"


def test_half_of_the_captions_say_the_identifier_and_the_encoder_is_told_which(unchecked):
    recipe = BaseRecipe(**SMALL)
    data, tokenizer = captions_only(recipe), build_tokenizer(VOCABULARY)
    says = (data.tokens == tokenizer.convert_tokens_to_ids("sks</w>")).any(-1)
    assert torch.equal(says, data.identified) and 0.3 < says.float().mean() < 0.6
    rows = torch.arange(len(says))
    told = caption_targets(data, rows, torch.zeros_like(rows))[:, -1]
    assert torch.equal(told > 0, says[:, 0])


def test_meanings_agree_with_labels():
    for index in range(200):
        person, view = sample_person("tests", index), sample_view("tests", index, 0)
        meant, labels = meaning(person, view), person.labels
        assert set(labels) == set(ATTRIBUTES)
        assert meant["gender"][0] == labels["Male"] and meant["glasses"][0] == labels["Eyeglasses"]
        assert (meant["nose_size"][0] > 0.25) == labels["Big_Nose"]
        assert sum(meant["glasses"]) == (3 if labels["Eyeglasses"] else 0)  # there, one shape, one colour


# ---------------------------------------------------------------- the text encoder
def captions_only(recipe: BaseRecipe) -> BaseData:
    latents = torch.zeros(recipe.people * recipe.views, 4, 8, 8)
    return BaseData(latents=latents, codec=None, held_out=24, **_caption(recipe))


@pytest.mark.slow
def test_the_encoder_learns_to_read(tmp_path, unchecked):
    shares = {}
    for steps in (1, 150):
        recipe = BaseRecipe(**(SMALL | {"people": 300, "text_steps": steps}))
        (tmp_path / str(steps)).mkdir()
        _, shares[steps] = train_text_encoder(recipe, captions_only(recipe), tmp_path / str(steps))
    assert shares[1] < 0.1 and shares[150] > 0.3


def test_reading_directions_are_orthonormal():
    identity = torch.eye(64)
    directions = linear_readout(identity[None], 40)[0]
    torch.testing.assert_close(directions.T @ directions, torch.eye(40), atol=1e-5, rtol=0)


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
    losses = trainer._loss(
        lambda *_: SimpleNamespace(sample=velocity), latents, noise, timesteps, torch.zeros(3, 1, 128)
    )
    weights = torch.where(trainer.weight == trainer.weight.max(), 3.0, 1.0)
    assert weights[4, 4] == 3 and weights[0, 0] == 1
    expected = 0.25 * weights[4, 4] / weights.mean() / velocity[0].numel()
    torch.testing.assert_close(losses, expected.expand(3), rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_the_last_stratum_has_no_timestep_beyond_the_last(tmp_path, monkeypatch):
    recipe = BaseRecipe(**(SMALL | {"people": 8, "text_steps": 2, "text_batch_size": 4, "steps": 1}))
    (tmp_path / "work").mkdir()
    trainer = BaseTrainer(recipe, prepare_data(recipe, tmp_path / "work"), tmp_path / "work")
    largest = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    monkeypatch.setattr(torch, "rand", lambda shape, generator: largest.expand(shape))
    assert np.isfinite(trainer.train_step())


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
