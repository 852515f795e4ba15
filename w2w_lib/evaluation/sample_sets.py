"""Sets of pictures that say how varied a base's samples are, and how near to renders they come."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from diffusers import StableDiffusionPipeline
from jaxtyping import Float

from w2w_lib.evaluation.base_quality import Images, frechet_distance, precision_recall, reconstruct, shuffle_patches
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.people.people_set import People
from w2w_lib.people.rendered.captions import caption
from w2w_lib.people.rendered.person import sample_person
from w2w_lib.people.rendered.view import sample_view

OTHER_SPLIT = "test"  # of people who are neither in ``real`` nor in any training set


def sample_sets(
    pipeline: StableDiffusionPipeline, real: People, sampling: Sampling, first_seed: int
) -> dict[str, Images]:
    """As many pictures of each kind as ``real`` has people, of whom it holds two views each.

    "renders" and "same people, other views" are the two views; "those, decoded" the latter through the codec; "other
    people" renders of others; "others, decoded" these through the codec; "others, captioned" generated from captions
    of theirs that are as full as in training; "samples" generated from "person"; "shuffled" a control.
    """
    first, second = real.images[0::2], real.images[1::2]
    count, size = len(first), real.images.shape[1]
    seeds, rng = range(first_seed, first_seed + count), np.random.default_rng(0)
    others = People.render(OTHER_SPLIT, count, 1, size).images
    described = [(sample_person(OTHER_SPLIT, i), sample_view(OTHER_SPLIT, i, 0)) for i in range(count)]
    captions = [caption(*other, rng) for other in described]
    return {
        "renders": first,
        "same people, other views": second,
        "those, decoded": reconstruct(pipeline, second),
        "other people": others,
        "others, decoded": reconstruct(pipeline, others),
        "others, captioned": generate(pipeline, captions, seeds, sampling=sampling, progress=True),
        "samples": generate(pipeline, ["person"] * count, seeds, sampling=sampling, progress=True),
        "shuffled": shuffle_patches(first, seed=0),
    }


def compare_with(
    reference: Float[np.ndarray, "n dim"], embeddings: Mapping[str, Float[np.ndarray, "_ dim"]]
) -> pd.DataFrame:
    """Fréchet distance, precision and recall of every set's embeddings (rows) against the reference's."""
    rows = {n: (frechet_distance(reference, own), *precision_recall(reference, own)) for n, own in embeddings.items()}
    return pd.DataFrame(rows, index=["Fréchet", "precision", "recall"]).T
