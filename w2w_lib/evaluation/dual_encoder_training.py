"""How the pocket world's dual encoder was trained, and how good it is.

python -m w2w_lib.evaluation.dual_encoder_training  # trains it, measures it and writes data/dual_encoder

It was trained on renders of people who appear nowhere else (``SPLIT``).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import typer
from jaxtyping import Bool, Float, Int, UInt8
from sklearn.metrics import roc_auc_score
from torch import Tensor
from tqdm import tqdm

from w2w_lib.evaluation.attributes import augmented, small_pixels
from w2w_lib.evaluation.base_quality import PROMPTS
from w2w_lib.evaluation.caption_phrases import ANYBODY, FEATURES, PHRASES, mirrored, phrases_of
from w2w_lib.evaluation.dual_encoder import SIZE, TOGETHER, WEIGHTS, DualEncoder
from w2w_lib.evaluation.pictures import as_pictures
from w2w_lib.files.atomic import write_text
from w2w_lib.inputs import known_seed, whole_number
from w2w_lib.people.rendered.person import sample_person
from w2w_lib.people.rendered.population import render_population
from w2w_lib.people.rendered.view import sample_view

SPLIT, TEST_SPLIT = "dual encoder", "dual encoder test"  # of its own people; nothing else draws from these
COLDEST = 0.01  # temperature, Radford et al. 2021, section 2.5
BATCH, LEARNING_RATE, WEIGHT_DECAY = 128, 4e-3, 0.01
ALTERED_WEIGHT = 3  # of telling captions from ones with a phrase altered, beside telling those of a batch
GENDER_SAID = 0.5  # share of captions whose noun is man or woman
AMONG = 64  # captions, of which one is the picture's
GENDER = list(FEATURES).index("gender")


def what_there_is_to_say(split: str, people: int, views: int) -> Int[Tensor, "pictures features"]:
    """The phrase of each feature that is true of each picture of ``render_population``'s, as places in ``PHRASES``."""
    said = []
    for index in range(people):
        person = sample_person(split, index)
        said += [phrases_of(person, sample_view(split, index, number)) for number in range(views)]
    return torch.tensor(said)


