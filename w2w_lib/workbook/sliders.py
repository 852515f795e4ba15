"""A panel of sliders, one for each direction, over one pure function."""

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import ipywidgets as widgets
import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from w2w_lib.inputs import finite_number, listed, nearest, whole_number
from w2w_lib.models.prompts import check_prompts
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.space.directions import Direction
from w2w_lib.space.edits import combined_step
from w2w_lib.space.weight_space import WeightSpace
from w2w_lib.workbook import plots

SHOWN_PIXELS = 256  # width of the panel's picture


@dataclass(frozen=True)
class EditSession:
    """Whom to edit and with what: a base, a space, its directions and people's adapters by name.

    ValueError for a session without people or directions, and for adapters of another length than the space's.
    """

    pipeline: StableDiffusionPipeline
    space: WeightSpace
    directions: Mapping[str, Direction]
    people: Mapping[str, Float[Tensor, " d"]]
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self):
        if not isinstance(self.space, WeightSpace):
            raise ValueError(f"space of type {type(self.space).__name__}: expected a WeightSpace")
        for name, kind in (("people", Tensor), ("directions", Direction)):
            given = getattr(self, name)
            if not isinstance(given, Mapping) or not all(isinstance(one, kind) for one in given.values()):
                raise ValueError(f"{name} of type {type(given).__name__}: expected a {kind.__name__} by each name")
            if not given:
                raise ValueError(f"a session of edits has no {name}: expected at least one of them, by name")
        d = self.space.layout.dimension
        if wrong := [name for name, weights in self.people.items() if weights.shape != (d,)]:
            shape = tuple(self.people[wrong[0]].shape)
            raise ValueError(f"adapter of {wrong[0]!r} has the shape {shape}, expected the space's d = {d}")


def edited_image(
    session: EditSession, person: str, strengths: Mapping[str, float], prompt: str, seed: int
) -> UInt8[np.ndarray, "height width 3"]:
    """The person's picture after edits, in standard deviations; the same arguments give the same pixels."""
    return edited_images(session, person, [strengths], prompt, seed)[0]


def edited_images(
    session: EditSession, person: str, edits: Sequence[Mapping[str, float]], prompt: str, seed: int
) -> UInt8[np.ndarray, "edits height width 3"]:
    """One picture for each set of strengths, as ``edited_image`` makes it.

    ValueError for an unknown person or direction, an empty prompt, a strength that is not finite, or no edits.
    """
    if person not in list(session.people):
        raise ValueError(f"unknown person {person!r}{nearest(str(person), map(str, session.people))}")
    check_prompts([prompt])
    if not prompt.strip():
        raise ValueError("the prompt is empty: expected what to paint, such as 'sks person'")
    if not edits:
        raise ValueError("no edits: expected at least one set of strengths, which may be empty")
    if isinstance(edits, Mapping) or not all(isinstance(edit, Mapping) for edit in edits):
        raise ValueError(f"edits {edits!r}: expected a list of strengths by attribute, such as [{{'Young': 1.0}}]")
    whole_number("seed", seed, least=0)
    for attribute, strength in ((a, s) for edit in edits for a, s in edit.items()):
        finite_number(f"strength of {attribute}", strength)
    steps = torch.stack([combined_step(session.space, session.directions, edit) for edit in edits])
    weights, count = session.people[person] + steps, len(edits)
    return generate(
        session.pipeline,
        [prompt] * count,
        [seed] * count,
        session.space.layout,
        weights,
        sampling=session.sampling,
    )


def edit_strips(
    session: EditSession,
    person: str,
    attributes: Sequence[str],
    strengths: Sequence[float],
    prompt: str,
    seed: int,
    ax: Axes | None = None,
) -> Axes:
    """What the sliders do, where no kernel runs: a row for each attribute, a column for each strength."""
    attributes, captions = listed("attributes", attributes), plots.sigmas(strengths)
    edits = [{attribute: s} for attribute in attributes for s in strengths]
    images = edited_images(session, person, edits, prompt, seed)
    images = images.reshape(len(attributes), len(strengths), *images.shape[1:])
    return plots.image_grid(images, captions, attributes, ax)


def panel(session: EditSession, prompt: str, seed: int = 0, reach: float = 5.0) -> widgets.Widget:
    """Sliders from -``reach`` to ``reach`` standard deviations; the picture follows when one is let go.

    What cannot be painted is said under the picture. ValueError for a reach that is not above 0.
    """
    if finite_number("reach", reach) <= 0:
        raise ValueError(f"reach: expected standard deviations above 0, found {reach}")
    if not isinstance(session, EditSession):
        raise ValueError(f"session of type {type(session).__name__}: expected an EditSession")
    whole_number("seed", seed, least=0)
    person = widgets.Dropdown(options=list(session.people), description="person")
    words = widgets.Text(prompt, description="prompt", continuous_update=False)
    noise = widgets.IntText(seed, description="seed")
    sliders = {a: _slider(a, reach) for a in session.directions}
    picture = widgets.Image(format="png", width=SHOWN_PIXELS, height=SHOWN_PIXELS)
    message = widgets.HTML()

    def paint() -> None:
        strengths = {a: s.value for a, s in sliders.items()}
        picture.value = _png(edited_image(session, person.value, strengths, words.value, noise.value))

    def follow(_) -> None:
        try:
            paint()
            message.value = ""
        except Exception as error:  # in a callback, Jupyter would write it to a log that nobody looks at
            message.value = html.escape(f"{type(error).__name__}: {error}")

    paint()
    for control in (person, words, noise, *sliders.values()):
        control.observe(follow, "value")
    shown, controls = widgets.VBox([picture, message]), widgets.VBox([person, words, noise, *sliders.values()])
    return widgets.HBox([shown, controls], layout=widgets.Layout(align_items="flex-start"))


def _slider(attribute: str, reach: float) -> widgets.FloatSlider:
    # continuous_update=False is the debounce: a picture takes longer than a slider's next event.
    return widgets.FloatSlider(
        0.0,
        min=-reach,
        max=reach,
        step=0.1,
        description=attribute,
        continuous_update=False,
        readout_format=".1f",
    )


def _png(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()
