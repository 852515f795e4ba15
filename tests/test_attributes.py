"""The classifier of the reader's own labels."""

import numpy as np
import pytest
import torch
from planted import people_in_caps
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

from w2w_lib.evaluation.attributes import AttributeClassifier, mean_auc, train_attribute_classifier, varying
from w2w_lib.people.people_set import People
from w2w_lib.people.rendered.person import ATTRIBUTES
from w2w_lib.workbook import paths


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


def test_the_mean_auc_is_scikit_learns():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(50, 4)).round(1), rng.random((50, 4)) < 0.3
    labels[:, 3] = True
    expected = np.mean([roc_auc_score(labels[:, k], scores[:, k]) for k in range(3)])
    assert mean_auc(scores, labels) == pytest.approx(expected)
    assert np.isnan(mean_auc(scores[:, 3:], labels[:, 3:]))
