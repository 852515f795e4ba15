"""The slider panel, without a browser."""

import math

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from planted import PCS

from w2w_lib.evaluation.intervals import Interval
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.space.directions import fit_directions
from w2w_lib.space.edits import combined_step
from w2w_lib.workbook import plots
from w2w_lib.workbook.sliders import EditSession, edit_strips, edited_image, edited_images, panel

matplotlib.use("agg")
ODD = "5$ | *or* $6_x$ <b>`"  # a label that TeX and Markdown would read otherwise


@pytest.fixture(scope="module")
def session(pipeline, space, labels, weights):
    directions = fit_directions(space, labels[["first", "second"]], PCS)
    return EditSession(pipeline, space, directions, {"ann": weights[0], "bob": weights[1]}, Sampling(steps=2))


def test_slider_paints_the_edited_adapter(session, space, weights):
    strengths = {"first": 2.0, "second": -1.0}
    image = edited_image(session, "bob", strengths, "sks person", 4)
    edited = weights[1] + combined_step(space, session.directions, strengths)
    expected = generate(session.pipeline, ["sks person"], [4], space.layout, edited[None], sampling=session.sampling)
    np.testing.assert_array_equal(image, expected[0])


@pytest.mark.parametrize(
    ("person", "edits", "prompt", "seed", "message"),
    [
        ("bop", [{}], "sks person", 0, "unknown person 'bop', did you mean 'bob'"),
        ("ann", [{"firts": 1.0}], "sks person", 0, "firts"),
        ("ann", [{"first": math.nan}], "sks person", 0, "strength of first: expected a finite number"),
        ("ann", [{"first": math.inf}], "sks person", 0, "strength of first: expected a finite number"),
        ("ann", [{}], "  ", 0, "prompt is empty"),
        ("ann", [{}], "sks person", -1, "seed: expected a whole number of at least 0"),
        ("ann", [], "sks person", 0, "no edits"),
    ],
)
def test_what_cannot_be_painted_is_refused_in_one_line(session, person, edits, prompt, seed, message):
    with pytest.raises(ValueError, match=message) as refused:
        edited_images(session, person, edits, prompt, seed)
    assert "\n" not in str(refused.value)


def test_session_refuses_other_adapters_and_nothing_to_edit(session, unchecked):
    whole = {"pipeline": session.pipeline, "space": session.space}
    with pytest.raises(ValueError, match="no people"):
        EditSession(**whole, directions=session.directions, people={})
    with pytest.raises(ValueError, match="no directions"):
        EditSession(**whole, directions={}, people=session.people)
    with pytest.raises(ValueError, match=r"'eve' has the shape \(3,\)"):
        EditSession(**whole, directions=session.directions, people={"eve": torch.zeros(3)})


def test_panel_follows_its_sliders_and_a_strip_needs_no_kernel(session):
    widget = panel(session, "sks person", seed=1)
    shown, controls = widget.children
    picture, _ = shown.children
    before = picture.value
    slider = controls.children[3]
    assert slider.description == "first" and not slider.continuous_update
    slider.value = 3.0
    assert picture.value != before and bytes(picture.value).startswith(b"\x89PNG")
    slider.value = 0.0
    assert picture.value == before
    ax = edit_strips(session, "ann", ["first", "second"], [-1.0, 0.0, 1.0], "sks person", 1)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["first", "second"]


def test_panel_says_what_went_wrong_until_it_works_again(session):
    shown, controls = panel(session, "sks person", seed=1).children
    picture, message = shown.children
    before, prompt, seed = picture.value, controls.children[1], controls.children[2]
    prompt.value = ""
    assert "prompt is empty" in message.value and picture.value == before
    prompt.value = "sks person"
    assert message.value == ""
    seed.value = -1
    assert "seed" in message.value


@pytest.mark.parametrize("reach", [0.0, -1.0, math.nan, math.inf])
def test_panel_refuses_a_reach_that_is_none(session, reach):
    with pytest.raises(ValueError, match="reach: expected"):
        panel(session, "sks person", reach=reach)


def test_names_are_shown_as_they_are():
    table = pd.DataFrame([[1.0, -1.0]], index=[ODD], columns=[ODD, "b"])
    grid = plots.image_grid(np.zeros((1, 2, 4, 4, 3), np.uint8), [ODD, "b"], [ODD])
    for ax in (
        grid,
        plots.matrix(table, ODD),
        plots.paired_bars(table, "x"),
        plots.curves([0, 1], {ODD: [0, 1]}, "x", "y"),
    ):
        texts = [
            *ax.get_xticklabels(),
            *ax.get_yticklabels(),
            *(ax.get_legend().get_texts() if ax.get_legend() else []),
        ]
        odd = [text for text in texts if "or" in text.get_text()]
        assert odd
        for text in odd:  # what matplotlib draws: no formula, and the dollar signs without their backslashes
            shown, is_formula = text._preprocess_math(text.get_text())
            assert (shown, is_formula) == (ODD, False)
        ax.figure.canvas.draw()


def test_names_do_not_break_a_table():
    row = plots.against_paper("smoke", [(ODD + "\nx", "1", "2")]).data.splitlines()[2]
    assert row == "| 5\\$ \\| \\*or\\* \\$6\\_x\\$ \\<b\\>\\` x | 1 | 2 |"


