"""How much pictures by personal models look like their people."""

from collections.abc import Mapping, Sequence

from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from w2w_lib.evaluation.identity import Faces, verify
from w2w_lib.evaluation.portraits import PromptSeed, portraits
from w2w_lib.models.sampling import Sampling
from w2w_lib.training.fleet import Fleet


def trained_likeness(
    pipeline: StableDiffusionPipeline,
    fleet: Fleet,
    latents: Mapping[str, Float[Tensor, "images channels height width"]],
    real: Faces,
    prompt_seeds: Sequence[PromptSeed],
    sampling: Sampling,
) -> tuple[Float[Tensor, "models d"], dict[str, float]]:
    """Weights of adapters that ``fleet`` trains for these people, and how well their pictures are verified.

    ``latents`` are of each person's training pictures, ``real`` the faces to compare with; the numbers are those of
    ``identity.verify``.
    """
    weights, _ = fleet.train(latents)
    images = portraits(pipeline, fleet.layout, weights, prompt_seeds, sampling)
    return weights, verify(images, list(latents), real)
