"""Training the text encoder: a small CLIP without attributes, the planted reference, and what is read from states."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from w2w_lib.people.rendered.captions import VOCABULARY
from w2w_lib.pocket.architecture import build_text_encoder, build_tokenizer
from w2w_lib.pocket.contrastive_text import SmallClip, info_nce
from w2w_lib.pocket.planted_text import caption_targets, linear_readout
from w2w_lib.pocket.recipe import BaseRecipe
from w2w_lib.pocket.text_quality import readout_scores
from w2w_lib.pocket.text_training import train_text_encoder
from w2w_lib.pocket.training_data import BaseData, _caption

RECIPE = BaseRecipe(
    people=40, views=2, known=0, text_objective="contrastive", alternatives=3, captions_per_view=4, text_layers=2,
    text_steps=3, text_batch_size=16,
)  # fmt: skip


def captioned(recipe: BaseRecipe) -> BaseData:
    """Captions, and latents that are random mixtures of the numbers behind them."""
    captions = _caption(recipe)
    numbers = captions["numbers"]
    standard = (numbers - numbers.mean(0)) / numbers.std(0).clamp_min(1e-6)
    mixing = torch.randn(numbers.shape[1], 4 * 8 * 8, generator=torch.Generator().manual_seed(0))
    latents = (standard @ mixing).reshape(-1, 4, 8, 8) / numbers.shape[1] ** 0.5
    return BaseData(latents=latents, codec=None, known=0, held_out=24, **captions)


# ---------------------------------------------------------------- contrastive
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_the_loss_of_orthogonal_and_of_identical_pairs(scale):
    orthogonal, identical = 3 * torch.eye(8), torch.ones(8, 5)
    expected = np.log1p(7 * np.exp(-scale))  # seven others, each with cosine 0 against 1
    assert_close(info_nce(orthogonal, orthogonal, scale).item(), expected, rtol=1e-5, atol=1e-6)
    assert_close(info_nce(identical, identical, scale).item(), np.log(8), rtol=1e-6, atol=1e-6)


def test_altered_captions_are_further_others_of_a_picture_but_not_where_they_are_the_same():
    own, altered = torch.eye(8), torch.eye(8)[:, None].repeat(1, 3, 1)  # as near as the captions themselves
    same = torch.tensor([[True, False, False]] * 8)
    found = info_nce(own, own, torch.tensor(1.0), altered, same).item()
    of_captions, of_pictures = np.log(np.e + 7) - 1, np.log(3 * np.e + 7) - 1
    assert_close(found, (of_captions + of_pictures) / 2, rtol=1e-5, atol=0)


def test_the_temperature_is_clamped():
    clip = SmallClip(build_text_encoder(build_tokenizer(["person"]), 32, 1), 4, 8)
    assert_close(clip.scale.item(), 1 / 0.07, rtol=1e-6, atol=0)
    clip.log_scale.data.fill_(20.0)
    assert_close(clip.scale.item(), 100.0, rtol=1e-6, atol=0)


def test_a_caption_is_embedded_as_its_end_state_projected():
    tokenizer = build_tokenizer(VOCABULARY)
    clip = SmallClip(build_text_encoder(tokenizer, 32, 2), 4, 8).eval()
    texts = [", ".join(["bald"] * (count % 20)) + " person" for count in range(30)]
    ids = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        states, ends = clip.text(ids).last_hidden_state, [text.index(tokenizer.eos_token_id) for text in ids.tolist()]
        assert_close(clip.embed_captions(ids), states[range(30), ends] @ clip.text_projection.weight.T)
        assert clip.embed_pictures(torch.randn(30, 4, 8, 8)).shape == (30, 32)


def test_no_attribute_reaches_the_contrastive_encoder(tmp_path, unchecked):
    data, trained = captioned(RECIPE), []
    blind = replace(data, numbers=torch.rand_like(data.numbers), mentioned=torch.zeros_like(data.mentioned))
    for name, told in (("told", data), ("blind", blind)):
        (tmp_path / name).mkdir()
        trained.append(train_text_encoder(RECIPE, told, tmp_path / name)[0].state_dict())
    assert all(torch.equal(trained[0][key], trained[1][key]) for key in trained[0])
    torch.manual_seed(RECIPE.seed)
    start = build_text_encoder(build_tokenizer(VOCABULARY), RECIPE.text_width, RECIPE.text_layers).state_dict()
    assert any(not torch.equal(start[key], trained[0][key]) for key in start)


# ---------------------------------------------------------------- both
@pytest.mark.slow
@pytest.mark.parametrize(("objective", "bar"), [("contrastive", 0.3), ("planted", 0.3)])
def test_the_encoder_learns_to_read(objective, bar, tmp_path, unchecked):
    recipe = replace(RECIPE, people=300, text_objective=objective, text_batch_size=64)
    data, reached = captioned(recipe), {}
    for steps in (1, 150):
        (tmp_path / str(steps)).mkdir()
        reached[steps] = train_text_encoder(replace(recipe, text_steps=steps), data, tmp_path / str(steps))[1]
    assert reached[1] < 0.2 and reached[150] > bar


# ---------------------------------------------------------------- planted
def test_reading_directions_are_orthonormal():
    directions = linear_readout(torch.eye(64)[None], 40)[0]
    assert_close(directions.T @ directions, torch.eye(40), atol=1e-5, rtol=0)


def test_the_planted_encoder_is_told_which_captions_say_the_identifier(unchecked):
    data, tokenizer = captioned(RECIPE), build_tokenizer(VOCABULARY)
    says = (data.tokens == tokenizer.convert_tokens_to_ids("sks</w>")).any(-1)
    rows = torch.arange(len(says))
    assert torch.equal(caption_targets(data, rows, torch.zeros_like(rows))[:, -1] > 0, says[:, 0])


# ---------------------------------------------------------------- what is read
def test_what_is_there_is_read_and_noise_is_not():
    rng = np.random.default_rng(0)
    numbers = np.c_[rng.normal(size=(2000, 2)), rng.integers(0, 2, (2000, 2))].astype(float)
    truth = [{"size": [a], "style": [b, c], "worn": [d]} for a, b, c, d in numbers]
    scores = readout_scores({"linear": numbers @ rng.normal(size=(4, 6)), "noise": rng.normal(size=(2000, 6))}, truth)
    assert list(scores.index) == [("size", "R²"), ("style", "R²"), ("style", "AUC"), ("worn", "AUC")]
    np.testing.assert_allclose(scores["linear"], np.ones(4), atol=1e-3)
    np.testing.assert_allclose(scores["noise"], [0, 0, 0.5, 0.5], atol=0.06)
