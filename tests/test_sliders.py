"""The slider panel, without a browser."""

import numpy as np
import pytest
from planted import PCS

from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.space.directions import fit_directions
from w2w_lib.space.edits import combined_step
from w2w_lib.workbook.sliders import EditSession, edit_strips, edited_image, panel


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
    with pytest.raises(ValueError, match="unknown person 'eve': there are ann, bob"):
        edited_image(session, "eve", {}, "sks person", 0)


def test_panel_follows_its_sliders_and_a_strip_needs_no_kernel(session):
    widget = panel(session, "sks person", seed=1)
    picture, controls = widget.children
    before = picture.value
    slider = controls.children[3]
    assert slider.description == "first" and not slider.continuous_update
    slider.value = 3.0
    assert picture.value != before and bytes(picture.value).startswith(b"\x89PNG")
    slider.value = 0.0
    assert picture.value == before
    ax = edit_strips(session, "ann", ["first", "second"], [-1.0, 0.0, 1.0], "sks person", 1)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["first", "second"]
