"""Which labels can be seen and edited; photographs."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.data import astronaut

from w2w_lib import load_photo
from w2w_lib.evaluation.attributes import AttributeClassifier
from w2w_lib.evaluation.visibility import editable, label_visibility
from w2w_lib.people.people_set import People


class Brightness(AttributeClassifier):
    """A classifier whose every logit is the picture's brightness."""

    def logits(self, images):
        return pd.DataFrame({name: images.mean((1, 2, 3)) for name in self.attributes})


def people(count: int = 40) -> People:
    """Bright people, and dark ones."""
    rng = np.random.default_rng(0)
    bright = np.arange(count) % 2 == 0
    images = np.clip(rng.normal(np.where(bright, 180, 60)[:, None, None, None], 10, (count, 16, 16, 3)), 0, 255)
    ids = [f"test-{i:05d}" for i in range(count)]
    labels = pd.DataFrame({"Bright": bright, "Tall": rng.permutation(bright)}, index=pd.Index(ids, name="id"))
    return People(images.astype(np.uint8), pd.DataFrame({"id": ids}), labels)


def test_visible_labels_come_first_and_shuffled_ones_are_a_control():
    table = label_visibility(Brightness(("Bright", "Tall")), people())
    assert list(table.index) == ["Bright", "Tall"] and table.loc["Bright", "classifier"] == 1
    assert (table["labels shuffled"] - 0.5).abs().max() < 0.35
    assert len(label_visibility(None, people())) == 0


def test_only_labels_that_vary_are_editable(capsys):
    labels = people().labels.assign(Alive=True)
    assert editable(labels, ["Bright", "Alive", "Wise"]) == ["Bright"]
    assert "without Alive, Wise: not among the labels" in capsys.readouterr().out
    with pytest.raises(ValueError, match="Alive: expected labels that some people have and some have not, as Bright"):
        editable(labels, ["Alive"])


def test_a_photograph_is_cropped_to_its_face_and_one_without_is_refused(tmp_path):
    Image.fromarray(astronaut()).save(tmp_path / "photo.png")
    Image.fromarray(astronaut()).resize((1024, 1024)).save(tmp_path / "larger.png")
    face, larger = (load_photo(tmp_path / name, 64).image for name in ("photo.png", "larger.png"))
    assert face.shape == (64, 64, 3) and np.abs(face.astype(int) - larger).mean() < 12
    Image.new("RGB", (300, 200), "gray").save(tmp_path / "wall.png")
    with pytest.raises(ValueError, match=r"wall.png.*no face"):
        load_photo(tmp_path / "wall.png", 64)
    with pytest.raises(FileNotFoundError, match=r"none.png: no such file"):
        load_photo(tmp_path / "none.png", 64)
