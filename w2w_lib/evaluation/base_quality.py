"""What a base model can do: its autoencoder, its faces, and how well it follows prompts.

The measurements are by networks that it was not trained with.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float, UInt8
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from w2w_lib.evaluation.attributes import AttributeClassifier
from w2w_lib.evaluation.faces import face_points
from w2w_lib.evaluation.intervals import Interval, share_of
from w2w_lib.evaluation.pictures import as_pictures, finite_embeddings
from w2w_lib.inputs import whole_number
from w2w_lib.models.images import as_images, decode, encode_images, to_pixels
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.people.rendered.view import BACKGROUNDS

Images = UInt8[np.ndarray, "batch height width 3"]

# For each attribute, the prompt's ending that asks for it, and the one that does not.
PROMPTS = {
    "Male": ("man", "woman"),
    "Young": ("person, in the twenties", "person, in the seventies"),
    "Chubby": ("person, very chubby", "person, skinny"),
    "Big_Nose": ("person, huge nose", "person, dainty nose"),
    "Pointy_Nose": ("person, needle nose", "person, flat nose"),
    "Narrow_Eyes": ("person, slit eyes", "person, staring eyes"),
    "Big_Lips": ("person, pillowy lips", "person, pencil lips"),
    "High_Cheekbones": ("person, sharp cheekbones", "person, sunken cheekbones"),
    "Pale_Skin": ("person, porcelain skin", "person, tan skin"),
    "Bald": ("person, bald", "person, short straight brown hair"),
    "Black_Hair": ("person, short straight black hair", "person, short straight brown hair"),
    "Brown_Hair": ("person, short straight brown hair", "person, short straight black hair"),
    "Blond_Hair": ("person, short straight blond hair", "person, short straight brown hair"),
    "Gray_Hair": ("person, short straight gray hair", "person, short straight brown hair"),
    "Long_Hair": ("person, long straight brown hair", "person, short straight brown hair"),
    "Bangs": ("person, medium straight brown hair, bangs", "person, medium straight brown hair, no bangs"),
    "Receding_Hairline": ("person, receding hairline", "person, full hairline"),
    "Bushy_Eyebrows": ("person, bushy eyebrows", "person, sparse eyebrows"),
    "Arched_Eyebrows": ("person, peaked brows", "person, level brows"),
    "No_Beard": ("man, clean shaven", "man, full brown beard"),
    "Goatee": ("man, brown goatee", "man, clean shaven"),
    "Mustache": ("man, brown mustache", "man, clean shaven"),
    "Full_Beard": ("man, full brown beard", "man, clean shaven"),
    "Bags_Under_Eyes": ("person, baggy eyes", "person, rested eyes"),
    "Rosy_Cheeks": ("person, rosy cheeks", "person, plain cheeks"),
    "Wearing_Lipstick": ("woman, red lipstick", "woman, no lipstick"),
    "Eyeglasses": ("person, round black glasses", "person, no glasses"),
}


# ---------------------------------------------------------------- distributions
def frechet_distance(a: Float[np.ndarray, "n dim"], b: Float[np.ndarray, "m dim"]) -> float:
    """|μa − μb|² + tr(Σa + Σb − 2 (Σa Σb)^½), between Gaussians fitted to the rows (Heusel et al. 2017).

    ValueError for fewer than two rows, rows of different lengths, NaN or infinite numbers.
    """
    _check_clouds(a, b)
    difference = a.mean(0) - b.mean(0)
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    squares = np.linalg.eigvals(cov_a @ cov_b).real.clip(0)  # of a product of two covariances: real, >= 0
    return float(difference @ difference + np.trace(cov_a + cov_b) - 2 * np.sqrt(squares).sum())


def precision_recall(
    real: Float[np.ndarray, "n dim"], generated: Float[np.ndarray, "m dim"], neighbours: int = 3
) -> tuple[Interval, Interval]:
    """Shares of generated rows among the real and of real among the generated (Kynkäänniemi et al. 2019).

    A point is among a cloud if it is as near to one of its points as that point's k-th neighbour is. Intervals are of
    the share among this cloud. ValueError for fewer than two rows, rows of different lengths, NaN or infinite numbers.
    """
    _check_clouds(real, generated)
    whole_number("neighbours", neighbours)

    def share_inside(points, cloud) -> Interval:
        radius = np.sort(cdist(cloud, cloud), axis=1)[:, min(neighbours, len(cloud) - 1)]
        return share_of((cdist(points, cloud) <= radius).any(1))

    return share_inside(generated, real), share_inside(real, generated)


def _check_clouds(a: np.ndarray, b: np.ndarray) -> None:
    for rows in (a, b):
        finite_embeddings(rows, "distributions", axes=2)
    if a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"distributions of shapes {a.shape} and {b.shape}: expected at least 2 rows of one length")


def shuffle_patches(images: Images, seed: int, cells: int = 8) -> Images:
    """Every picture cut into ``cells`` x ``cells`` squares in random order: a control of the same colours.

    ValueError where the pictures are not square, or their side is no multiple of ``cells``.
    """
    height, width = as_pictures(images).shape[1:3]
    if height != width or height % whole_number("cells", cells):
        raise ValueError(f"pictures of {height} x {width} pixels: expected squares whose side is a multiple of {cells}")
    rng, side = np.random.default_rng(seed), images.shape[1] // cells
    grid = images.reshape(-1, cells, side, cells, side, 3).swapaxes(2, 3)
    squares = grid.reshape(-1, cells**2, side, side, 3)
    mixed = np.stack([own[rng.permutation(cells**2)] for own in squares])
    return mixed.reshape(-1, cells, cells, side, side, 3).swapaxes(2, 3).reshape(images.shape)


def reconstruct(pipeline: StableDiffusionPipeline, images: Images) -> Images:
    """Pictures after encoding and decoding by the pipeline's autoencoder."""
    return decode(pipeline, encode_images(pipeline, to_pixels(images)))


