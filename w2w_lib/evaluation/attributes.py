"""An attribute classifier, trained on renders of people of its own: which labels does a picture show?"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from safetensors import SafetensorError, safe_open
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from tqdm import tqdm

from w2w_lib.evaluation.pictures import as_pictures
from w2w_lib.files.atomic import save_tensors
from w2w_lib.files.regular import regular_file
from w2w_lib.files.tensors import finite
from w2w_lib.inputs import described, instance, known_seed, some, whole_number
from w2w_lib.models.images import to_pixels
from w2w_lib.people.people_set import People

SIZE = 128  # pixels; larger pictures are averaged down
BATCH = 256
CONTRAST, NOISE = 0.15, 0.05  # of the pictures to train on, standard deviations
EXPECTED = "an attribute classifier"
REMEDY = "train it anew: `make base` does so, or notebook 01 for your own people"


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def small_pixels(
    images: UInt8[np.ndarray, "batch height width 3"], size: int = SIZE
) -> Float[Tensor, "batch 3 size size"]:
    """Pictures as numbers from -1 to 1, averaged down to ``size`` pixels a side."""
    pixels = to_pixels(images)
    return pixels if pixels.shape[-1] == size else F.interpolate(pixels, (size, size), mode="area")


def augmented(x: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch 3 size size"]:
    """Blur, noise and contrast at random, so that what is trained on pictures also reads a codec's soft ones."""
    blurred = F.avg_pool2d(F.pad(x, [1] * 4, mode="replicate"), 3, 1)
    softness = torch.rand(len(x), 1, 1, 1)
    x = (softness * blurred + (1 - softness) * x) * (1 + CONTRAST * torch.randn(len(x), 1, 1, 1))
    return x + NOISE * torch.randn_like(x)


