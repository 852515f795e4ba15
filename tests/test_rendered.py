"""The rendered people: determinism, labels, counterfactuals and captions."""

import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from skimage.color import deltaE_cie76, rgb2lab

from w2w_lib.people.rendered.captions import VOCABULARY, caption, caption_full
from w2w_lib.people.rendered.counterfactuals import render_counterfactuals
from w2w_lib.people.rendered.person import ATTRIBUTES, counterfactual, sample_person
from w2w_lib.people.rendered.population import render_population
from w2w_lib.people.rendered.render import render
from w2w_lib.people.rendered.view import sample_view

# Setting a label may have to unset those that exclude it; a bald head has no hair colour, length or fringe.
HAIR = {
    "Bald",
    "Black_Hair",
    "Brown_Hair",
    "Blond_Hair",
    "Gray_Hair",
    "Long_Hair",
    "Bangs",
    "Receding_Hairline",
}
BEARD = {"No_Beard", "Goatee", "Mustache", "Full_Beard"}
PEOPLE = 1500
JUST_NOTICEABLE = 2.3  # difference of colours in CIELAB (Mahy et al. 1994)


@pytest.fixture(scope="module")
def people():
    return [sample_person("tests", index) for index in range(PEOPLE)]


@pytest.fixture(scope="module")
def labels(people):
    return pd.DataFrame([person.labels for person in people])


@pytest.mark.slow
def test_result_does_not_depend_on_workers():
    one, table_one = render_population("tests", range(3), 2, workers=1, progress=False)
    two, table_two = render_population("tests", range(3), 2, workers=2, progress=False)
    assert one.shape == (3, 2, 64, 64, 3) and one.dtype == np.uint8
    np.testing.assert_array_equal(one, two)
    pd.testing.assert_frame_equal(table_one, table_two)
    assert list(table_one.columns[:3]) == ["person", "view", "caption_full"]
    assert set(table_one[list(ATTRIBUTES)].dtypes) == {np.dtype(bool)} and len(table_one) == 6


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"split": ""}, "split: expected a name"),
        ({"indices": []}, "indices: none given"),
        ({"indices": [-1]}, "index: expected a whole number of at least 0, found -1"),
        ({"indices": [0.5]}, "index: expected a whole number"),
        ({"views": 0}, "views: expected a whole number of at least 1"),
        ({"size": 8}, "size: expected a whole number of at least 16"),
        ({"size": float("nan")}, "size: expected a whole number"),
        ({"workers": 0}, "workers: expected a whole number of at least 1"),
    ],
)
def test_arguments_of_rendering_are_refused_in_a_line(wrong, said, unchecked):
    with pytest.raises(ValueError, match=said):
        render_population(**{"split": "tests", "indices": [0], "views": 1, "progress": False} | wrong)


