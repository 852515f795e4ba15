"""Faces, attributes, the patch code and the base's measurements, against truths found another way."""

import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from scipy.linalg import sqrtm
from scipy.stats import ortho_group
from skimage.data import astronaut
from sklearn.decomposition import PCA
from tiny_base import tiny_pipeline

from w2w_lib.evaluation import base_quality
from w2w_lib.evaluation.attributes import AttributeClassifier, train_attribute_classifier, varying
from w2w_lib.evaluation.base_quality import PROMPTS, VIEW_PHRASES, frechet_distance, precision_recall, shuffle_patches
from w2w_lib.evaluation.faces import FALLBACK_POINTS, detect_faces, embed_faces, face_points
from w2w_lib.evaluation.identity import Faces
from w2w_lib.evaluation.sample_quality import comparison_sets, sample_quality
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.people.people_set import People
from w2w_lib.people.rendered.captions import VOCABULARY
from w2w_lib.people.rendered.person import ATTRIBUTES
from w2w_lib.people.rendered.view import BACKGROUNDS
from w2w_lib.pocket.codec import PatchCodec, fit_patch_codec
from w2w_lib.pocket.codec_training import refine_codec
from w2w_lib.workbook import paths


# ---------------------------------------------------------------- faces
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


# ---------------------------------------------------------------- the patch code
@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    """Smooth random pictures in [-1, 1]."""
    rng = torch.Generator().manual_seed(0)
    coarse = torch.randn(40, 3, 9, 9, generator=rng)
    return torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(-2, 2) / 2


def patches_of(images: torch.Tensor) -> np.ndarray:
    """All 8x8 patches as rows, by explicit slicing."""
    rows = [
        image[:, y : y + 8, x : x + 8].flatten() for image in images for y in range(0, 32, 8) for x in range(0, 32, 8)
    ]
    return torch.stack(rows).numpy()


def encoded(codec: PatchCodec, images: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        latents = codec.encode(images).latent_dist.mode()
    return latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1]).numpy()


@pytest.mark.parametrize("flatten", [1.0, 0.5, 0.0])
def test_codec_is_pca_of_patches(pictures, flatten):
    # The code centres on one colour, not on the mean patch: give PCA data that are centred so already.
    balanced = torch.cat([pictures, -pictures])
    pca = PCA(6, svd_solver="full").fit(patches_of(balanced))
    scores = pca.transform(patches_of(balanced))
    spread = scores.std(0) ** flatten
    expected = scores / scores.std(0) * spread / np.sqrt((spread**2).mean())
    found = encoded(fit_patch_codec(balanced, 6, flatten=flatten), balanced)
    signs = np.sign((expected * found).sum(0))
    np.testing.assert_allclose(found, expected * signs, atol=2e-3)
    assert found.var(0).mean() == pytest.approx(1, abs=1e-3)


def test_codec_with_all_components_gives_pictures_back(pictures):
    codec = fit_patch_codec(pictures, 192, ridge=1e-9, patch=8)
    with torch.no_grad():
        decoded = codec.decode(codec.encode(pictures).latent_dist.mode()).sample
    assert (decoded - pictures).abs().mean() < 0.02


def test_neighbours_help_the_decoder(pictures):
    codec = fit_patch_codec(pictures, 6)
    with torch.no_grad():
        wide = codec.decode(codec.encode(pictures).latent_dist.mode()).sample
    pca = PCA(6, svd_solver="full").fit(patches_of(pictures))
    alone = pca.inverse_transform(pca.transform(patches_of(pictures)))
    assert ((wide - pictures) ** 2).mean() < ((alone - patches_of(pictures)) ** 2).mean()


