"""An attribute classifier, trained on renders of people of its own: which labels does a picture show?"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from safetensors import safe_open
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from tqdm import tqdm

from w2w_lib.files.atomic import save_tensors
from w2w_lib.models.images import to_pixels
from w2w_lib.people.people_set import People

SIZE = 64  # pixels; larger pictures are averaged down
BATCH = 256


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _small(images: UInt8[np.ndarray, "batch height width 3"]) -> Float[Tensor, "batch 3 64 64"]:
    pixels = to_pixels(images)
    return pixels if pixels.shape[-1] == SIZE else F.interpolate(pixels, (SIZE, SIZE), mode="area")


class AttributeClassifier(nn.Module):
    """A small convolutional network from 64x64 pictures to one logit for each attribute."""

    def __init__(self, attributes: tuple[str, ...]):
        super().__init__()
        self.attributes = attributes
        self.net = nn.Sequential(
            _block(3, 32), _block(32, 64), _block(64, 96), _block(96, 160), nn.Flatten(), nn.Dropout(0.3)
        )
        self.head = nn.Linear(160 * 16, len(attributes))

    def forward(self, pixels: Float[Tensor, "batch 3 64 64"]) -> Float[Tensor, "batch attributes"]:
        return self.head(self.net(pixels))

    @torch.no_grad()
    def logits(self, images: UInt8[np.ndarray, "batch height width 3"]) -> pd.DataFrame:
        """Logit of every attribute (columns) in every picture (rows)."""
        self.eval()
        parts = [self(_small(images[first : first + BATCH])) for first in range(0, len(images), BATCH)]
        return pd.DataFrame(torch.cat(parts).numpy(), columns=list(self.attributes))

    def save(self, path: str | Path) -> None:
        half = {k: v.half() if v.is_floating_point() else v for k, v in self.state_dict().items()}
        save_tensors(half, path, {"attributes": ",".join(self.attributes)})

    @classmethod
    def load(cls, path: str | Path) -> "AttributeClassifier":
        """Read a saved classifier; FileNotFoundError if there is none."""
        if not Path(path).is_file():
            raise FileNotFoundError(
                f"{path}: expected an attribute classifier; `make base` trains it, notebook 01 for your own people"
            )
        with safe_open(path, "pt") as file:
            classifier = cls(tuple(file.metadata()["attributes"].split(",")))
            state = {name: file.get_tensor(name) for name in file.keys()}
        classifier.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
        return classifier.eval()


def train_attribute_classifier(people: People, epochs: int = 10, seed: int = 0) -> AttributeClassifier:
    """Train the classifier on people's pictures, for those of their labels that vary; ValueError if none does."""
    attributes = varying(people.labels, people.labels.columns)
    if not attributes:
        raise ValueError("the people's labels do not vary: expected at least one attribute that some have and some not")
    torch.manual_seed(seed)
    pixels = torch.cat([_small(people.images[k : k + BATCH]) for k in range(0, len(people.images), BATCH)])
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
            x = pixels[rows]
            # Blur, noise and contrast, so that it also reads the codec's soft pictures.
            blurred = F.avg_pool2d(F.pad(x, [1] * 4, mode="replicate"), 3, 1)
            softness = torch.rand(len(x), 1, 1, 1)
            x = (softness * blurred + (1 - softness) * x) * (1 + 0.15 * torch.randn(len(x), 1, 1, 1))
            x = x + 0.05 * torch.randn_like(x)
            loss = F.binary_cross_entropy_with_logits(classifier(x), targets[rows], pos_weight=balance)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return classifier.eval()


def attribute_aucs(logits: pd.DataFrame, labels: pd.DataFrame) -> dict[str, float]:
    """AUC of each attribute's logit against its label; attributes that do not vary are left out."""
    return {a: float(roc_auc_score(labels[a], logits[a])) for a in varying(labels, logits.columns)}


def varying(labels: pd.DataFrame, attributes: Iterable[str]) -> list[str]:
    """Those of the attributes that are labels (of True and False), and that some people have and some have not."""
    return [a for a in attributes if a in labels and labels[a].dtype == bool and labels[a].nunique() == 2]
