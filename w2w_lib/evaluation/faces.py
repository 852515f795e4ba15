"""Is there a face in a picture, and whose? By networks that neither the base model nor its adapters were trained with.

The detector is MTCNN (weights inside facenet-pytorch), the embedder dlib's ResNet (weights inside
face-recognition-models): both were trained on photographs, neither on this workbook's renders.

Many pictures go to worker processes (``w2w_lib.parallel``), as much of MTCNN's work is Python's. The numbers are those
of one process to the last bit: the networks get the same batches, on one thread.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import dlib
import numpy as np
import torch
from facenet_pytorch import MTCNN
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from tqdm import tqdm

from w2w_lib.evaluation.face_network import CHIP_PIXELS, DIMENSION, FaceNetwork
from w2w_lib.evaluation.pictures import as_pictures, padded_square
from w2w_lib.parallel import in_order, worker_count

FACE_PIXELS = 256  # pictures are enlarged to this before detection, as small faces are below MTCNN's pyramid
SMALLEST = (100, 40)  # enlarged pixels of a face; smaller ones, which take longer, are looked for where none is larger
DETECTION_THRESHOLD = 0.9
FALLBACK_BOX = np.array([0.27, 0.25, 0.73, 0.86]) * FACE_PIXELS  # where a portrait's face is when none was detected
FALLBACK_POINTS = np.array([[0.4, 0.48], [0.6, 0.48], [0.5, 0.6], [0.42, 0.72], [0.58, 0.72]]) * FACE_PIXELS
TOGETHER = 32  # the other pictures of a batch move MTCNN's boxes in their last digits: always so many
FEW = 256  # up to so many pictures are done in this process: to start the workers takes some seconds
CHIP_PADDING = 0.25  # around the aligned face
QUIET_SECONDS = 3  # before a progress bar is shown


@cache
def _detector(smallest: int) -> MTCNN:
    return MTCNN(keep_all=False, select_largest=False, device="cpu", min_face_size=smallest, post_process=False)


@cache
def _landmarks() -> dlib.shape_predictor:
    return dlib.shape_predictor(str(models_folder() / "shape_predictor_5_face_landmarks.dat"))


@cache
def _network() -> FaceNetwork:
    return FaceNetwork.load(models_folder() / "dlib_face_recognition_resnet_model_v1.dat")


def models_folder() -> Path:
    """Where dlib's weights lie."""
    # find_spec, not import: the package's own __init__ needs the removed pkg_resources.
    spec = importlib.util.find_spec("face_recognition_models")
    return Path(spec.submodule_search_locations[0]) / "models"


def _enlarge(image: UInt8[np.ndarray, "height width 3"]) -> Image.Image:
    return Image.fromarray(padded_square(image)).resize((FACE_PIXELS, FACE_PIXELS), Image.BICUBIC)


def detect_faces(
    images: UInt8[np.ndarray, "batch height width 3"], progress: bool = True, workers: int | None = None
) -> tuple[Float[np.ndarray, "batch 4"], Bool[np.ndarray, " batch"]]:
    """The surest face's box in each enlarged picture, and whether it is a face with a probability above 0.9.

    Faces of less than 100 pixels of 256 are looked for where there is no larger one, those below 40 not. A picture that
    is not square is enlarged with black beside it. Where no face is found, the box is where a portrait's would be.
    ``progress`` and ``workers`` are as in ``embed_faces``. ValueError where the pictures are not uint8 RGB.
    """
    images = as_pictures(images)
    parts = [(part,) for part in _split(images, TOGETHER)]
    detected = _map(_detect, parts, _workers(workers, images), "detect faces", progress)
    boxes, found = zip(*detected, strict=True) if detected else ([np.zeros((0, 4))], [np.zeros(0, bool)])
    return np.concatenate(boxes), np.concatenate(found)


