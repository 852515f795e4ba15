"""Are a base model's samples as good and as varied as renders? The sets of pictures to compare, and how they differ."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from sklearn.preprocessing import normalize

from w2w_lib.evaluation.base_quality import Images, frechet_distance, precision_recall, reconstruct, shuffle_patches
from w2w_lib.evaluation.pictures import finite_embeddings
from w2w_lib.inputs import nearest
from w2w_lib.models.prompts import CLASS_PROMPT
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.people.people_set import People
from w2w_lib.people.rendered.captions import caption
from w2w_lib.people.rendered.person import sample_person
from w2w_lib.people.rendered.view import sample_view

OTHER_PEOPLE = "test"  # the split that nothing else renders
FIRST_SEED = 10_000  # of the samples


def comparison_sets(
    pipeline: StableDiffusionPipeline, first: Images, second: Images, sampling: Sampling
) -> dict[str, Images]:
    """Eight sets of as many pictures each, by name, for ``sample_quality``.

    ``renders`` are ``first``, one view of each of some people, and ``second`` another view of the same people, as they
    are and after the autoencoder. Other people are rendered, passed through the autoencoder, and sampled from captions
    as detailed as in training. ``samples`` are of the class prompt. ``shuffled``, the control, are the renders with
    their squares in random order. ValueError where ``first`` and ``second`` differ in shape.
    """
    if first.shape != second.shape:
        raise ValueError(f"views of shapes {first.shape} and {second.shape}: expected two views of the same people")
    count, seeds = len(first), range(FIRST_SEED, FIRST_SEED + len(first))
    others, rng = People.render(OTHER_PEOPLE, count, 1, first.shape[1]).images, np.random.default_rng(0)
    described = [(sample_person(OTHER_PEOPLE, i), sample_view(OTHER_PEOPLE, i, 0)) for i in range(count)]
    captions = [caption(*one, rng) for one in described]
    return {
        "renders": first,
        "same people, other views": second,
        "those, decoded": reconstruct(pipeline, second),
        "other people": others,
        "others, decoded": reconstruct(pipeline, others),
        "others, captioned": generate(pipeline, captions, seeds, sampling=sampling, progress=True),
        "samples": generate(pipeline, [CLASS_PROMPT] * count, seeds, sampling=sampling, progress=True),
        "shuffled": shuffle_patches(first, seed=0),
    }


def sample_quality(faces: Mapping[str, Float[np.ndarray, "_ dim"]], reference: str = "renders") -> pd.DataFrame:
    """Fréchet distance to, precision and recall against the ``reference`` set, of every other set of embeddings (rows).

    Precision and recall are intervals. ValueError where there is no such set.
    """
    if reference not in faces:
        raise ValueError(f"no set {reference!r}{nearest(reference, map(str, faces))}")
    rows = {
        name: [frechet_distance(faces[reference], own), *precision_recall(faces[reference], own)]
        for name, own in faces.items()
        if name != reference
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["Fréchet", "precision", "recall"])


def nearest_cosines(
    faces: Float[np.ndarray, "models shots dim"], known: Float[np.ndarray, "people dim"]
) -> Float[np.ndarray, " models"]:
    """Cosine of each model's mean face with the most similar known face: how far it is from a copy."""
    faces, known = finite_embeddings(faces, "faces", axes=3), finite_embeddings(known, "known faces", axes=2)
    return (normalize(faces.mean(1)) @ normalize(known).T).max(1)
