"""What a reader of the page sees of a notebook's outputs: last states of bars, no widgets, photographs as JPEG."""

import base64
import io

from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from nbstripout import strip_output
from PIL import Image

from w2w_lib.workbook.runner import code_cells

VOLATILE = ("papermill", "execution", "ExecuteTime", "collapsed", "scrolled")  # cell metadata
BAR = "%|"  # what every line of tqdm has; it ends in "]" unless something was written behind it
WIDGET = "application/vnd.jupyter.widget-view+json"
PNG, JPEG = "image/png", "image/jpeg"
QUALITY = 92  # of a JPEG, with colours at full resolution
WORTH = 0.5  # of its PNG's size: what a JPEG must at most take; drawings do not come near


def show_outputs(notebook: NotebookNode, executed: NotebookNode) -> None:
    """Put the outputs of a notebook's executed copy under its cells, as they are to be read."""
    for cell, ran in zip(code_cells(notebook), code_cells(executed), strict=True):
        CoalesceStreamsPreprocessor().preprocess_cell(ran, {}, 0)  # of a progress bar only its last state
        cell.outputs = [kept for output in ran.outputs if (kept := _presentable(output))]
    keys = ["metadata.widgets", "metadata.papermill", *(f"cell.metadata.{key}" for key in VOLATILE)]
    strip_output(notebook, keep_output=True, keep_count=False, keep_id=True, extra_keys=keys)


def cover(executed: NotebookNode) -> bytes | None:
    """The picture of the cell tagged ``cover``, as PNG."""
    cells = (cell for cell in code_cells(executed) if "cover" in cell.metadata.get("tags", []))
    pictures = (o.data[PNG] for cell in cells for o in cell.outputs if PNG in o.get("data", {}))
    return next((base64.b64decode(picture) for picture in pictures), None)


def _presentable(output: NotebookNode) -> NotebookNode | None:
    if output.output_type == "stream":
        if output.name == "stderr":  # a library's warnings, with the paths of one machine, tell a reader nothing
            lines = (line.strip() for line in output.text.split("\n"))
            output.text = "\n".join(line for line in lines if BAR in line and line.endswith("]"))
        return output if output.text.strip() else None
    data = output.get("data", {})
    if WIDGET in data:  # a widget needs a kernel; the static strip beside it stays
        del data[WIDGET]
        if not set(data) - {"text/plain"}:
            return None
    if PNG in data and (smaller := _as_jpeg(data[PNG])):
        data[JPEG] = smaller
        del data[PNG]
    return output


def _as_jpeg(png: str) -> str | None:
    """A picture as JPEG, in base64, where it is opaque and that saves enough to be worth it."""
    written, raw = io.BytesIO(), base64.b64decode(png)
    picture = Image.open(io.BytesIO(raw))
    if picture.has_transparency_data and picture.convert("RGBA").getextrema()[-1] != (255, 255):
        return None
    picture.convert("RGB").save(written, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
    worth = len(written.getvalue()) <= WORTH * len(raw)
    return base64.b64encode(written.getvalue()).decode() if worth else None
