"""The pocket world's dual encoder: its captions, its loss in closed form, its file, and what the shipped one knows."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from w2w_lib.evaluation import dual_encoder
from w2w_lib.evaluation.caption_phrases import FEATURES, PHRASES, counted, mirrored, phrases_of, taken_apart
from w2w_lib.evaluation.dual_encoder import (
    DualEncoder,
    attribute_aucs,
    contrastive_loss,
    retrieval,
    train_dual_encoder,
    what_there_is_to_say,
)
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
def test_the_loss_is_infonce_and_spares_captions_that_are_also_true(encoder, monkeypatch):
    """By hand for three pictures, of which the first does not have to tell its caption from the third's: both are true."""
    truths = what_there_is_to_say(SPLIT, 3, 1)
    truths[2] = truths[0]
    age, glasses = list(FEATURES).index("age"), list(FEATURES).index("glasses")
    truths[:, glasses] = torch.tensor([PHRASES.index(p) for p in ("no glasses", "round red glasses", "no glasses")])
    truths[:, age] = torch.tensor([PHRASES.index(f"in the {d}") for d in ("twenties", "forties", "fifties")])
    mentioned = torch.zeros(3, len(FEATURES), dtype=torch.bool)
    mentioned[0, [age, glasses]] = mentioned[1, glasses] = mentioned[2, glasses] = True
    pixels = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(torch, "multinomial", lambda p, n, replacement: mentioned.int().argmax(1, True).expand(-1, n))
    monkeypatch.setattr(torch, "randint", lambda most, size: torch.tensor([1, 0, 0])[:, None].expand(size))

    captions = ["person, in the twenties, no glasses", "person, round red glasses", "person, no glasses"]
    altered = ["person, in the forties, no glasses", "person, no glasses", None]  # the last is what it was
    cosines = encoder(pixels) @ encoder.embed_texts(captions).T / dual_encoder.FIRST_TEMPERATURE
    rows = [[cosines[0, 0], cosines[0, 1]], [*cosines[1]], [cosines[2, 2], cosines[2, 1], cosines[2, 0]]]
    columns = [[*cosines[:, 0]], [*cosines[:, 1]], [cosines[2, 2], cosines[1, 2]]]
    for k in (0, 1):
        wrong = encoder(pixels[k : k + 1]) @ encoder.embed_texts([altered[k]]).T / dual_encoder.FIRST_TEMPERATURE
        rows[k] += [wrong[0, 0]] * dual_encoder.ALTERED
    own = [(0, 0), (1, 1), (0, 2)], [(0, 0), (1, 1), (0, 2)]

    def entropies(several, places):
        return [-F.log_softmax(torch.stack(one), 0)[place] for one, (place, _) in zip(several, places, strict=True)]

    expected = (sum(entropies(rows, own[0])) + sum(entropies(columns, own[1]))) / 6
    torch.testing.assert_close(contrastive_loss(encoder, pixels, truths, mentioned), expected)


def test_training_learns_a_phrase_and_repeats(monkeypatch):
    """A few epochs on flat pictures whose colour is that of the background."""
    colours = {"white": 230, "black": 20}
    truths = what_there_is_to_say(SPLIT, 60, 1)
    place = list(FEATURES).index("background")
    names = [list(colours)[k % 2] for k in range(60)]
    truths[:, place] = torch.tensor([PHRASES.index(f"on a {name} background") for name in names])
    images = np.stack([np.full((64, 64, 3), colours[name], np.uint8) for name in names])
    monkeypatch.setattr(dual_encoder, "BATCH", 30)
    monkeypatch.setattr(dual_encoder, "_mentioned", lambda n, features: (torch.arange(features) == place).repeat(n, 1))
    trained, again = (train_dual_encoder(images, truths, epochs=4, seed=3) for _ in range(2))
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


def test_arguments_that_do_not_fit(encoder, pictures):
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
    assert np.mean([*aucs.values()]) > 0.85 and min(aucs["Eyeglasses"], aucs["Male"], aucs["Bald"]) > 0.95
    assert retrieval(encoder, images[:64, 0], table["caption_full"][:64]) > 20 / 64
    assert math.exp(encoder.log_scale) <= 1 / dual_encoder.COLDEST + 1e-2