@pytest.mark.slow
def test_a_script_without_a_main_guard_may_render(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from w2w_lib.people.rendered import render_population\n"
        "print(render_population('tests', range(2), 1, 16, workers=2, progress=False)[0].sum())\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=True)
    expected, _ = render_population("tests", range(2), 1, 16, workers=1, progress=False)
    assert int(done.stdout) == expected.sum()


def test_a_person_does_not_depend_on_company():
    alone, _ = render_population("tests", [2], 1, workers=1, progress=False)
    among, _ = render_population("tests", [0, 2], 1, workers=1, progress=False)
    np.testing.assert_array_equal(alone[0], among[1])


def test_people_are_the_same_in_another_process():
    code = (
        "import json; from dataclasses import asdict; from w2w_lib.people.rendered import sample_person, sample_view;"
        "print(json.dumps([asdict(sample_person('tests', 7)), asdict(sample_view('tests', 7, 3))]))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    here = [asdict(sample_person("tests", 7)), asdict(sample_view("tests", 7, 3))]
    assert json.loads(printed) == json.loads(json.dumps(here))


def test_splits_share_nobody():
    seeds = {split: {sample_person(split, i).seed for i in range(200)} for split in ("base", "train", "heldout")}
    assert not seeds["base"] & seeds["train"] and not seeds["train"] & seeds["heldout"]
    assert not seeds["base"] & seeds["heldout"]


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_counterfactual_changes_only_the_named_label(people, attribute):
    allowed = HAIR if attribute in HAIR else BEARD if attribute in BEARD else {attribute}
    allowed = allowed | BEARD if attribute == "Male" else allowed
    for person in people[:60]:
        for value in (False, True):
            changed = counterfactual(person, attribute, value)
            assert changed.labels[attribute] is value
            different = {name for name in ATTRIBUTES if changed.labels[name] != person.labels[name]}
            assert different <= allowed
            if person.labels[attribute] == value:
                assert changed is person


def test_counterfactual_names_unknown_attribute(people):
    with pytest.raises(ValueError, match=r"Unknown attribute 'Hat'; known attributes: Male, Young"):
        counterfactual(people[0], "Hat", True)


def test_glasses_change_only_the_eye_region(people):
    for person in people[:6]:
        view = sample_view("tests", person.index, 0)
        without = render(counterfactual(person, "Eyeglasses", False), view).astype(int)
        wearing = render(counterfactual(person, "Eyeglasses", True), view).astype(int)
        changed = np.abs(wearing - without).max(-1) > 8
        assert 0.005 < changed.mean() < 0.15
        assert not changed[56:].any() and not changed[:8].any()


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_attribute_can_be_seen(people, attribute):
    """On enough of each of five people's pictures, by colours that observers tell apart."""
    chosen = [p for p in people if p.hair_style == "short" and not p.glasses and p.beard == "none"][:5]
    for person in chosen:
        view = sample_view("tests", person.index, 0)
        without, with_it = (render(counterfactual(person, attribute, value), view) for value in (False, True))
        noticed = deltaE_cie76(rgb2lab(without), rgb2lab(with_it)) > JUST_NOTICEABLE
        assert noticed.mean() > 0.005


def test_labels_are_common_and_correlated_as_in_life(labels):
    share = labels.mean()
    assert share.between(0.08, 0.7).all()
    assert share["Pale_Skin"] >= 0.12
    related = labels.astype(float).corr()
    assert related.loc["Male", "No_Beard"] < -0.5
    assert related.loc["Young", "Gray_Hair"] < -0.3
    assert related.loc["Young", "Bags_Under_Eyes"] < -0.25
    assert related.loc["Male", "Wearing_Lipstick"] < -0.4
    assert related.loc["Male", "Long_Hair"] < -0.3
    assert related.loc["Male", "Receding_Hairline"] > 0.2
    assert abs(related.loc["Big_Lips", "Chubby"]) < 0.1


def test_caption_words_are_in_the_vocabulary(people):
    rng = np.random.default_rng(0)
    known = set(VOCABULARY)
    assert len(VOCABULARY) == len(known) <= 220
    assert all(word.isalpha() and word.islower() for word in known)
    bare = 0
    for person in people:
        view = sample_view("tests", person.index, 0)
        full = caption_full(person, view)
        drawn = caption(person, view, rng)
        bare += drawn in ("person", "a photo of a person")
        for text in (full, drawn):
            assert set(text.replace(",", "").split()) <= known
            assert len(text.split()) <= 72
    assert 0.07 < bare / len(people) < 0.13


def test_keep_one_says_everything_and_keep_zero_nothing(people):
    view = sample_view("tests", 0, 0)
    rng = np.random.default_rng(0)
    assert caption(people[0], view, rng, keep=1.0) == caption_full(people[0], view)
    assert caption(people[0], view, rng, keep=0.0) in ("person", "a photo of a person")


def test_caption_says_what_the_labels_say(people):
    words = {"Big_Nose": ("big nose", "huge nose"), "Eyeglasses": ("glasses",), "Bald": (" bald",)}
    words |= {"Pale_Skin": ("porcelain skin", "pale skin"), "Narrow_Eyes": ("narrow eyes", "slit eyes")}
    for person in people[:300]:
        text = caption_full(person, sample_view("tests", person.index, 0)).replace("no glasses", "")
        for attribute, phrases in words.items():
            assert any(phrase in text for phrase in phrases) == person.labels[attribute]


def test_what_draws_nobody_is_refused(people, unchecked):
    """Numbers and names are hashed as text: 1.0 and "1" would be two more people."""
    assert sample_person("tests", np.float64(1)) == people[1] and sample_view("tests", 1.0, 2) == sample_view(
        "tests", 1, 2
    )
    rng, view = np.random.default_rng(0), sample_view("tests", 0, 0)
    for said, call in (
        ("index: expected a whole number", lambda: sample_person("tests", "1")),
        ("index: expected a whole number", lambda: sample_view("tests", 0, None)),
        ("split: expected a name", lambda: sample_person(None, 0)),
        ("split: expected a name", lambda: render_counterfactuals("", [0], "Bald", 16)),
        ("indices: none given", lambda: render_counterfactuals("tests", [], "Bald", 16)),
        ("indices: expected a list", lambda: render_population("tests", 3, 1)),
        ("people: their pictures take", lambda: render_population("tests", range(10**12), 1)),
        ("no attribute 'bald', did you mean 'Bald'", lambda: render_counterfactuals("tests", [0], "bald", 16)),
        ("size: expected a whole number", lambda: render_counterfactuals("tests", [0], "Bald", 10**6)),
        ("size: expected a whole number", lambda: render(people[0], view, 0)),
        ("person: expected Person, found View", lambda: render(view, people[0])),
        ("value of Bald: expected", lambda: counterfactual(people[0], "Bald", "no")),
        ("keep: expected", lambda: caption(people[0], view, rng, keep=float("nan"))),
        ("keep: expected a probability", lambda: caption(people[0], view, rng, keep=2)),
        ("rng: expected Generator, found 0", lambda: caption(people[0], view, 0)),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_counterfactual_renders_differ_in_their_attribute_alone():
    before, after = render_counterfactuals("heldout", [0, 1], "Eyeglasses", 64)
    renders, table = render_population("heldout", [0, 1], 1, workers=1, progress=False)
    np.testing.assert_array_equal(before, renders[:, 0])
    for index in range(2):
        person, view = sample_person("heldout", index), sample_view("heldout", index, 0)
        other = counterfactual(person, "Eyeglasses", not table["Eyeglasses"][index])
        np.testing.assert_array_equal(after[index], render(other, view, 64))
        assert (after[index] != before[index]).any()