def discs(count):
    """Pictures of one bright disc each: sharp edges that a linear code of few numbers must blur."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:32, :32]
    centre, radius = rng.uniform(10, 22, (count, 2, 1, 1)), rng.uniform(4, 9, (count, 1, 1))
    inside = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2 < radius**2
    return torch.from_numpy(np.repeat(inside[:, None] * 255, 3, 1).astype(np.uint8))


@pytest.mark.slow
def test_the_refiner_adds_what_the_linear_decoder_blurs(tmp_path):
    pixels = discs(600)
    images = pixels / 127.5 - 1
    linear = fit_patch_codec(images, 6)
    latents = linear.encoder(images).detach()
    options = {"channels": (32, 16), "batch_size": 32, "learning_rate": 3e-3, "noise": 0.05}
    refined = refine_codec(linear, pixels[:500], latents[:500], tmp_path, steps=250, **options)
    with torch.no_grad():
        before, after = (codec.decode(latents[500:]).sample for codec in (linear, refined))
    assert (after - images[500:]).abs().mean() < 0.8 * (before - images[500:]).abs().mean()
    assert torch.equal(refined.encoder.weight, linear.encoder.weight)


def test_refining_resumes_and_starts_as_the_linear_decoder(tmp_path, unchecked):
    pixels = discs(20)
    linear = fit_patch_codec(pixels / 127.5 - 1, 6)
    latents = linear.encoder(pixels / 127.5 - 1).detach()
    options = {"channels": (16, 16), "batch_size": 4, "steps": 4, "checkpoint_every": 2}
    untrained = PatchCodec(**{**linear.config, "refiner_channels": (16, 16)})
    untrained.load_state_dict(linear.state_dict(), strict=False)
    torch.testing.assert_close(untrained.decode(latents).sample, linear.decode(latents).sample)
    (tmp_path / "one").mkdir(), (tmp_path / "two").mkdir()
    whole = refine_codec(linear, pixels, latents, tmp_path / "one", **options)
    with pytest.raises(KeyboardInterrupt):
        refine_codec(linear, StopAfter(pixels, 3), latents, tmp_path / "two", **options)
    resumed = refine_codec(linear, pixels, latents, tmp_path / "two", **options)
    for one, two in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two)


class StopAfter:
    """Pictures that are there for so many batches; then somebody presses Ctrl-C."""

    def __init__(self, pixels, batches):
        self.pixels, self.batches, self.shape = pixels, batches, pixels.shape

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, rows):
        self.batches -= 1
        if self.batches < 0:
            raise KeyboardInterrupt
        return self.pixels[rows]


def test_codec_travels_in_a_pipeline(pictures, tmp_path):
    pipeline = tiny_pipeline()
    pipeline.register_modules(vae=fit_patch_codec(pictures, 4))
    pipeline.save_pretrained(tmp_path / "base")
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "base", safety_checker=None, low_cpu_mem_usage=False)
    assert type(loaded.vae) is PatchCodec
    np.testing.assert_array_equal(encoded(loaded.vae, pictures), encoded(pipeline.vae, pictures))


# ---------------------------------------------------------------- distributions
def test_frechet_distance_of_gaussians_in_closed_form():
    rng = np.random.default_rng(0)
    rotation = ortho_group.rvs(4, random_state=0)
    a = rng.normal(size=(20_000, 4)) @ (np.diag([1, 2, 3, 4]) @ rotation)
    b = rng.normal(size=(20_000, 4)) @ (np.diag([2, 2, 1, 5]) @ rotation) + [1, 0, 2, 0]
    # The covariances commute: the distance is the sum of squared differences of means and of deviations.
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 0 + 4 + 1, rel=0.03)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)


def test_frechet_distance_where_covariances_do_not_commute():
    rng = np.random.default_rng(1)
    a, b = (
        rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)),
        rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)),
    )
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    truth = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert frechet_distance(a, b) == pytest.approx(truth)


def test_precision_and_recall_on_toy_clouds():
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 20])  # two clusters
    same = np.concatenate([rng.normal(size=(200, 2)), rng.normal(size=(200, 2)) + 20])
    one_cluster, elsewhere = rng.normal(size=(400, 2)), rng.normal(size=(400, 2)) - 50
    assert min(precision_recall(real, same)) > 0.9
    precision, recall = precision_recall(real, one_cluster)
    assert precision > 0.9 and recall == pytest.approx(0.5, abs=0.06)  # faithful, but half is missing
    assert precision_recall(real, elsewhere) == (0, 0)


def test_shuffled_patches_are_the_same_patches():
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    mixed = shuffle_patches(images, seed=3)
    assert mixed.shape == images.shape and (mixed != images).any()

    def squares(image):
        return sorted(image[y : y + 8, x : x + 8].tobytes() for y in range(0, 64, 8) for x in range(0, 64, 8))

    assert [squares(image) for image in mixed] == [squares(image) for image in images]
    np.testing.assert_array_equal(mixed, shuffle_patches(images, seed=3))


def test_sample_quality_is_a_table_of_both(unchecked):
    rng = np.random.default_rng(0)
    faces = {
        "renders": rng.normal(size=(60, 2)),
        "same": rng.normal(size=(60, 2)),
        "far": rng.normal(size=(60, 2)) + 50,
    }
    table = sample_quality(faces)
    assert list(table.index) == ["same", "far"] and list(table) == ["Fréchet", "precision", "recall"]
    assert table.loc["far", "precision"] == 0 and table.loc["same", "recall"] > 0.8
    assert table.loc["far", "Fréchet"] == pytest.approx(2 * 50**2, rel=0.05)
    with pytest.raises(ValueError, match="no set 'render', did you mean 'renders'"):
        sample_quality(faces, "render")
    for wrong in (faces["same"][:1], faces["same"][:, :1], faces["same"] * np.nan, faces["same"][0]):
        for measure in (frechet_distance, precision_recall):
            with pytest.raises(ValueError, match="distributions"):
                measure(faces["renders"], wrong)


@pytest.mark.slow
def test_the_sets_that_are_compared(unchecked):
    pipeline, people = tiny_pipeline(), People.render("heldout", 2, 2, 16)
    first, second = people.images[0::2], people.images[1::2]
    sets = comparison_sets(pipeline, first, second, Sampling(steps=2))
    assert list(sets)[:3] == ["renders", "same people, other views", "those, decoded"] and len(sets) == 8
    assert {images.shape for images in sets.values()} == {first.shape}
    np.testing.assert_array_equal(sets["other people"], People.render("test", 2, 1, 16).images)
    seeded = generate(pipeline, ["person"], [10_001], sampling=Sampling(steps=2))
    assert np.abs(sets["samples"][1].astype(int) - seeded[0]).max() <= 1
    with pytest.raises(ValueError, match="expected two views of the same people"):
        comparison_sets(pipeline, first, second[:1], Sampling(steps=2))


def test_pictures_that_cannot_be_shuffled(unchecked):
    for shape in ((1, 64, 60, 3), (1, 60, 60, 3)):
        with pytest.raises(ValueError, match="squares whose side is a multiple of 8"):
            shuffle_patches(np.zeros(shape, np.uint8), 0)


# ---------------------------------------------------------------- prompts
def test_prompts_speak_the_captions_vocabulary():
    assert set(PROMPTS) == set(ATTRIBUTES)
    said = [ending for pair in PROMPTS.values() for ending in pair] + VIEW_PHRASES
    assert {word for text in said for word in text.replace(",", "").split()} <= set(VOCABULARY)


class Oracle:
    """A classifier whose logit of every attribute is the picture's brightness."""

    def logits(self, images):
        return pd.DataFrame({name: images.mean((1, 2, 3)) for name in ATTRIBUTES})


