"""dlib's embedder in PyTorch, held against dlib."""

import dlib
import numpy as np
import pytest
import torch
from skimage import data

from w2w_lib.evaluation.face_network import CHIP_PIXELS, FaceNetwork
from w2w_lib.evaluation.faces import models_folder
from w2w_lib.people.rendered.population import render_population

WEIGHTS = models_folder() / "dlib_face_recognition_resnet_model_v1.dat"


def test_the_embeddings_are_dlibs():
    renders, _ = render_population("network", range(3), 2, CHIP_PIXELS, workers=1, progress=False)
    face = data.astronaut()[20 : 20 + CHIP_PIXELS, 150 : 150 + CHIP_PIXELS]
    noise = np.random.default_rng(0).integers(0, 256, face.shape, np.uint8)
    chips = np.stack([*renders.reshape(-1, *face.shape), face, noise])
    dlibs = dlib.face_recognition_model_v1(str(WEIGHTS))
    expected = np.array([dlibs.compute_face_descriptor(chip) for chip in chips])
    found = FaceNetwork.load(WEIGHTS)(torch.from_numpy(chips)).numpy()
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert np.linalg.norm(expected[0] - expected[2]) > 0.1  # another person: not all alike


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[:-1000], "ends within a layer"),
        (lambda content: content[: len(content) // 2], "ends within a layer"),
        (lambda content: b"a page of HTML", "holds layers of other sizes"),
        (lambda content: content.replace(b"affine_", b"bn_con_", 1), "holds layers of other sizes"),
    ],
)
def test_another_file_is_refused(tmp_path, change, said):
    path = tmp_path / "model.dat"
    path.write_bytes(change(WEIGHTS.read_bytes()))
    with pytest.raises(ValueError, match=f"{said}; expected dlib_face_.*; install face-recognition-models again"):
        FaceNetwork.load(path)