def test_a_grid_refuses_names_that_are_too_many():
    with pytest.raises(ValueError, match="3 names for 2 columns"):
        plots.image_grid(np.zeros((1, 2, 4, 4, 3), np.uint8), ["a", "b", "c"])


PICTURES = np.zeros((1, 2, 4, 4, 3), np.uint8)
TABLE = pd.DataFrame([[1.0, 2.0]], ["x"], ["a", "b"])


def test_a_large_picture_keeps_its_own_pixels():
    for side in (8, 128):
        ax = plots.image_grid(np.zeros((2, 3, side, side, 3), np.uint8))
        width, _ = ax.get_window_extent().size
        assert width >= 3 * side and plots.LEAST_INCHES * ax.figure.dpi * 3 <= width + 1e-6
    plt.close("all")


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.image_grid(PICTURES / 2), "type float64: expected at least one, as uint8"),
        (lambda: plots.image_grid(PICTURES[0]), r"shape \(2, 4, 4, 3\)"),
        (lambda: plots.image_grid(PICTURES[:, :0]), "expected at least one"),
        (lambda: plots.image_grid([[PICTURES[0, 0], PICTURES[0, 0, :2]]]), "no array"),
        (lambda: plots.image_grid(PICTURES, "ab"), "columns: expected a list, found 'ab'"),
        (lambda: plots.histogram(np.ones(5)), "expected at least two that differ"),
        (lambda: plots.histogram(np.array([1.0, math.nan])), "values: holds NaN"),
        (lambda: plots.joint(np.ones(3), np.ones(2), "x", "y"), r"y of shape \(2,\): expected \(3,\)"),
        (lambda: plots.matrix(TABLE.iloc[:0]), "expected a DataFrame with entries"),
        (lambda: plots.matrix(TABLE * math.inf), "table: holds infinity"),
        (lambda: plots.matrix(TABLE, limit=-1.0), "limit: expected .* above 0"),
        (lambda: plots.paired_bars(TABLE.astype(str) + "x", "x"), "expected numbers alone"),
        (lambda: plots.paired_bars(TABLE, "x", "a"), "controls: expected a list, found 'a'"),
        (lambda: plots.curves([1, 2], {"a": [1, 2, 3]}, "x", "y"), "line 'a' of shape .* to go with the others"),
        (lambda: plots.curves([1], {"a": torch.ones(1, requires_grad=True)}, "x", "y"), "line 'a': no array"),
        (lambda: plots.sigmas([math.nan]), "strengths: holds NaN"),
        (lambda: plots.markdown_table(["a", "b"], [["1"]]), "expected 2 texts"),
        (lambda: plots.markdown_table(["a", "b"], ["12"]), "expected 2 texts"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(draw, message, unchecked):
    with pytest.raises(ValueError, match=message) as refused:
        draw()
    assert "\n" not in str(refused.value)


def test_every_line_and_bar_is_in_the_legend_and_strengths_differ_in_their_captions():
    for ax in (plots.curves([1, 2], {"_a": [1, 2], "b": [1, math.nan]}, "x", "y"),
               plots.paired_bars(TABLE.set_axis(["_a", "b"], axis=1), "x")):  # fmt: skip
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["_a", "b"]
    assert plots.sigmas([-2.5, 0.0, 0.25, 5.0]) == ["-2.5σ", "0", "+0.25σ", "+5.0σ"]


def test_curves_have_the_ends_of_their_intervals():
    found = {"b": [1, 2], "a": [Interval(2, 1, 4), Interval(3, 2, 5)]}
    ax = plots.curves([10, 100], found, "people", "score", title="t", log=True)
    segments = ax.containers[0][2][0].get_segments()
    assert [segment[:, 1].tolist() for segment in segments] == [[1, 4], [2, 5]]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["10", "100"] and ax.get_title() == "t"
    plots.curves([10, 100], {"c": [1, 2]}, "people", "score", ax=ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["b", "a", "c"]
    with pytest.raises(ValueError, match=r"line 'a' of shape \(1, 3\): expected \(2, 3\)"):
        plots.curves([10, 100], {"a": [Interval(2, 1, 4)]}, "people", "score")


def test_session_and_edits_of_other_types_are_refused(session, weights, unchecked):
    whole = {"pipeline": session.pipeline, "space": session.space, "directions": session.directions}
    for people in ({"ann": weights[0].numpy()}, [weights[0]], weights):
        with pytest.raises(ValueError, match=r"people of type .*: expected a Tensor by each name"):
            EditSession(**whole, people=people)
    for edits in ({"first": 1.0}, [["first"]]):
        with pytest.raises(ValueError, match="expected a list of strengths by attribute"):
            edited_images(session, "ann", edits, "sks person", 0)
    with pytest.raises(ValueError, match="attributes: expected a list, found 'first'"):
        edit_strips(session, "ann", "first", [1.0], "sks person", 0)
    with pytest.raises(ValueError, match="expected an EditSession"):
        panel(vars(session), "sks person")


def test_a_table_has_no_negative_zero():
    ax = plots.matrix(pd.DataFrame([[-0.04, -0.06]], ["x"], ["a", "b"]))
    assert [text.get_text() for text in ax.texts] == ["0.0", "-0.1"]
