"""The pocket world's dual encoder: its captions, its loss in closed form, its file, and what the shipped one knows."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from w2w_lib.evaluation import dual_encoder, dual_encoder_training
from w2w_lib.evaluation.caption_phrases import FEATURES, PHRASES, counted, mirrored, phrases_of, taken_apart
from w2w_lib.evaluation.dual_encoder import DualEncoder
from w2w_lib.evaluation.dual_encoder_training import (
    attribute_aucs,
    contrastive_loss,
    retrieval,
    train_dual_encoder,
    what_there_is_to_say,
)
from w2w_lib.evaluation.faces import one_thread
from w2w_lib.evaluation.text_score import TextScorer, text_score
from w2w_lib.people.rendered.captions import as_text, caption_features, caption_full
from w2w_lib.people.rendered.person import sample_person
from w2w_lib.people.rendered.population import render_population
from w2w_lib.people.rendered.view import sample_view

SPLIT = "test of the dual encoder"


@pytest.fixture(scope="module")
def encoder() -> DualEncoder:
    torch.manual_seed(0)
    return DualEncoder().eval()


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)


# ---------------------------------------------------------------- captions
def test_every_caption_is_taken_apart_into_its_phrases():
    for index in range(200):
        person, view = sample_person(SPLIT, index), sample_view(SPLIT, index, 0)
        features = caption_features(person, view, np.random.default_rng(index))
        found = [PHRASES[place] for place in taken_apart(as_text(features))]
        assert found == [phrase.removeprefix("a photo of a ") for phrase in features.values()]
        true = {PHRASES[place] for place in phrases_of(person, view)}
        assert set(found) - {"person"} <= true and len(true) == len(FEATURES)
        assert {PHRASES[place] for place in taken_apart(caption_full(person, view))} <= true


def test_a_caption_is_a_bag_of_phrases(encoder):
    several = [
        "A photo of a person, no glasses, thin lips",
        "person, thin lips, no glasses",
        "person no glasses thin lips",
    ]
    assert torch.equal(*counted(several[:2])) and counted(several).sum(1).tolist() == [3, 3, 3]
    first, *others = encoder.embed_texts(several)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("caption", ["person, sks", "person, round purple glasses", "", "baldish", "no glassesbald"])
def test_captions_of_other_words_are_refused(caption):
    with pytest.raises(ValueError, match=r"caption .*: (.* is no phrase of rendered people's captions|says nothing)"):
        counted([caption])


def test_mirror_images_look_to_the_other_side():
    mirror = mirrored()
    assert torch.equal(mirror[mirror], torch.arange(len(PHRASES)))
    moved = {PHRASES[i]: PHRASES[k] for i, k in enumerate(mirror.tolist()) if i != k}
    assert moved["facing left"] == "facing right" and moved["lit from the right"] == "lit from the left"
    assert len(moved) == 4


# ---------------------------------------------------------------- training
def test_the_loss_is_infonce_and_spares_captions_that_are_also_true(encoder):
    """In words, for three pictures: the caption of the third is true of the first."""
    truths = what_there_is_to_say(SPLIT, 3, 1)
    truths[2] = truths[0]
    said = {"age": ("twenties", "forties", "fifties"), "glasses": ("no", "round red", "no"), "gender": ("man",) * 3}
    forms = {"age": "in the {}", "glasses": "{} glasses", "gender": "{}"}
    for name, words in said.items():
        phrases = [forms[name].format(word) for word in words]
        truths[:, list(FEATURES).index(name)] = torch.tensor([PHRASES.index(phrase) for phrase in phrases])
    spoken = [{"gender": "man", "age": "in the twenties", "glasses": "no glasses"}]
    spoken += [{"gender": "person", "glasses": "round red glasses"}, {"gender": "person", "glasses": "no glasses"}]
    mentioned = torch.tensor([[own.get(name, "person") != "person" for name in FEATURES] for own in spoken])
    pixels = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))

    def entropy(picture: int, own: int, captions: list[dict[str, str]]) -> torch.Tensor:
        texts = encoder.embed_texts([", ".join(caption.values()) for caption in captions])
        cosines = encoder(pixels[picture : picture + 1]) @ texts.T / dual_encoder.FIRST_TEMPERATURE
        return -F.log_softmax(cosines[0], 0)[own]

    expected = entropy(0, 0, spoken[:2]) + entropy(1, 1, spoken) + entropy(2, 2, spoken)
    cosines = encoder(pixels) @ encoder.embed_texts([", ".join(own.values()) for own in spoken]).T
    for caption, pictures in enumerate(([0, 1, 2], [0, 1, 2], [1, 2])):
        column = cosines[pictures, caption] / dual_encoder.FIRST_TEMPERATURE
        expected = expected - F.log_softmax(column, 0)[pictures.index(caption)]
    in_turn = [
        entropy(k, phrases.index(PHRASES[truths[k, place]]), [own | {name: phrase} for phrase in phrases])
        for k, own in enumerate(spoken)
        for place, (name, phrases) in enumerate(FEATURES.items())
    ]
    expected = expected / 6 + dual_encoder_training.ALTERED_WEIGHT * sum(in_turn) / len(in_turn)
    torch.testing.assert_close(contrastive_loss(encoder, pixels, truths, mentioned), expected)


def test_training_learns_a_phrase_and_repeats(monkeypatch):
    """A few epochs on flat pictures whose colour is that of the background."""
    colours = {"white": 230, "black": 20}
    truths = what_there_is_to_say(SPLIT, 60, 1)
    place = list(FEATURES).index("background")
    names = [list(colours)[k % 2] for k in range(60)]
    truths[:, place] = torch.tensor([PHRASES.index(f"on a {name} background") for name in names])
    images = np.stack([np.full((64, 64, 3), colours[name], np.uint8) for name in names])
    monkeypatch.setattr(dual_encoder_training, "BATCH", 30)
    monkeypatch.setattr(
        dual_encoder_training, "_mentioned", lambda n, features: (torch.arange(features) == place).repeat(n, 1)
    )
    with one_thread():  # on several, sums are taken in another order each time
        trained, again = (train_dual_encoder(images, truths, epochs=12, seed=3) for _ in range(2))
    score = text_score(images, "person, on a white background", trained)
    score -= text_score(images, "person, on a black background", trained)
    assert min(score[::2]) > max(score[1::2])
    for name, tensor in trained.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


# ---------------------------------------------------------------- scores and files
def test_it_is_a_scorer_and_takes_pictures_of_any_size(encoder, pictures):
    assert isinstance(encoder, TextScorer) and encoder.name == "pocket dual encoder"
    large = pictures.repeat(4, 1).repeat(4, 2)
    score = text_score(pictures, "person, no glasses", encoder)
    np.testing.assert_allclose(text_score(large, "person, no glasses", encoder), score, atol=1e-3)
    assert score.shape == (8,) and abs(score).max() <= 100
    assert encoder.embed_images(pictures[:0]).shape == (0, dual_encoder.WIDTH)


def test_a_saved_encoder_is_the_same_to_half_precision(encoder, pictures, tmp_path):
    path = tmp_path / "encoder.safetensors"
    encoder.save(path)
    read = DualEncoder.load(path)
    torch.testing.assert_close(read.embed_images(pictures), encoder.embed_images(pictures), atol=2e-3, rtol=0)
    assert path.stat().st_size < 3e6 and not any(tensor.requires_grad for tensor in read.parameters())


def test_other_files_are_refused(encoder, tmp_path, monkeypatch):
    path = tmp_path / "encoder.safetensors"
    with pytest.raises(FileNotFoundError, match="no such file; expected a pocket dual encoder; restore"):
        DualEncoder.load(path)
    encoder.save(path)
    tensors = load_file(path)
    for change, said in (
        ({"words": tensors["words"][1:]}, "tensor 'words' has"),
        ({"more": torch.zeros(1)}, "has an unknown tensor 'more'"),
        ({"log_scale": torch.tensor([torch.nan])}, "holds NaN or infinite"),
    ):
        save_file(tensors | change, tmp_path / "other.safetensors", {"phrases": "[]"})
        with pytest.raises(ValueError, match=said):
            DualEncoder.load(tmp_path / "other.safetensors")
    save_file(tensors, path, {"phrases": '["person"]'})
    with pytest.raises(ValueError, match="was trained with other phrases"):
        DualEncoder.load(path)
    broken = DualEncoder()
    torch.nn.init.constant_(broken.words, 1e9)
    with pytest.raises(ValueError, match="'words' is not finite in half precision; nothing was written"):
        broken.save(tmp_path / "broken.safetensors")
    assert not (tmp_path / "broken.safetensors").exists()


def test_arguments_that_do_not_fit(encoder, pictures, unchecked):
    with pytest.raises(ValueError, match="8 pictures, phrases of 3"):
        train_dual_encoder(pictures, what_there_is_to_say(SPLIT, 3, 1))
    with pytest.raises(ValueError, match="8 pictures, 8 captions: expected as many, at least 64"):
        retrieval(encoder, pictures, ["person"] * 8)


def test_retrieval_is_the_share_of_right_captions(pictures):
    class Sees(DualEncoder):
        """Knows which of four captions belongs to a picture by the number in its corner."""

        def embed_images(self, images):
            return torch.eye(4)[torch.from_numpy(images[:, 0, 0, 0].astype(int))]

        def embed_texts(self, texts):
            return torch.eye(4)[[int(text) for text in texts]]

    pictures = pictures.copy()
    pictures[:, 0, 0, 0] = [0, 1, 2, 3, 1, 0, 2, 3]
    assert retrieval(Sees(), pictures, [*"01230123"], among=4) == 6 / 8


# ---------------------------------------------------------------- what is shipped
def test_the_shipped_encoder_reads_renders_of_people_it_never_saw():
    encoder = DualEncoder.load()
    images, table = render_population(SPLIT, range(96), 1, workers=1, progress=False)
    aucs = attribute_aucs(encoder, images[:, 0], table)
    assert np.mean([*aucs.values()]) > 0.75 and min(aucs["Male"], aucs["Blond_Hair"], aucs["Young"]) > 0.85
    assert retrieval(encoder, images[:64, 0], table["caption_full"][:64]) > 50 / 64
    assert math.exp(encoder.log_scale) <= 1 / dual_encoder_training.COLDEST + 1e-2
