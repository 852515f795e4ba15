"""Where all adapters of a fleet start: one A for everybody, and B = 0, or the vectors would share no space."""

from collections.abc import Sequence
from itertools import cycle, islice

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from w2w_lib.files.tensors import finite, floating
from w2w_lib.inputs import known_seed, with_parts
from w2w_lib.lora.batched import check_modules
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.lora.recipe import INITIALISATIONS
from w2w_lib.models.denoising import stream
from w2w_lib.models.prompts import CLASS_PROMPT, INSTANCE_PROMPT, encode_prompts, in_context

PICTURES = 16  # noisy pictures whose activations are measured
RIDGE = 0.01  # of the mean square input, added in every direction
NEGLIGIBLE = 1e-6  # share of a layer's mean input; a mean that cancels leaves 1e-16 of it


def shared_initialisation(
    kind: str,
    pipeline: StableDiffusionPipeline,
    layout: AdapterLayout,
    latents: Float[Tensor, "images channels height width"],
    seed: int = 0,
    contexts: Sequence[str] = (),
) -> Float[Tensor, " d"]:
    """The weights from which every fine-tuning starts; with them the base's output is unchanged, as B = 0.

    ``random`` is PEFT's: A Kaiming-uniform. ``variance`` takes as rows of A the directions in which the layer's inputs
    are largest on noisy class pictures under the instance prompt (EVA, Paischer et al. 2024): for keys and values the
    text itself, so that an adapter's effect varies little with the rest of the prompt. ``contrast`` does so after
    projecting out the mean input under the class prompt: what is left is the identifier, so an adapter acts on prompts
    with it and leaves the class alone. ``identifier`` takes the directions with the largest ratio of the mean square
    input under instance prompts, plain and in ``contexts``, to that under the class prompts in the same contexts
    (generalised eigenvectors): also where prompts differ by more than one direction. ValueError for another kind, and
    for ``latents`` of class pictures that the last three cannot use: none, or with NaN or infinite numbers.
    """
    if kind not in INITIALISATIONS:
        raise ValueError(f"initialisation {kind!r}: expected one of {', '.join(INITIALISATIONS)}")
    seed = known_seed(seed)
    with_parts(pipeline, "unet", "text_encoder", "tokenizer", "scheduler")
    check_modules(pipeline.unet, layout)
    if kind == "random":
        return layout.initial(seed)
    channels = pipeline.unet.config.in_channels
    if floating("latents", latents).ndim != 4 or latents.shape[1] != channels or not min(latents.shape[2:]):
        raise ValueError(f"latents of shape {tuple(latents.shape)}: expected (pictures, {channels}, height, width)")
    if not len(latents) or not finite(latents):
        raise ValueError(f"initialisation {kind!r}: expected latents of class pictures, with finite numbers only")
    if narrow := [factor for factor in layout.factors if factor.is_down and factor.shape[1] < layout.rank]:
        raise ValueError(
            f"initialisation {kind!r}: rank {layout.rank} is more than the {narrow[0].shape[1]} inputs of "
            f"{narrow[0].module}; lower the rank, or use 'random'"
        )
    said = ["", *contexts] if kind == "identifier" else [""]
    parts, inputs = [], _inputs(pipeline, layout, latents, seed, [in_context(INSTANCE_PROMPT, c) for c in said])
    class_prompts = [in_context(CLASS_PROMPT, c) for c in said]
    to_class = _inputs(pipeline, layout, latents, seed, class_prompts) if kind != "variance" else {}
    for factor in layout.factors:
        start = torch.zeros(factor.shape)
        if factor.is_down:
            mean, squares = inputs[factor.module]
            size = mean.norm()
            if kind == "contrast":
                common = F.normalize(to_class[factor.module][0], dim=0)
                rest = torch.eye(len(common)).double() - torch.outer(common, common)
                mean, squares = rest @ mean, rest @ squares @ rest
            directions = _largest(squares, to_class[factor.module][1] if kind == "identifier" else None)
            start = directions[:, -layout.rank :].flip(1).T
            start = start * _signs(start, mean, NEGLIGIBLE * size)[:, None]
        parts.append(start.flatten())
    return torch.cat(parts).float()


def _largest(
    squares: Float[Tensor, "inputs inputs"], against: Float[Tensor, "inputs inputs"] | None
) -> Float[Tensor, "inputs inputs"]:
    """Unit directions, in ascending order of their mean square, or of its ratio to that of other inputs."""
    if against is None:
        return torch.linalg.eigh(squares)[1]
    ridge = RIDGE * against.trace() / len(against) * torch.eye(len(against)).double()
    whitening = torch.linalg.inv(torch.linalg.cholesky(against + ridge))
    directions = whitening.T @ torch.linalg.eigh(whitening @ squares @ whitening.T)[1]
    return F.normalize(directions, dim=0)


def _signs(
    directions: Float[Tensor, "rank inputs"], mean: Float[Tensor, " inputs"], negligible: Float[Tensor, ""]
) -> Float[Tensor, " rank"]:
    """Signs that an eigenvector leaves open: the mean input is positive along it.

    Where the mean is nothing but rounding, as in a layer whose inputs do not depend on the prompt, the largest entry is
    positive.
    """
    along = mean @ directions.T
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True)).squeeze(1)
    return torch.where(along.abs() > negligible, along, largest).sign()


@torch.no_grad()
def _inputs(pipeline, layout: AdapterLayout, latents: Tensor, seed: int, prompts: list[str]) -> dict[str, tuple]:
    """Mean x and sum of x xᵀ of what goes into each target module when the base denoises class pictures.

    The prompts are taken in turn.
    """
    rng, modules, seen = stream(seed, "start"), dict(pipeline.unet.named_modules()), {}
    latents = latents[:PICTURES].float().cpu()
    noise = torch.randn(latents.shape, generator=rng)
    timesteps = torch.linspace(0, pipeline.scheduler.config.num_train_timesteps - 1, len(latents)).long()
    noisy = pipeline.scheduler.add_noise(latents, noise, timesteps)
    text = encode_prompts(pipeline, list(islice(cycle(prompts), len(latents))))

    def keep(name: str):
        def hook(module, inputs: tuple) -> None:
            x = inputs[0].detach().flatten(0, -2).double()
            seen[name] = x.mean(0).cpu(), (x.T @ x).cpu()

        return hook

    names = {factor.module for factor in layout.factors}
    handles = [modules[name].register_forward_pre_hook(keep(name)) for name in names]
    try:
        dtype, device = next(pipeline.unet.parameters()).dtype, pipeline.device
        pipeline.unet(noisy.to(device, dtype), timesteps.to(device), text.to(device, dtype))
    finally:
        for handle in handles:
            handle.remove()
    return seen