@torch.no_grad()
def reconstruct_linearly(pipeline: StableDiffusionPipeline, images: Images) -> Images:
    """As ``reconstruct``, without the pocket codec's refiner."""
    return as_images(pipeline, pipeline.vae.decoder(encode_images(pipeline, to_pixels(images))))


# ---------------------------------------------------------------- does it follow the prompt?
def prompted(
    pipeline: StableDiffusionPipeline, endings: list[str], seeds: range, sampling: Sampling
) -> UInt8[np.ndarray, "endings seeds height width 3"]:
    """Pictures of 'a photo of a ...' for every ending and seed."""
    prompts = [f"a photo of a {ending}" for ending in endings for _ in seeds]
    images = generate(pipeline, prompts, [*seeds] * len(endings), sampling=sampling, progress=True)
    return images.reshape(len(endings), len(seeds), *images.shape[1:])


def prompted_attributes(
    pipeline: StableDiffusionPipeline, seeds: range, sampling: Sampling
) -> dict[str, UInt8[np.ndarray, "2 seeds height width 3"]]:
    """For every attribute of ``PROMPTS``, pictures prompted to have it and pictures prompted not to."""
    images = prompted(pipeline, [ending for pair in PROMPTS.values() for ending in pair], seeds, sampling)
    return dict(zip(PROMPTS, images.reshape(len(PROMPTS), 2, *images.shape[1:]), strict=True))


def prompting_aucs(
    pictures: dict[str, UInt8[np.ndarray, "2 seeds height width 3"]], classifier: AttributeClassifier
) -> dict[str, float]:
    """How well the classifier tells pictures prompted to have an attribute from those prompted not to."""
    return {name: _auc(*(classifier.logits(own)[name] for own in pair)) for name, pair in pictures.items()}


def _auc(high, low) -> float:
    """The probability that a value of ``high`` exceeds one of ``low``."""
    return float(roc_auc_score(np.repeat([1, 0], [len(high), len(low)]), np.concatenate([high, low])))


# ---------------------------------------------------------------- does the view follow the prompt?
def face_turn(images: Images) -> Float[np.ndarray, " batch"]:
    """How far the nose is right of the eyes' middle, in eye distances."""
    left, right, nose, _, _ = face_points(images).swapaxes(0, 1)
    return (nose - (left + right) / 2)[:, 0] / np.linalg.norm(right - left, axis=1)


