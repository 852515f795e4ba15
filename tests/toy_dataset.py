"""Small weights datasets, and shards that somebody has changed."""

import json

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from w2w_lib.training.weights_dataset import WeightsDataset


def random_weights(layout, models, seed=0):
    return torch.randn(models, layout.dimension, generator=torch.Generator().manual_seed(seed)) * 0.2


def begin(folder, layout, **recipe):
    return WeightsDataset.create(folder, layout, recipe, layout.initial())


def filled(folder, layout, *groups):
    """A dataset with one shard for each group of identities."""
    dataset = begin(folder, layout)
    for seed, ids in enumerate(groups):
        dataset.append(ids, random_weights(layout, len(ids), seed), torch.full((len(ids),), 0.5))
    return dataset


def shard_of(folder):
    """The only shard of a dataset."""
    (shard,) = folder.glob("shard-*")
    return shard


def edited(shard, change):
    """Write a shard again after ``change`` of its tensors and records, in place."""
    with safe_open(shard, "pt") as file:
        metadata = file.metadata()
    tensors, rows = load_file(shard), json.loads(metadata["rows"])
    change(tensors, rows)
    save_file(tensors, shard, metadata | {"rows": json.dumps(rows)})
