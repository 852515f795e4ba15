"""Whether the base follows its prompts."""

import numpy as np
import pandas as pd

from w2w_lib.evaluation import base_quality
from w2w_lib.evaluation.base_quality import PROMPTS, VIEW_PHRASES
from w2w_lib.people.rendered.captions import VOCABULARY
from w2w_lib.people.rendered.person import ATTRIBUTES
from w2w_lib.people.rendered.view import BACKGROUNDS


def test_prompts_speak_the_captions_vocabulary():
    assert set(PROMPTS) == set(ATTRIBUTES)
    said = [ending for pair in PROMPTS.values() for ending in pair] + VIEW_PHRASES
    assert {word for text in said for word in text.replace(",", "").split()} <= set(VOCABULARY)


class Oracle:
    """A classifier whose logit of every attribute is the picture's brightness."""

    def logits(self, images):
        return pd.DataFrame({name: images.mean((1, 2, 3)) for name in ATTRIBUTES})


def test_prompting_auc_is_one_if_obeyed_and_a_half_if_ignored(unchecked):
    rng = np.random.default_rng(0)
    dark, bright = rng.integers(0, 90, (8, 8, 8, 3), np.uint8), rng.integers(100, 255, (8, 8, 8, 3), np.uint8)
    pictures = {
        "Bald": np.stack([bright, dark]),
        "Young": np.stack([dark, bright]),
        "Male": np.stack([dark, dark]),
    }
    assert base_quality.prompting_aucs(pictures, Oracle()) == {"Bald": 1, "Young": 0, "Male": 0.5}


def test_background_and_light_are_read_off():
    plain = np.stack([np.full((64, 64, 3), np.array(colour) * 255, np.uint8) for colour in BACKGROUNDS.values()])
    assert base_quality.nearest_background(plain) == list(BACKGROUNDS)
    ramp = np.broadcast_to(np.linspace(0, 255, 64)[None, None, :, None], (1, 64, 64, 3)).astype(np.uint8)
    assert base_quality.light_side(ramp) > 0 > base_quality.light_side(ramp[:, :, ::-1])


def test_views_are_found_by_their_captions():
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    captions = pd.Series(["a photo of a man, smiling", "person, neutral, on a red background", "person"])
    groups = base_quality.captioned_views(images, captions)
    assert groups["smiling"].max() == 0 and len(groups["smiling"]) == 1
    assert groups["on a red background"].max() == 1 and len(groups["open mouth"]) == 0