def light_side(images: Images) -> Float[np.ndarray, " batch"]:
    """How much brighter the right half of the face is than the left."""
    size = images.shape[1]
    face = images[:, int(0.4 * size) : int(0.75 * size), int(0.3 * size) : int(0.7 * size)].mean((1, 3))
    middle = face.shape[1] // 2
    return face[:, middle:].mean(1) - face[:, :middle].mean(1)


def mouth_width(images: Images) -> Float[np.ndarray, " batch"]:
    """Distance of the corners of the mouth, in eye distances."""
    left, right, _, left_corner, right_corner = face_points(images).swapaxes(0, 1)
    return np.linalg.norm(right_corner - left_corner, axis=1) / np.linalg.norm(right - left, axis=1)


def mouth_opening(images: Images) -> Float[np.ndarray, " batch"]:
    """How much darker the darkest point about the mouth is than the middle of the face."""
    size, brightness = images.shape[1], images.mean(-1)
    mouth = brightness[:, int(0.66 * size) : int(0.8 * size), int(0.4 * size) : int(0.6 * size)]
    middle = brightness[:, int(0.45 * size) : int(0.65 * size), int(0.35 * size) : int(0.65 * size)]
    return 1 - mouth.min((1, 2)) / middle.mean((1, 2)).clip(1)


def nearest_background(images: Images) -> list[str]:
    """The named background whose colour is nearest to that of the upper corners."""
    corner = images.shape[1] // 6
    corners = np.concatenate([images[:, :corner, :corner], images[:, :corner, -corner:]], axis=2)
    colours = np.median(corners.reshape(len(images), -1, 3), axis=1) / 255
    return [list(BACKGROUNDS)[i] for i in cdist(colours, np.array([*BACKGROUNDS.values()])).argmin(1)]


class ViewTest(NamedTuple):
    """Two phrases of a caption and a number measured in the picture that the second should raise."""

    low: str
    high: str
    measure: Callable[[Images], Float[np.ndarray, " batch"]]


VIEW_TESTS = {
    "pose": ViewTest("facing left", "facing right", face_turn),
    "light": ViewTest("lit from the left", "lit from the right", light_side),
    "smile": ViewTest("neutral", "smiling", mouth_width),
    "open_mouth": ViewTest("neutral", "open mouth", mouth_opening),
}
VIEW_PHRASES = [*dict.fromkeys(phrase for test in VIEW_TESTS.values() for phrase in test[:2])] + [
    f"on a {colour} background" for colour in BACKGROUNDS
]


def prompted_views(
    pipeline: StableDiffusionPipeline, seeds: range, sampling: Sampling
) -> dict[str, UInt8[np.ndarray, "seeds height width 3"]]:
    """Pictures of 'a photo of a person' with every phrase of ``VIEW_PHRASES``."""
    images = prompted(pipeline, [f"person, {phrase}" for phrase in VIEW_PHRASES], seeds, sampling)
    return dict(zip(VIEW_PHRASES, images, strict=True))


def captioned_views(images: Images, captions: pd.Series) -> dict[str, UInt8[np.ndarray, "_ height width 3"]]:
    """Pictures grouped by the phrases of ``VIEW_PHRASES`` that their captions hold."""
    return {phrase: images[captions.str.contains(phrase, regex=False).to_numpy()] for phrase in VIEW_PHRASES}


def view_scores(pictures: dict[str, UInt8[np.ndarray, "_ height width 3"]]) -> dict[str, float]:
    """AUC of every view test with pictures of both kinds, and how often the background is the named one."""
    scores = {
        name: _auc(test.measure(pictures[test.high]), test.measure(pictures[test.low]))
        for name, test in VIEW_TESTS.items()
        if len(pictures[test.high]) and len(pictures[test.low])
    }
    right = [
        name == colour
        for colour in BACKGROUNDS
        if len(shown := pictures[f"on a {colour} background"])
        for name in nearest_background(shown)
    ]
    return scores | {"background": float(np.mean(right))}
