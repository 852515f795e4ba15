"""Judges that the base model was never trained with: is it a face, and whose?

The detector is MTCNN (weights inside facenet-pytorch), the embedder dlib's ResNet (weights inside
face-recognition-models): both were trained on photographs, neither on this workbook's renders.
"""

import importlib.util
from functools import cache
from pathlib import Path

import dlib
import numpy as np
from facenet_pytorch import MTCNN
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from tqdm import tqdm

FACE_PIXELS = 256  # pictures are enlarged to this before detection, as small faces are below MTCNN's pyramid
DETECTION_THRESHOLD = 0.9
FALLBACK_BOX = np.array([0.27, 0.25, 0.73, 0.86]) * FACE_PIXELS  # where a portrait's face is when none was detected
FALLBACK_POINTS = np.array([[0.4, 0.48], [0.6, 0.48], [0.5, 0.6], [0.42, 0.72], [0.58, 0.72]]) * FACE_PIXELS


@cache
def _detector() -> MTCNN:
    return MTCNN(keep_all=False, select_largest=False, device="cpu", min_face_size=40, post_process=False)


@cache
def _dlib_models() -> tuple:
    # find_spec, not import: the package's own __init__ needs the removed pkg_resources.
    spec = importlib.util.find_spec("face_recognition_models")
    folder = Path(spec.submodule_search_locations[0]) / "models"
    landmarks = dlib.shape_predictor(str(folder / "shape_predictor_5_face_landmarks.dat"))
    embedder = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))
    return landmarks, embedder


def _enlarge(image: UInt8[np.ndarray, "height width 3"]) -> Image.Image:
    return Image.fromarray(image).resize((FACE_PIXELS, FACE_PIXELS), Image.BICUBIC)


def detect_faces(images: UInt8[np.ndarray, "batch height width 3"], batch_size: int = 32):
    """Face boxes (batch, 4) in the enlarged picture and whether each is a face with probability > 0.9."""
    boxes, found = np.tile(FALLBACK_BOX, (len(images), 1)), np.zeros(len(images), bool)
    for start in range(0, len(images), batch_size):
        detected, probability = _detector().detect([_enlarge(x) for x in images[start : start + batch_size]])
        for i, (box, p) in enumerate(zip(detected, probability, strict=True), start):
            if box is not None and p[0] is not None and p[0] > DETECTION_THRESHOLD:
                boxes[i], found[i] = box[0], True
    return boxes, found


def embed_faces(
    images: UInt8[np.ndarray, "batch height width 3"], progress: bool = False
) -> tuple[Float[np.ndarray, "batch 128"], Bool[np.ndarray, " batch"]]:
    """Identity embeddings and whether a face was detected; undetected faces use a default box."""
    landmarks, network = _dlib_models()
    boxes, found = detect_faces(images)
    embeddings = []
    for image, box in zip(tqdm(images, desc="embed", disable=not progress), boxes, strict=True):
        enlarged = np.asarray(_enlarge(image))
        chip = dlib.get_face_chip(enlarged, landmarks(enlarged, _dlib_square(box)), 150, 0.25)
        embeddings.append(network.compute_face_descriptor(chip))
    return np.array(embeddings), found


def face_points(images: UInt8[np.ndarray, "batch height width 3"]) -> Float[np.ndarray, "batch 5 2"]:
    """MTCNN's points in the enlarged picture: left and right eye, nose, left and right mouth corner."""
    points = np.tile(FALLBACK_POINTS, (len(images), 1, 1))
    _, _, detected = _detector().detect([_enlarge(image) for image in images], landmarks=True)
    for own, found in zip(points, detected, strict=True):
        if found is not None:
            own[:] = found[0]
    return points


def _dlib_square(box: Float[np.ndarray, "4"]) -> dlib.rectangle:
    """The square that dlib's own detector would draw around MTCNN's box."""
    x0, y0, x1, y1 = box
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2 + 0.06 * (y1 - y0)
    half = 0.5 * max(x1 - x0, 0.85 * (y1 - y0))
    corners = (centre_x - half, centre_y - half, centre_x + half, centre_y + half)
    return dlib.rectangle(*(int(v) for v in corners))
