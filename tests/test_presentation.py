"""What a reader of the page sees of a notebook's outputs."""

import base64
import io

import numpy as np
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

from w2w_lib.workbook import presentation
from w2w_lib.workbook.presentation import JPEG, PNG


def png(pixels: np.ndarray) -> str:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


def shown(*outputs):
    """What is shown of a cell's outputs."""
    cell, ran = new_code_cell("paint()"), new_code_cell("paint()", outputs=list(outputs))
    presentation.show_outputs(new_notebook(cells=[cell]), new_notebook(cells=[ran]))
    return cell.outputs


def photograph(seed: int = 0) -> np.ndarray:
    """Smooth colours with a little noise, as a photograph has them."""
    rng, (y, x) = np.random.default_rng(seed), np.mgrid[:96, :128]
    smooth = 120 + 60 * np.stack([np.sin(x / 17), np.cos(y / 23), np.sin((x + y) / 31)], axis=-1)
    return np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)


def test_a_photograph_becomes_a_jpeg_that_looks_the_same():
    (kept,) = shown(new_output("display_data", {PNG: png(photograph()), "text/plain": "a figure"}))
    assert set(kept.data) == {JPEG, "text/plain"}
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(kept.data[JPEG]))))
    assert np.abs(decoded.astype(int) - photograph()).mean() < 2.5


def test_drawings_and_what_is_transparent_stay_as_they_are():
    drawing = np.full((96, 128, 3), 255, np.uint8)
    drawing[40:42], drawing[:, 60:62] = 0, (200, 30, 30)
    half_clear = np.dstack([photograph(), np.full((96, 128), 128, np.uint8)])
    for pixels in (drawing, half_clear):
        written = png(pixels)
        (kept,) = shown(new_output("display_data", {PNG: written}))
        assert kept.data == {PNG: written}


def test_the_cover_is_the_picture_of_the_cell_with_that_tag():
    first, second = (png(photograph(seed)) for seed in (0, 1))
    cells = [new_code_cell("a()", outputs=[new_output("display_data", {PNG: picture})]) for picture in (first, second)]
    assert presentation.cover(new_notebook(cells=cells)) is None
    cells[1].metadata.tags = ["cover"]
    assert presentation.cover(new_notebook(cells=cells)) == base64.b64decode(second)


def test_bars_show_their_last_state_and_widgets_are_left_out():
    widget = {presentation.WIDGET: {}, "text/plain": "interactive(...)"}
    states = ("\r 0%|  | [0/2]x.py: Warning\n", "\r 50%| | [1/2]", "\r100%|##| [2/2]", "\ny.py\n")
    said = [("stderr", state) for state in states]
    said += [("stdout", "\r 0%\rfinished\n"), ("stderr", "\r 0%|  | [0/1]\r100%|##| [1/1]\n\r 50%|# | [1/2]")]
    streams = [new_output("stream", name=name, text=text) for name, text in said]
    pictures = [new_output("display_data", data) for data in (widget, widget | {PNG: png(photograph())})]
    first, printed, second, strip = shown(*streams, *pictures)
    assert (first.text, printed.text, second.text) == ("100%|##| [2/2]", "finished\n", "100%|##| [1/1]\n50%|# | [1/2]")
    assert set(strip.data) == {JPEG, "text/plain"}
