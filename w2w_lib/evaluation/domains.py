"""Pictures taken out of their domain, so that who they show stays known: drawings, other colours, half covered."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8
from skimage.color import hsv2rgb, rgb2gray, rgb2hsv
from skimage.filters import gaussian, sobel
from skimage.restoration import denoise_bilateral
from skimage.util import img_as_float, img_as_ubyte

from w2w_lib.evaluation.pictures import as_pictures
from w2w_lib.inputs import nearest

Picture = UInt8[np.ndarray, "height width 3"]

SMOOTH = 0.7  # pixels, before edges are looked for
DARKEST = 98  # percentile of the edges that a drawing has in black
FAINTEST = 1 / 255  # an edge that is drawn in black where there is no stronger one
LEVELS = 4  # of each colour in a posterised picture
TURN = 1 / 3  # of the circle of hues: red to green
LIT = (0.35, 1.9)  # gains at the left and at the right edge of a strongly lit picture
COVER = 128  # the gray of what is covered


def line_drawing(picture: Picture) -> Picture:
    """Edges of the brightness (Sobel 1968), dark on white."""
    edges = sobel(gaussian(rgb2gray(picture), SMOOTH))
    strongest = max(np.percentile(edges, DARKEST), FAINTEST)
    return _of_gray(1 - np.clip(edges / strongest, 0, 1))


def posterised(picture: Picture) -> Picture:
    """``LEVELS`` levels of each colour."""
    steps = np.minimum(picture.astype(int) * LEVELS // 256, LEVELS - 1)
    return (steps * 255 // (LEVELS - 1)).astype(np.uint8)


def gray(picture: Picture) -> Picture:
    """Brightness alone."""
    return _of_gray(rgb2gray(picture))


def hue_shifted(picture: Picture) -> Picture:
    """Every hue a third of the circle further; brightness value and saturation stay."""
    hsv = rgb2hsv(picture)
    hsv[..., 0] = (hsv[..., 0] + TURN) % 1
    return img_as_ubyte(hsv2rgb(hsv))


def oil_like(picture: Picture) -> Picture:
    """Flat patches with sharp borders (bilateral filter, Tomasi and Manduchi 1998)."""
    return img_as_ubyte(
        denoise_bilateral(img_as_float(picture), sigma_color=0.12, sigma_spatial=2, mode="edge", channel_axis=2)
    )


def strongly_lit(picture: Picture) -> Picture:
    """Dark on the left and overexposed on the right."""
    gains: Float[np.ndarray, " width"] = np.linspace(*LIT, picture.shape[1])
    return np.clip(picture * gains[None, :, None], 0, 255).astype(np.uint8)


def half_covered(picture: Picture) -> Picture:
    """The left half under a gray sheet."""
    covered = picture.copy()
    covered[:, : picture.shape[1] // 2] = COVER
    return covered


def _of_gray(values: Float[np.ndarray, "height width"]) -> Picture:
    return np.repeat(img_as_ubyte(values)[..., None], 3, axis=2)


DOMAINS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "line drawing": line_drawing,
    "posterised": posterised,
    "gray": gray,
    "hue-shifted": hue_shifted,
    "oil-like": oil_like,
    "strongly lit": strongly_lit,
    "half covered": half_covered,
}


def in_domain(
    pictures: UInt8[np.ndarray, "batch height width 3"], name: str
) -> UInt8[np.ndarray, "batch height width 3"]:
    """Every picture as one of ``DOMAINS`` has it; ValueError for another name and for no pictures."""
    if name not in DOMAINS:
        raise ValueError(f"no domain {name!r}{nearest(str(name), DOMAINS)}")
    return np.stack([DOMAINS[name](picture) for picture in as_pictures(pictures)])