def train_dual_encoder(
    images: UInt8[np.ndarray, "pictures height width 3"],
    truths: Int[Tensor, "pictures features"],
    epochs: int = 12,
    seed: int = 0,
) -> DualEncoder:
    """Train on pictures and all that is true of them (``what_there_is_to_say``), by InfoNCE (Radford et al. 2021).

    A caption has some of the picture's phrases, often a few. A picture also has to tell its caption from ones with one
    phrase altered (Yuksekgonul et al. 2023), without which it learns but the coarsest features. Other pictures'
    captions that are true of it do not count as wrong. ValueError where there is not a row of phrases for each
    picture, and for fewer than two pictures.
    """
    epochs, seed = whole_number("epochs", epochs), known_seed(seed)
    if len(as_pictures(images)) != len(truths) or len(images) < 2:
        raise ValueError(f"{len(images)} pictures, phrases of {len(truths)}: expected as many, at least 2")
    torch.manual_seed(seed)
    groups = (images[first : first + TOGETHER] for first in range(0, len(images), TOGETHER))
    pixels = torch.cat([small_pixels(group, SIZE) for group in groups])
    encoder, batch, mirror = DualEncoder().to(memory_format=torch.channels_last), min(BATCH, len(pixels)), mirrored()
    steps = epochs * (len(pixels) // batch)
    optimizer = torch.optim.AdamW(encoder.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    encoder.train()
    for _ in tqdm(range(epochs), desc="train dual encoder", unit="epoch"):
        for rows in torch.randperm(len(pixels))[: steps // epochs * batch].split(batch):
            flipped = torch.rand(batch) < 0.5
            x = torch.where(flipped[:, None, None, None], pixels[rows].flip(-1), pixels[rows])
            true = torch.where(flipped[:, None], mirror[truths[rows]], truths[rows])
            loss = contrastive_loss(encoder, augmented(x), true, _mentioned(batch, true.shape[1]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return encoder.requires_grad_(False).eval()


def _mentioned(captions: int, features: int) -> Bool[Tensor, "captions features"]:
    """Which features each caption speaks of: from one to all, as often below the geometric mean of these as above."""
    amount = features ** torch.rand(captions, 1)
    mentioned = torch.rand(captions, features).argsort(1).argsort(1) < amount
    mentioned[:, GENDER] = torch.rand(captions) < GENDER_SAID
    return mentioned


def contrastive_loss(
    encoder: DualEncoder,
    pixels: Float[Tensor, "batch 3 64 64"],
    truths: Int[Tensor, "batch features"],
    mentioned: Bool[Tensor, "batch features"],
) -> Float[Tensor, ""]:
    """Cross-entropies of telling pictures' captions, which mention some of their truths, by cosines.

    Pictures and captions of the batch from each other, both ways; and each picture's caption, with every feature said
    in turn, from the same with another phrase for that feature.
    """
    pictures, table, own = encoder(pixels), encoder.phrase_table(), torch.arange(len(pixels))
    scale = encoder.log_scale.clamp(max=-math.log(COLDEST)).exp()
    said, shown = mentioned.clone(), truths.clone()
    said[:, GENDER], shown[~mentioned[:, GENDER], GENDER] = True, PHRASES.index(ANYBODY)  # there is always a noun
    counts = (F.one_hot(shown, len(PHRASES)) * said[..., None]).sum(1).float()
    true = F.one_hot(truths, len(PHRASES)).sum(1).float()
    true[:, PHRASES.index(ANYBODY)] = 1
    also_true = ((1 - true) @ counts.T == 0) & (own[:, None] != own)  # of picture i, caption j
    captions = counts @ table
    between = (scale * pictures @ F.normalize(captions, dim=-1).T).masked_fill(also_true, -torch.inf)
    loss = (F.cross_entropy(between, own) + F.cross_entropy(between.T, own)) / 2

    sizes = torch.tensor([len(phrases) for phrases in FEATURES.values()])
    without = captions[:, None] - table[shown] * said[..., None]  # without what it says of each feature
    altered = F.normalize(without.repeat_interleave(sizes, 1) + table[1:], dim=-1)  # the first phrase is ANYBODY
    logits = (scale * torch.einsum("bd,bpd->bp", pictures, altered)).split(sizes.tolist(), 1)
    right = (truths - 1 - F.pad(sizes.cumsum(0), (1, -1))).unbind(1)
    in_turn = [F.cross_entropy(*pair) for pair in zip(logits, right, strict=True)]
    return loss + ALTERED_WEIGHT * torch.stack(in_turn).mean()


def attribute_aucs(
    encoder: DualEncoder, images: UInt8[np.ndarray, "pictures height width 3"], labels: pd.DataFrame
) -> dict[str, float]:
    """For each attribute of ``PROMPTS``, the AUC against its label of the cosine with the prompt that asks for it.

    The cosine with the prompt that asks for the opposite is subtracted.
    """
    embedded = encoder.embed_images(images)
    aucs = {}
    for name, pair in PROMPTS.items():
        asked, opposite = encoder.embed_texts(pair) @ embedded.T
        aucs[name] = float(roc_auc_score(labels[name], asked - opposite))
    return aucs


def retrieval(
    encoder: DualEncoder,
    images: UInt8[np.ndarray, "pictures height width 3"],
    captions: Sequence[str] | pd.Series,
    among: int = AMONG,
) -> float:
    """The share of pictures whose own caption is the nearest ``among`` so many; a rest of fewer is left out.

    ValueError where there are fewer pictures than that, or not a caption for each.
    """
    if len(images) < whole_number("among", among, 2) or len(images) != len(captions):
        raise ValueError(f"{len(images)} pictures, {len(captions)} captions: expected as many, at least {among}")
    pictures, texts = encoder.embed_images(images), encoder.embed_texts(list(captions))
    groups = [(pictures[k : k + among], texts[k : k + among]) for k in range(0, len(images) - among + 1, among)]
    return float(torch.cat([(a @ b.T).argmax(1) == torch.arange(among) for a, b in groups]).float().mean())


def main(
    people: Annotated[int, typer.Option(help="to train on")] = 4000,
    views: Annotated[int, typer.Option(help="pictures of each")] = 2,
    epochs: Annotated[int, typer.Option(help="times that each picture is seen")] = 12,
    others: Annotated[int, typer.Option(help="people to measure on")] = 500,
    seed: Annotated[int, typer.Option(help="of the training")] = 0,
    path: Annotated[Path, typer.Option(help="what to write; a README.md is written beside it")] = WEIGHTS,
) -> None:
    """Render people, train a dual encoder, measure it on others' renders, write it and what was measured."""
    images, _ = render_population(SPLIT, range(people), views, SIZE)
    truths = what_there_is_to_say(SPLIT, people, views)
    train_dual_encoder(images.reshape(-1, *images.shape[2:]), truths, epochs, seed).save(path)
    command = f"--people {people} --views {views} --epochs {epochs} --others {others} --seed {seed}"
    write_text(_card(DualEncoder.load(path), others, command, path.name), path.with_name("README.md"))


def _card(encoder: DualEncoder, others: int, command: str, file: str) -> str:
    """The README of the weights: what they are, the command that made them, and how good they are."""
    images, table = render_population(TEST_SPLIT, range(others), 1, SIZE)
    aucs = attribute_aucs(encoder, images[:, 0], table)
    found, mean = retrieval(encoder, images[:, 0], table["caption_full"]), np.mean([*aucs.values()])
    rows = "".join(f"| {name} | {' | '.join(PROMPTS[name])} | {auc:.3f} |\n" for name, auc in aucs.items())
    return f"""\
`{file}`: the weights of the pocket world's dual encoder in float16, a small CLIP (Radford et al. 2021) read by
`w2w_lib/evaluation/dual_encoder.py` for the text score. It was trained on renders and captions of people of its own
(split `{SPLIT}`). Made, and this file with it, by

    python -m w2w_lib.evaluation.dual_encoder_training {command}

Measured on renders of {others} other people (split `{TEST_SPLIT}`): it finds the full caption of a picture among
{AMONG} in {found:.1%} of cases (by chance: {1 / AMONG:.1%}). The AUC, against the label, of the cosine with the first
text less that with the second is {mean:.3f} on average (by chance: 0.5):

| label | text | less | AUC |
|---|---|---|---|
{rows}"""


if __name__ == "__main__":
    typer.run(main)