def test_prompting_auc_is_one_if_obeyed_and_a_half_if_ignored(unchecked):
    rng = np.random.default_rng(0)
    dark, bright = rng.integers(0, 90, (8, 8, 8, 3), np.uint8), rng.integers(100, 255, (8, 8, 8, 3), np.uint8)
    pictures = {
        "Bald": np.stack([bright, dark]),
        "Young": np.stack([dark, bright]),
        "Male": np.stack([dark, dark]),
    }
    assert base_quality.prompting_aucs(pictures, Oracle()) == {"Bald": 1, "Young": 0, "Male": 0.5}


def test_background_and_light_are_read_off():
    plain = np.stack([np.full((64, 64, 3), np.array(colour) * 255, np.uint8) for colour in BACKGROUNDS.values()])
    assert base_quality.nearest_background(plain) == list(BACKGROUNDS)
    ramp = np.broadcast_to(np.linspace(0, 255, 64)[None, None, :, None], (1, 64, 64, 3)).astype(np.uint8)
    assert base_quality.light_side(ramp) > 0 > base_quality.light_side(ramp[:, :, ::-1])


def test_views_are_found_by_their_captions():
    images = np.arange(3, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    captions = pd.Series(["a photo of a man, smiling", "person, neutral, on a red background", "person"])
    groups = base_quality.captioned_views(images, captions)
    assert groups["smiling"].max() == 0 and len(groups["smiling"]) == 1
    assert groups["on a red background"].max() == 1 and len(groups["open mouth"]) == 0


def test_of_whom_there_are_fewer_pictures_fewer_are_taken():
    people = people_in_caps(3, seed=0)
    short = people.pictures.index != 1  # of p0 a single one
    faces = Faces.of(People(people.images[short], people.pictures[short], people.labels), people.ids, views=2)
    assert list(faces.people) == ["p0", "p1", "p1", "p2", "p2"] and len(faces.embeddings) == 5
    assert faces.templates()[0] == people.ids


# ---------------------------------------------------------------- a classifier of the reader's own labels
def people_in_caps(count: int, seed: int) -> People:
    """People of noise, two pictures each; some wear a red cap, which their pictures show."""
    rng = np.random.default_rng(seed)
    ids = [f"p{k}" for k in range(count)]
    labels = pd.DataFrame(
        {"Cap": rng.random(count) < 0.5, "age": rng.integers(20, 70, count)}, pd.Index(ids, name="id")
    )
    images = rng.integers(60, 200, (2 * count, 80, 80, 3), np.uint8)
    images[np.repeat(labels["Cap"].to_numpy(), 2), :20] = (220, 30, 30)
    return People(images, pd.DataFrame({"id": np.repeat(ids, 2)}), labels)


@pytest.mark.slow
def test_a_classifier_learns_the_readers_own_label_and_comes_back_from_disk(tmp_path):
    classifier = train_attribute_classifier(people_in_caps(32, seed=0), epochs=40)
    classifier.save(tmp_path / "classifier.safetensors")
    unseen = people_in_caps(40, seed=1)
    verdicts = AttributeClassifier.load(tmp_path / "classifier.safetensors").logits(unseen.images)
    assert list(verdicts) == ["Cap"]  # an age is not something that one has or has not
    assert ((verdicts["Cap"] > 0) == unseen.labels["Cap"].repeat(2).to_numpy()).mean() > 0.95
    np.testing.assert_allclose(verdicts, classifier.logits(unseen.images), atol=0.1)  # stored in half precision


def test_labels_that_do_not_vary_teach_nothing():
    people = people_in_caps(8, seed=0)
    alike = People(people.images, people.pictures, people.labels.assign(Cap=True))
    assert varying(alike.labels, ["Cap", "age", "Hat"]) == [] and varying(people.labels, ["Hat", "Cap"]) == ["Cap"]
    with pytest.raises(ValueError, match="at least one attribute that some have and some not"):
        train_attribute_classifier(alike)
    with pytest.raises(ValueError, match="epochs: expected a whole number of at least 1, found 0"):
        train_attribute_classifier(people, epochs=0)


def test_labels_with_commas_come_back_and_older_files_are_read(tmp_path):
    names = ("Hair, grey", '"quoted"', "ÄÖ")
    path = tmp_path / "classifier.safetensors"
    AttributeClassifier(names).save(path)
    assert AttributeClassifier.load(path).attributes == names
    shipped, state = AttributeClassifier.load(paths.ATTRIBUTE_CLASSIFIER), load_file(paths.ATTRIBUTE_CLASSIFIER)
    assert set(shipped.attributes) == set(ATTRIBUTES) and shipped.attributes[0] == "Male"
    for name, tensor in shipped.state_dict().items():
        assert torch.equal(tensor, state[name].to(tensor.dtype))


def test_a_classifier_that_could_not_be_read_again_is_not_written(tmp_path, unchecked):
    path, classifier = tmp_path / "classifier.safetensors", AttributeClassifier(["Cap"])
    classifier.save(path)
    classifier.head.weight.data[:] = 1e6
    with pytest.raises(ValueError, match=r"'head\.weight' is not finite in half precision; nothing was written"):
        classifier.save(path)
    assert AttributeClassifier.load(path).attributes == ("Cap",)
    with pytest.raises(ValueError, match="cannot be written \\(a folder is there\\); expected the path of a file"):
        AttributeClassifier(["Cap"]).save(tmp_path)
    for wrong in ("Cap", [], ["Cap", "Cap"], [3], None):
        with pytest.raises(ValueError, match="expected a list of different names"):
            AttributeClassifier(wrong)


def test_files_that_are_no_classifier(tmp_path):
    path = tmp_path / "classifier.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no such file; expected an attribute classifier; train it anew"):
        AttributeClassifier.load(path)
    AttributeClassifier(("Cap",)).save(path)
    state, cap = load_file(path), {"attributes": '["Cap"]'}
    for said, tensors, metadata in (
        ("attributes list \\[''\\]: expected a list", state, {}),
        ("recursion depth", state, {"attributes": "[" * 100_000}),
        ("1000000 attributes, and rows", state, {"attributes": ",".join(map(str, range(10**6)))}),
        ("expected a list of different names", state, {"attributes": "Cap,Cap"}),
        ("Expecting|expected", state, {"attributes": "[Cap"}),
        ("missing or unknown: head.bias", {k: v for k, v in state.items() if k != "head.bias"}, cap),
        ("missing or unknown: more", state | {"more": torch.ones(1)}, cap),
        (r"2 attributes, and rows of 'head.weight': \[1\]", state, {"attributes": "Cap,Hat"}),
        ("'head.bias' of shape .*type I64", state | {"head.bias": torch.ones(1, dtype=torch.long)}, cap),
        ("'head.bias' holds NaN", state | {"head.bias": torch.full((1,), torch.nan).half()}, cap),
    ):
        save_file(tensors, path, metadata)
        with pytest.raises(ValueError, match=said) as caught:
            AttributeClassifier.load(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="expected an attribute classifier; train it anew"):
        AttributeClassifier.load(path)