def embed_faces(
    images: UInt8[np.ndarray, "batch height width 3"], progress: bool = True, workers: int | None = None
) -> tuple[Float[np.ndarray, "batch 128"], Bool[np.ndarray, " batch"]]:
    """Identity embeddings and whether a face was detected; undetected faces use a default box.

    ``workers`` processes share the pictures; None stands for one for each core if there are more than ``FEW``
    pictures, 1 for this process. A bar of ``progress`` appears after three seconds. ValueError where the pictures are
    not uint8 RGB.
    """
    images = as_pictures(images)
    boxes, found = detect_faces(images, progress, workers)
    parts = list(zip(_split(images, TOGETHER), _split(boxes, TOGETHER), strict=True))
    embedded = _map(_embed, parts, _workers(workers, images), "embed faces", progress)
    return np.concatenate([np.zeros((0, DIMENSION)), *embedded]), found


def face_points(images: UInt8[np.ndarray, "batch height width 3"]) -> Float[np.ndarray, "batch 5 2"]:
    """MTCNN's points in the enlarged picture: left and right eye, nose, left and right mouth corner."""
    images = as_pictures(images)
    points = np.tile(FALLBACK_POINTS, (len(images), 1, 1))
    for i, _, own in _found(images):
        points[i] = own
    return points


# ---------------------------------------------------------------- one part of the pictures
def _detect(images: UInt8[np.ndarray, "batch height width 3"]) -> tuple[np.ndarray, np.ndarray]:
    boxes, found = np.tile(FALLBACK_BOX, (len(images), 1)), np.zeros(len(images), bool)
    for i, box, _ in _found(images):
        boxes[i], found[i] = box, True
    return boxes, found


def _found(images: UInt8[np.ndarray, "batch height width 3"]) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Place, box and points of each picture's face; of pictures without one nothing."""
    left = list(range(len(images)))
    for smallest in SMALLEST:
        if not left:
            return
        with one_thread():
            seen = _detector(smallest).detect([_enlarge(images[i]) for i in left], landmarks=True)
        sure = [p[0] is not None and p[0] > DETECTION_THRESHOLD for p in seen[1]]
        yield from ((i, boxes[0], points[0]) for i, boxes, _, points, ok in zip(left, *seen, sure, strict=True) if ok)
        left = [i for i, ok in zip(left, sure, strict=True) if not ok]


def _embed(
    images: UInt8[np.ndarray, "batch height width 3"], boxes: Float[np.ndarray, "batch 4"]
) -> Float[np.ndarray, "batch 128"]:
    chips = []
    for image, box in zip(images, boxes, strict=True):
        enlarged = np.asarray(_enlarge(image))
        points = _landmarks()(enlarged, _dlib_square(box))
        chips.append(dlib.get_face_chip(enlarged, points, CHIP_PIXELS, CHIP_PADDING))
    with one_thread(), torch.inference_mode():
        return _network()(torch.from_numpy(np.stack(chips))).double().numpy()


def _dlib_square(box: Float[np.ndarray, "4"]) -> dlib.rectangle:
    """The square that dlib's own detector would draw around MTCNN's box."""
    x0, y0, x1, y1 = box
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2 + 0.06 * (y1 - y0)
    half = 0.5 * max(x1 - x0, 0.85 * (y1 - y0))
    corners = (centre_x - half, centre_y - half, centre_x + half, centre_y + half)
    return dlib.rectangle(*(int(v) for v in corners))


# ---------------------------------------------------------------- all parts, here or by workers
def _split(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]


def _workers(workers: int | None, images: np.ndarray) -> int:
    return 1 if workers is None and len(images) <= FEW else worker_count(workers)


def _map(function: Callable, parts: Sequence[tuple], workers: int, title: str, progress: bool) -> list:
    """What ``function`` makes of each part, in their order."""
    count, made = sum(len(part[0]) for part in parts), []
    with tqdm(total=count, desc=title, unit="picture", delay=QUIET_SECONDS, disable=not progress) as bar:
        for part, result in zip(parts, in_order(function, parts, workers), strict=True):
            made.append(result)
            bar.update(len(part[0]))
    return made


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: sums do not depend on the number of cores, and threads do not wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