class AttributeClassifier(nn.Module):
    """A small convolutional network from 128x128 pictures to one logit for each attribute."""

    def __init__(self, attributes: tuple[str, ...]):
        super().__init__()
        self.attributes = attributes = attribute_names(attributes)
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            *(_block(16, 32), _block(32, 64), _block(64, 96), _block(96, 160)),
            nn.Flatten(),
            nn.Dropout(0.3),
        )
        self.head = nn.Linear(160 * 16, len(attributes))

    def forward(self, pixels: Float[Tensor, "batch 3 128 128"]) -> Float[Tensor, "batch attributes"]:
        return self.head(self.net(pixels))

    @torch.no_grad()
    def logits(self, images: UInt8[np.ndarray, "batch height width 3"]) -> pd.DataFrame:
        """Logit of every attribute (columns) in every picture (rows); ValueError where pictures are not uint8 RGB."""
        self.eval()
        images = as_pictures(images)
        parts = [self(small_pixels(images[first : first + BATCH])) for first in range(0, len(images), BATCH)]
        none = torch.zeros(0, len(self.attributes))
        return pd.DataFrame(torch.cat([none, *parts]).numpy(), columns=list(self.attributes))

    def save(self, path: str | Path) -> None:
        """Write the network in half precision and the names of its attributes."""
        half = {k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        if bad := [name for name, tensor in half.items() if not finite(tensor)]:
            raise ValueError(f"{path}: {bad[0]!r} is not finite in half precision; nothing was written; {REMEDY}")
        save_tensors(half, path, {"attributes": json.dumps(self.attributes)})

    @classmethod
    def load(cls, path: str | Path) -> "AttributeClassifier":
        """Read a saved classifier; FileNotFoundError where there is none, ValueError for any other file."""
        path = regular_file(path, EXPECTED, REMEDY)
        try:
            with safe_open(path, "np") as header:
                found = {name: header.get_slice(name) for name in header.keys()}
                names = _names_in((header.metadata() or {}).get("attributes", ""))
                rows = found["head.weight"].get_shape()[:1] if "head.weight" in found else []
                if rows != [len(names)]:  # before a network of that size is made
                    raise ValueError(f"{len(names)} attributes, and rows of 'head.weight': {rows}")
                classifier = cls(names)
                _check_tensors(classifier, found)
            with safe_open(path, "pt") as file:
                state = {name: file.get_tensor(name) for name in classifier.state_dict()}
        except (SafetensorError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: {error}; expected {EXPECTED}; {REMEDY}") from None
        if bad := [name for name, tensor in state.items() if not finite(tensor)]:
            raise ValueError(f"{path}: tensor {bad[0]!r} holds NaN or infinite numbers; {REMEDY}")
        classifier.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
        return classifier.eval()


def _names_in(text: str) -> tuple[str, ...]:
    """The names in a file's metadata: a JSON list, or as older files have them, joined by commas."""
    return attribute_names(json.loads(text) if text.startswith("[") else text.split(","))


def attribute_names(names: Iterable[str]) -> tuple[str, ...]:
    """The same names; ValueError for none, for one that is empty, no text or there twice, and for a single text."""
    listed = list(names) if isinstance(names, Iterable) and not isinstance(names, str) else []
    if not all(isinstance(name, str) and name for name in listed) or len(set(listed)) < max(1, len(listed)):
        raise ValueError(f"attributes {described(names)}: expected a list of different names")
    return tuple(listed)


def _check_tensors(classifier: AttributeClassifier, found: dict) -> None:
    expected = classifier.state_dict()
    if different := sorted(expected.keys() ^ found.keys()):
        raise ValueError(f"tensors missing or unknown: {some(different)}")
    for name, tensor in expected.items():
        shape, kind = tuple(found[name].get_shape()), found[name].get_dtype()
        if shape != tuple(tensor.shape) or kind not in (("F16", "F32") if tensor.is_floating_point() else ("I64",)):
            raise ValueError(f"tensor {name!r} of shape {shape} and type {kind}: expected {tuple(tensor.shape)}")


def train_attribute_classifier(people: People, epochs: int = 10, seed: int = 0) -> AttributeClassifier:
    """Train the classifier on people's pictures, for those of their labels that vary.

    ValueError where none does, for a single picture, and where an epoch or seed is no whole number.
    """
    epochs, seed = whole_number("epochs", epochs), known_seed(seed)
    instance("people", people, People)
    if len(as_pictures(people.images)) < 2:  # batch normalisation needs two
        raise ValueError(f"{len(people.images)} pictures: expected at least 2 to train an attribute classifier")
    attributes = varying(people.labels, people.labels.columns)
    if not attributes:
        raise ValueError("the people's labels do not vary: expected at least one attribute that some have and some not")
    torch.manual_seed(seed)
    pixels = torch.cat([small_pixels(people.images[k : k + BATCH]) for k in range(0, len(people.images), BATCH)])
    table = people.labels.loc[people.pictures["id"], attributes]
    targets = torch.tensor(table.to_numpy(float), dtype=torch.float32)
    classifier = AttributeClassifier(tuple(attributes)).to(memory_format=torch.channels_last)
    batch = min(128, len(pixels))
    steps = epochs * (len(pixels) // batch)
    optimizer = torch.optim.AdamW(classifier.parameters(), 4e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    share = targets.mean(0)
    balance = ((1 - share) / share).clamp(0.3, 8)
    classifier.train()
    for _ in tqdm(range(epochs), desc="train attribute classifier", unit="epoch"):
        for rows in torch.randperm(len(pixels))[: steps // epochs * batch].split(batch):
            logits = classifier(augmented(pixels[rows]))
            loss = F.binary_cross_entropy_with_logits(logits, targets[rows], pos_weight=balance)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return classifier.eval()


def attribute_aucs(logits: pd.DataFrame, labels: pd.DataFrame) -> dict[str, float]:
    """AUC of each attribute's logit against its label; attributes that do not vary are left out.

    ValueError where there is not a row of finite logits for each row of labels.
    """
    instance("logits", logits, pd.DataFrame), instance("labels", labels, pd.DataFrame)
    if len(logits) != len(labels) or not np.isfinite(logits.to_numpy(float)).all():
        raise ValueError(f"{len(logits)} rows of logits, {len(labels)} of labels: expected as many, and finite logits")
    return {a: float(roc_auc_score(labels[a], logits[a])) for a in varying(labels, logits.columns)}


def mean_auc(scores: Float[np.ndarray, "people labels"], labels: Bool[np.ndarray, "people labels"]) -> float:
    """Mean over labels of the AUC of each label's own score, as quick as resampling needs it.

    A label that all of these people have, or none, does not count. NaN where none is left. A tie counts half.
    """
    ranks, having = rankdata(scores, axis=0), labels.sum(0)
    pairs = having * (len(labels) - having)
    wins = (ranks * labels).sum(0) - having * (having + 1) / 2
    return float((wins[pairs > 0] / pairs[pairs > 0]).mean()) if pairs.any() else float("nan")


def varying(labels: pd.DataFrame, attributes: Iterable[str]) -> list[str]:
    """Those of the attributes that are labels (of True and False), and that some people have and some have not."""
    return [a for a in attributes if a in labels and labels[a].dtype == bool and labels[a].nunique() == 2]
