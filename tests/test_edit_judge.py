"""The judge of edits, on pictures whose changes are made by hand."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch

from w2w_lib.evaluation.attributes import AttributeClassifier
from w2w_lib.evaluation.edit_judge import EditJudge, change_of
from w2w_lib.evaluation.edit_sweep import sweep
from w2w_lib.evaluation.edit_words import asked_for, described
from w2w_lib.evaluation.lpips import LPIPS
from w2w_lib.models.images import to_pixels

IDS = ["a", "b", "c"]
RADIANS = 0.005  # for each level of grey


class Brightness(AttributeClassifier):
    """Stands for a trained one: "Young" is how light a picture is above the middle, "Bald" how red."""

    def logits(self, images: np.ndarray) -> pd.DataFrame:
        means = images.reshape(len(images), -1, 3).mean(1)
        return pd.DataFrame({"Young": means.mean(1) - 128, "Bald": means[:, 0] - means[:, 1]})


class Words:
    """Stands for CLIP: the darker the picture, the nearer to any text."""

    name = "darkness"

    def embed_images(self, images: np.ndarray) -> torch.Tensor:
        angle = torch.tensor(images.reshape(len(images), -1).mean(1)) * RADIANS
        return torch.stack([angle.cos(), angle.sin()], dim=1).float()

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0]]).expand(len(texts), 2)


@pytest.fixture(scope="module")
def judge():
    rng = np.random.default_rng(0)
    levels = np.array([60, 70, 200])[:, None, None, None, None]
    before = (levels + rng.integers(-20, 20, (3, 2, 64, 64, 3))).astype(np.uint8)
    return EditJudge(IDS, before, Brightness(("Young", "Bald")), LPIPS.load(), Words())


def test_an_edit_is_measured_towards_the_opposite(judge):
    assert judge.shows("Young").tolist() == [False, False, True]
    after = judge.before.copy()
    after[:2] += 30  # lighter
    after[2] -= 30  # darker
    scores = judge.scores(after, "Young", faces=False)
    assert scores["person"].tolist() == IDS
    unit = judge.logits["Young"].std()
    np.testing.assert_allclose(scores["effect"], 30 / unit, rtol=1e-6)
    np.testing.assert_allclose(scores[change_of("Young")], np.array([30, 30, -30]) / unit, rtol=1e-6)
    np.testing.assert_allclose(scores["spill"], 0, atol=1e-9)
    angles = [RADIANS * images.reshape(3, 2, -1).mean(2) for images in (judge.before, after)]
    np.testing.assert_allclose(scores["text"], 100 * (np.cos(angles[1]) - np.cos(angles[0])).mean(1), rtol=1e-3)
    assert scores["turned"].tolist() == [0, 0, 0]
    with torch.no_grad():
        pair = (to_pixels(images.reshape(-1, 64, 64, 3)) for images in (judge.before, after))
        expected = judge.lpips(*pair).numpy().reshape(3, 2).mean(1)
    np.testing.assert_allclose(scores["lpips"], expected, rtol=1e-5)


def test_what_an_edit_changes_besides_is_its_spill(judge):
    after = judge.before.copy()
    after[..., 0] += 10  # redder
    scores = judge.scores(after, "Young", faces=False)
    np.testing.assert_allclose(scores["spill"], 10 / judge.logits["Bald"].std(), rtol=1e-6)


def test_rows_and_shots_are_those_that_are_given(judge):
    changes = judge.changes(judge.before[1:, :1], rows=[1, 2])
    assert changes["person"].tolist() == ["b", "c"]
    np.testing.assert_allclose(changes.drop(columns="person"), 0)
    with pytest.raises(ValueError, match="a row for each of them"):
        judge.changes(judge.before[:2], rows=[1])
    with pytest.raises(ValueError, match="expected as many"):
        EditJudge(IDS[:2], judge.before, Brightness(("Young", "Bald")), judge.lpips, Words())


def test_context_leaves_the_face_out(judge):
    face, wall = judge.before.copy(), judge.before.copy()
    face[:, :, 20:50, 22:42] += 40
    wall[:, :, :8] += 40
    assert judge.context(face).max() < 1e-6 < judge.context(wall).min()


def test_pictures_without_a_face_do_not_count_and_are_counted(judge):
    scores = judge.scores(judge.before, "Young")  # noise: nobody has a face
    assert scores["identity"].isna().all() and (scores["faceless"] == 1).all()


def test_prompts_ask_for_the_opposite():
    assert asked_for("a photo of sks person, smiling", "Chubby", True) == "a photo of sks person, very chubby, smiling"
    assert asked_for("sks person, smiling", "Male", False) == "sks woman, smiling"
    assert described("Eyeglasses", False) == "person, no glasses"
    with pytest.raises(ValueError, match="'sks person' in it"):
        asked_for("a person", "Chubby", True)
    with pytest.raises(ValueError, match="no words for attribute 'Chuby', did you mean 'Chubby'"):
        described("Chuby", True)


def test_a_sweep_asks_each_method_for_each_attribute_and_share(judge):
    asked = []

    def lighter(attribute, given, share):
        asked.append((attribute, given.tolist(), share))
        return (judge.before + np.uint8(10 * share)).astype(np.uint8)

    scores = sweep(judge, {"lighter": lighter}, ["Young", "Bald"], [0.5, 1.0], faces=False)
    assert [(a, s) for a, _, s in asked] == [("Young", 0.5), ("Young", 1.0), ("Bald", 0.5), ("Bald", 1.0)]
    assert asked[0][1] == [True, True, False]
    young = scores[scores["attribute"] == "Young"].pivot(index="person", columns="strength", values="effect")
    np.testing.assert_allclose(young[1.0], 2 * young[0.5], rtol=1e-6)
