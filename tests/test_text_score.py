"""Text scores against transformers' own logits and plain vectors."""

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from w2w_lib.evaluation.text_score import ClipScorer, TextScorer, text_score
from w2w_lib.people.rendered.captions import VOCABULARY
from w2w_lib.pocket.architecture import build_tokenizer

TEXTS = ["a man, no glasses", "a photo of a woman with glasses", "person"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random CLIP, as transformers saves it."""
    tokenizer = build_tokenizer(VOCABULARY)
    tiny = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = tiny | ends | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=tiny | {"image_size": 32, "patch_size": 8}, projection_dim=12)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    path = tmp_path_factory.mktemp("clip") / "tiny"
    CLIPModel(config).save_pretrained(path)
    CLIPProcessor(CLIPImageProcessor(**size), tokenizer).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), np.uint8)


def test_clip_scores_are_transformers_own_cosines(folder, images):
    scorer = ClipScorer.load(folder)
    assert scorer.name == "CLIP (tiny)" and isinstance(scorer, TextScorer)
    model = CLIPModel.from_pretrained(folder).eval().requires_grad_(False)
    processor = CLIPProcessor.from_pretrained(folder)
    inputs = processor(text=TEXTS, images=list(images), padding=True, return_tensors="pt")
    found = model(**inputs)
    cosines = (found.logits_per_image / model.logit_scale.exp()).numpy()
    np.testing.assert_allclose(text_score(images, TEXTS, scorer), 100 * np.diag(cosines), atol=1e-3)
    np.testing.assert_allclose(text_score(images, TEXTS[1], scorer), 100 * cosines[:, 1], atol=1e-3)
    assert len({*text_score(images, TEXTS[1], scorer)}) == 3
    assert text_score(images[:0], TEXTS[1], scorer).shape == (0,)


def test_long_texts_are_cut_to_what_clip_reads(folder, images):
    scorer = ClipScorer.load(folder)
    long = ", ".join(["no glasses"] * 60)
    assert text_score(images, long, scorer) == pytest.approx(text_score(images, f"{long}, bald", scorer))


class Planted:
    """An angle between -90 and 90 degrees for each text, and pictures that lie at 0."""

    name = "planted"

    def embed_images(self, images):
        return torch.tensor([[1.0, 0.0]]).repeat(len(images), 1)

    def embed_texts(self, texts):
        angles = torch.deg2rad(torch.tensor([float(text) for text in texts]))
        return torch.stack([angles.cos(), angles.sin()], 1)


def test_the_score_is_a_hundred_cosines_and_is_not_clipped(images):
    assert text_score(images, ["60", "120", "60"], Planted()) == pytest.approx([50, -50, 50])


def test_what_cannot_be_scored(images, folder, tmp_path, unchecked):
    with pytest.raises(ValueError, match="2 texts for 3 pictures"):
        text_score(images, ["0", "0"], Planted())
    with pytest.raises(ValueError, match=r"prompts .*: expected a list of at least one text"):
        text_score(images, [], Planted())
    with pytest.raises(ValueError, match="scorer: expected a ClipScorer or DualEncoder"):
        text_score(images, "person", "CLIP")
    with pytest.raises(ValueError, match="pictures: expected uint8"):
        text_score(images / 255, "0", Planted())
    with pytest.raises(FileNotFoundError, match=r"nobody/nothing: no such folder, and no cached hub id; .*hf download"):
        ClipScorer.load("nobody/nothing")
    with pytest.raises(ValueError, match="holds no CLIP that can be read"):
        ClipScorer.load(tmp_path)
