"""Face embeddings by the network of one's choice, whose name stays with them."""

import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from facenet_pytorch import InceptionResnetV1, extract_face, fixed_image_standardization
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from w2w_lib.evaluation.faces import FACE_PIXELS, detect_faces, embed_faces, one_thread
from w2w_lib.evaluation.pictures import as_pictures, finite_embeddings, padded_square
from w2w_lib.files.regular import regular_file
from w2w_lib.files.tensors import DTYPES, finite
from w2w_lib.inputs import described, nearest, some

BACK_ENDS = ("dlib", "facenet")
CROP_PIXELS = 160  # a side of FaceNet's crop: MTCNN's box without a margin, facenet-pytorch's default
FACENET_FILE = "20180402-114759-vggface2.pt"
RELEASE = f"https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/{FACENET_FILE}"
EXPECTED = "FaceNet's weights, facenet-pytorch's state dict for VGGFace2"
REMEDY = f"fetch {RELEASE} and name it as `weights`"
UNUSED = ("logits.weight", "logits.bias")  # the classifier of VGGFace2's people, which an embedding has no use for
TOGETHER = 32  # crops embedded at once


@dataclass(frozen=True)
class FaceEmbeddings:
    """Embeddings of pictures, what embedded them, and whether a face was found: a row without one means nothing.

    ValueError where there is not a flag for each embedding.
    """

    back_end: str
    embeddings: Float[np.ndarray, "*batch dim"]
    found: Bool[np.ndarray, "*batch"]

    def __post_init__(self):
        embeddings, found = self.embeddings, np.asarray(self.found)
        if embeddings.size:
            finite_embeddings(embeddings, self.back_end)
        if embeddings.shape[:-1] != found.shape or found.dtype != bool:
            raise ValueError(
                f"{self.back_end}: embeddings of shape {embeddings.shape}, {found.dtype} flags of shape {found.shape}: "
                "expected one of True and False for each embedding"
            )

    def reshape(self, *batch: int) -> "FaceEmbeddings":
        """The same, in rows by people, prompts or seeds."""
        embeddings = self.embeddings.reshape(*batch, self.embeddings.shape[-1])
        return FaceEmbeddings(self.back_end, embeddings, self.found.reshape(*batch))


def embed(
    images: UInt8[np.ndarray, "batch height width 3"],
    back_end: str = "dlib",
    weights: Path | None = None,
    workers: int | None = None,
) -> FaceEmbeddings:
    """Embeddings of the surest face that MTCNN finds in each picture, by dlib's network or by FaceNet.

    "facenet" is what the paper measures with (Dravid et al. 2024, §4.3): FaceNet (Schroff et al. 2015) on crops of 160
    pixels. Its ``weights`` are a local file; None stands for where facenet-pytorch keeps it. ``workers`` are processes
    as for ``embed_faces``. ValueError for another back end, weights that it does not take and pictures that are not
    uint8 RGB; FileNotFoundError where it has none.
    """
    images = as_pictures(images)
    if back_end not in BACK_ENDS:
        raise ValueError(f"back end {described(back_end)}{nearest(str(back_end), BACK_ENDS)}")
    if back_end == "dlib":
        if weights is not None:
            raise ValueError(f"weights {weights}: dlib's come with its package; expected none, or back end 'facenet'")
        embeddings, found = embed_faces(images, workers=workers)
        return FaceEmbeddings("dlib", embeddings, found)
    network = load_facenet(weights)
    boxes, found = detect_faces(images, workers=workers)
    rows = [np.zeros((0, network.last_linear.out_features))]
    with one_thread(), torch.inference_mode():
        for first in range(0, len(images), TOGETHER):
            part = slice(first, first + TOGETHER)
            rows.append(network(torch.stack(list(map(_crop, images[part], boxes[part])))).double().numpy())
    return FaceEmbeddings("facenet", np.concatenate(rows), found)


def load_facenet(weights: str | Path | None = None) -> InceptionResnetV1:
    """FaceNet with weights of a state dict, which is opened without running code of its own.

    None stands for where facenet-pytorch keeps those of VGGFace2; nothing is downloaded. FileNotFoundError where there
    is no file, ValueError for one of other tensors or that is no state dict.
    """
    path = regular_file(_cached() if weights is None else weights, EXPECTED, REMEDY)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        refused = f"{path}: is no state dict of tensors alone ({reason}); expected {EXPECTED}; {REMEDY}"
        raise ValueError(refused) from None
    with torch.device("meta"):  # without numbers, which take seconds to draw
        network = InceptionResnetV1()
    expected = network.state_dict()
    if wrong := _misfit(state, expected):
        raise ValueError(f"{path}: {wrong}; expected {EXPECTED}; {REMEDY}")
    state = {name: state[name].float() if own.is_floating_point() else state[name] for name, own in expected.items()}
    network.load_state_dict(state, assign=True)
    return network.requires_grad_(False).eval()


def _misfit(state: object, expected: dict[str, Tensor]) -> str | None:
    """What is wrong with the tensors that a file has."""
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        return f"holds a {type(state).__name__}, not tensors by name"
    if different := sorted(map(str, expected.keys() ^ (state.keys() - set(UNUSED)))):
        return f"tensors missing or unknown: {some(different)}"
    for name, wanted in expected.items():
        tensor = state[name]
        if tensor.shape != wanted.shape or (wanted.is_floating_point() and tensor.dtype not in DTYPES):
            return f"tensor {name!r} of shape {tuple(tensor.shape)} and {tensor.dtype}, not {tuple(wanted.shape)}"
        if not finite(tensor):
            return f"tensor {name!r} holds NaN or infinite numbers"
    return None


def _cached() -> Path:
    """Where facenet-pytorch keeps what it has downloaded; its own function for that is not public."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = Path(os.environ.get("TORCH_HOME", os.path.join(cache, "torch"))).expanduser()
    return home / "checkpoints" / FACENET_FILE


def _crop(image: UInt8[np.ndarray, "height width 3"], box: Float[np.ndarray, "4"]) -> Float[Tensor, "3 160 160"]:
    """The face as facenet-pytorch's MTCNN cuts it out and standardises it, of all pixels that the picture has."""
    square = Image.fromarray(padded_square(image))
    if square.width < FACE_PIXELS:
        square = square.resize((FACE_PIXELS, FACE_PIXELS), Image.BICUBIC)
    return fixed_image_standardization(extract_face(square, box * (square.width / FACE_PIXELS), CROP_PIXELS))
