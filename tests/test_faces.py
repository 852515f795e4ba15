"""Faces: where they are, and whose, alone and in worker processes."""

import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from skimage.data import astronaut

from w2w_lib.evaluation import base_quality
from w2w_lib.evaluation.attributes import AttributeClassifier
from w2w_lib.evaluation.base_quality import shuffle_patches
from w2w_lib.evaluation.faces import FALLBACK_POINTS, detect_faces, embed_faces, face_points


@pytest.fixture(scope="module")
def face() -> np.ndarray:
    """A real portrait: NASA's Eileen Collins, from scikit-image."""
    return astronaut()[:256, 96:352]


def test_mtcnn_finds_the_astronaut_and_not_her_pieces(face):
    pictures = np.stack([face, shuffle_patches(face[None], seed=0)[0]])
    boxes, found = detect_faces(pictures)
    assert found.tolist() == [True, False]
    left, top, right, bottom = boxes[0]
    assert left < 128 < right and top < 110 < bottom and 60 < right - left < 160


def test_a_small_face_is_found_where_there_is_no_larger_one(face):
    small = np.zeros_like(face)
    small[80:160, 80:160] = face[::2, ::2][20:100, 24:104]  # a face of 50 pixels
    boxes, found = detect_faces(np.stack([small, face]))
    assert found.all() and boxes[0, 2] - boxes[0, 0] < 80 and np.abs(boxes[1] - detect_faces(face[None])[0]).max() < 1
    np.testing.assert_allclose(face_points(small[None])[0].mean(0), (boxes[0, :2] + boxes[0, 2:]) / 2, atol=15)


def test_dlib_tells_the_astronaut_from_noise_and_knows_her_again(face):
    rng = np.random.default_rng(0)
    darker = (face * 0.8).astype(np.uint8)
    noise = rng.integers(0, 256, face.shape, np.uint8)
    embeddings, found = embed_faces(np.stack([face, darker, noise]))
    assert found.tolist() == [True, True, False]
    assert np.linalg.norm(embeddings[0] - embeddings[1]) < 0.35 < np.linalg.norm(embeddings[0] - embeddings[2])


def test_points_lie_where_they_should(face):
    left_eye, right_eye, nose, left_corner, right_corner = face_points(face[None])[0]
    assert left_eye[0] < nose[0] < right_eye[0] and left_corner[0] < right_corner[0]
    assert left_eye[1] < nose[1] < left_corner[1]
    noise = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), np.uint8)
    np.testing.assert_array_equal(face_points(noise)[0], FALLBACK_POINTS)  # no face: where a portrait's would be


def test_a_mirrored_face_turns_the_other_way(face):
    turn = base_quality.face_turn(np.stack([face, face[:, ::-1]]))
    assert turn[0] * turn[1] < 0


def test_a_picture_that_is_not_square_is_not_distorted(face):
    """Black beside a portrait does not change whose face it is; a stretched face would."""
    wide = np.pad(face, [(0, 0), (40, 90), (0, 0)])
    embeddings, found = embed_faces(face[None])
    beside, found_beside = embed_faces(wide[None])
    assert found[0] and found_beside[0] and np.linalg.norm(embeddings - beside) < 0.3


def test_pictures_that_cannot_be_measured(face, unchecked):
    for wrong in (face, face[None] / 255, face[None, :, :, :2], np.zeros((1, 0, 9, 3), np.uint8)):
        for measure in (embed_faces, detect_faces, face_points, AttributeClassifier(("Cap",)).logits):
            with pytest.raises(ValueError, match=r"pictures: expected uint8 \(batch, height, width, 3\), found"):
                measure(wrong)
    with pytest.raises(ValueError, match="workers: expected a whole number of at least 1, found 0"):
        embed_faces(face[None], workers=0)
    none = np.zeros((0, 64, 64, 3), np.uint8)
    assert [part.shape for part in embed_faces(none)] == [(0, 128), (0,)]
    assert face_points(none).shape == (0, 5, 2) and AttributeClassifier(("Cap",)).logits(none).shape == (0, 1)


SCRIPT = """
import sys, threading, numpy as np, psutil
from skimage.data import astronaut
from w2w_lib.evaluation import faces
face = astronaut()[:256, 96:352]
pictures = np.stack([np.roll(face, shift, 1)[::2, ::2] for shift in range(-20, 20)])  # no main guard
embeddings, found = faces.embed_faces(pictures, workers=2)
alone, seen = faces.embed_faces(pictures[:32], workers=1)
assert (embeddings[:32] == alone).all() and (found[:32] == seen).all() and found.any()
workers = [p for p in psutil.Process().children(recursive=True) if "popen_loky" in " ".join(p.cmdline())]
assert len(workers) == 2, workers
faces.embed_faces(pictures[:8], workers=2)
assert {p.pid for p in workers} <= {p.pid for p in psutil.Process().children(recursive=True)}
print(*(p.pid for p in workers), flush=True)
if "wait" in sys.argv:
    threading.Event().wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["well", "killed"])
def test_workers_give_the_same_numbers_stay_for_the_next_call_and_end_with_their_parent(tmp_path, end):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, tmp_path / "script.py", *(["wait"] if end == "killed" else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as script:
        workers = [int(pid) for pid in script.stdout.readline().split()]
        if end == "killed":
            script.kill()
    assert len(workers) == 2 and script.returncode == (-signal.SIGKILL if end == "killed" else 0)
    until = time.monotonic() + 20
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in workers):
        assert time.monotonic() < until, "workers outlive their parent"
        time.sleep(0.2)
