"""Back ends of face embeddings: dlib's against `embed_faces`, FaceNet's path with weights that a test made up."""

import os

import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN, InceptionResnetV1
from PIL import Image
from skimage.data import astronaut

from w2w_lib.evaluation import face_embedders
from w2w_lib.evaluation.face_embedders import FaceEmbeddings, embed, load_facenet
from w2w_lib.evaluation.faces import SMALLEST, embed_faces


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """A real portrait (NASA's Eileen Collins, from scikit-image), the same darker, and noise."""
    face = astronaut()[:256, 96:352]
    noise = np.random.default_rng(0).integers(0, 256, face.shape, np.uint8)
    return np.stack([face, (face * 0.8).astype(np.uint8), noise])


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    network = InceptionResnetV1(classify=True, num_classes=3)  # the published file has its classifier, too
    return network.state_dict()


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("facenet") / "own.pt"
    torch.save(state, path)
    return path


def test_dlib_is_embed_faces(pictures):
    found, (embeddings, flags) = embed(pictures), embed_faces(pictures)
    assert found.back_end == "dlib"
    np.testing.assert_array_equal(found.embeddings, embeddings)
    np.testing.assert_array_equal(found.found, flags)
    assert found.reshape(3, 1).embeddings.shape == (3, 1, 128)


def test_facenet_is_facenet_pytorchs_own_chain(pictures, state, weights):
    """MTCNN cuts out and standardises 160 pixels, the network embeds them (facenet-pytorch's README)."""
    found = embed(pictures, "facenet", weights)
    assert (found.back_end, found.embeddings.shape, found.found.tolist()) == ("facenet", (3, 512), [True, True, False])
    np.testing.assert_allclose(np.linalg.norm(found.embeddings, axis=1), 1, atol=1e-5)
    network = InceptionResnetV1().eval()
    network.load_state_dict({name: tensor for name, tensor in state.items() if not name.startswith("logits")})
    detector = MTCNN(image_size=160, margin=0, select_largest=False, min_face_size=SMALLEST[0])
    crops = detector([Image.fromarray(picture) for picture in pictures[:2]])
    with torch.no_grad():
        np.testing.assert_allclose(found.embeddings[:2], network(torch.stack(crops)).numpy(), atol=1e-5)
    again = embed(pictures, "facenet", weights)
    np.testing.assert_array_equal(again.embeddings, found.embeddings)


def test_a_large_picture_keeps_its_pixels(pictures):
    """The crop of a picture of twice the side has details that one of 256 pixels has not."""
    box, detailed = np.array([40.0, 40, 200, 200]), pictures[2].repeat(2, 0).repeat(2, 1)
    detailed[::2] = 0
    crops = [face_embedders._crop(picture, box) for picture in (pictures[2], detailed)]
    half = MTCNN(image_size=160, margin=0).extract(Image.fromarray(detailed), 2 * box[None], None)
    torch.testing.assert_close(crops[1], half)
    assert (crops[0] - crops[1]).abs().mean() > 0.1


def test_facenets_own_place_is_looked_up_and_nothing_is_downloaded(tmp_path, monkeypatch, pictures, weights):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"checkpoints/20180402-114759-vggface2.pt: no such file; .*fetch http"):
        embed(pictures, "facenet")
    (tmp_path / "checkpoints").mkdir()
    os.link(weights, tmp_path / "checkpoints" / "20180402-114759-vggface2.pt")
    assert isinstance(load_facenet(), InceptionResnetV1)


class Runs:
    """What a pickle of it would run when it is opened."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_pickle_with_code_is_not_run(tmp_path):
    path, marker = tmp_path / "evil.pt", tmp_path / "ran"
    torch.save({"conv2d_1a.conv.weight": Runs(marker)}, path)
    with pytest.raises(ValueError, match="is no state dict of tensors alone"):
        load_facenet(path)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda own: own.pop("last_bn.weight"), "tensors missing or unknown: last_bn.weight"),
        (lambda own: own.update(more=torch.zeros(1)), "tensors missing or unknown: more"),
        (lambda own: own.update({"last_bn.weight": torch.ones(3)}), r"tensor 'last_bn.weight' of shape \(3,\)"),
        (lambda own: own.update({"last_bn.weight": torch.full((512,), torch.nan)}), "holds NaN or infinite"),
        (lambda own: own.update({"last_bn.weight": 1}), "holds a dict, not tensors by name"),
    ],
)
def test_other_tensors_are_refused(tmp_path, state, change, said):
    own = dict(state)
    change(own)
    torch.save(own, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=f"{said}.*; expected FaceNet's weights"):
        load_facenet(tmp_path / "other.pt")


def test_files_and_arguments_that_are_refused(tmp_path, pictures, unchecked):
    (tmp_path / "page.pt").write_text("<html>")
    with pytest.raises(ValueError, match="is no state dict of tensors alone"):
        load_facenet(tmp_path / "page.pt")
    with pytest.raises(ValueError, match=r"back end 'facnet', did you mean 'facenet'\?"):
        embed(pictures, "facnet")
    with pytest.raises(ValueError, match="dlib's come with its package"):
        embed(pictures, weights=tmp_path / "page.pt")
    with pytest.raises(ValueError, match="pictures: expected uint8"):
        embed(pictures / 255, "facenet")
    with pytest.raises(ValueError, match="expected one of True and False for each embedding"):
        FaceEmbeddings("dlib", np.ones((2, 3)), np.ones(3, bool))
    assert embed(pictures[:0]).embeddings.shape == (0, 128)
