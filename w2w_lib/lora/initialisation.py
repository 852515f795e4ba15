"""Where all adapters of a fleet start: one A for everybody, and B = 0, or the vectors would share no space."""

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.denoising import stream
from w2w_lib.models.prompts import CLASS_PROMPT, INSTANCE_PROMPT, encode_prompts

INITIALISATIONS = ("random", "variance", "contrast")
LOOKS = 16  # noisy pictures whose activations are looked at


def shared_initialisation(
    kind: str,
    pipeline: StableDiffusionPipeline,
    layout: AdapterLayout,
    latents: Float[Tensor, "images channels height width"],
    seed: int = 0,
) -> Float[Tensor, " d"]:
    """The weights from which every fine-tuning starts; it paints what the base paints, as B = 0.

    ``random`` is PEFT's: A Kaiming-uniform. ``variance`` takes as rows of A the directions in which the layer's inputs
    are largest on noisy class pictures under the instance prompt (EVA, Paischer et al. 2024): for keys and values the
    text itself, so that an adapter says the same whatever else the prompt does. ``contrast`` does so after taking away
    the mean input under the class prompt: what is left is the identifier, so an adapter acts where it is said and
    leaves the class alone. ValueError for another kind.
    """
    if kind not in INITIALISATIONS:
        raise ValueError(f"start {kind!r}: expected one of {', '.join(INITIALISATIONS)}")
    if kind == "random":
        return layout.initial(seed)
    parts, inputs = [], _inputs(pipeline, layout, latents, seed, INSTANCE_PROMPT)
    blind_to = _inputs(pipeline, layout, latents, seed, CLASS_PROMPT) if kind == "contrast" else {}
    for factor in layout.factors:
        start = torch.zeros(factor.shape)
        if factor.is_down:
            mean, squares = inputs[factor.module]
            if factor.module in blind_to:
                common = F.normalize(blind_to[factor.module][0], dim=0)
                rest = torch.eye(len(common)).double() - torch.outer(common, common)
                mean, squares = rest @ mean, rest @ squares @ rest
            _, directions = torch.linalg.eigh(squares)
            start = directions[:, -layout.rank :].flip(1).T
            start = start * (mean @ start.T).sign()[:, None]  # an eigenvector's sign is anybody's choice
        parts.append(start.flatten())
    return torch.cat(parts).float()


@torch.no_grad()
def _inputs(pipeline, layout: AdapterLayout, latents: Tensor, seed: int, prompt: str) -> dict[str, tuple]:
    """Mean x and sum of x xᵀ of what goes into each target module while the base looks at noisy pictures."""
    rng, modules, seen = stream(seed, "start"), dict(pipeline.unet.named_modules()), {}
    latents = latents[:LOOKS].float().cpu()
    noise = torch.randn(latents.shape, generator=rng)
    timesteps = torch.linspace(0, pipeline.scheduler.config.num_train_timesteps - 1, len(latents)).long()
    noisy = pipeline.scheduler.add_noise(latents, noise, timesteps)
    text = encode_prompts(pipeline, [prompt]).expand(len(latents), -1, -1)

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
