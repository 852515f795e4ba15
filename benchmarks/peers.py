"""How others do it: PEFT's loop, one person after the other, and diffusers' adapters, loaded one by one."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model
from torch import Tensor

from w2w_lib.lora.adapter_files import save_adapter
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.denoising import denoising_loss, draw, stream
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.training.recipe import FleetRecipe

Sources = Callable[[], tuple[Tensor, Tensor, Tensor]]  # latents of the person, of class pictures, and both texts


def train_with_peft(
    pipeline: StableDiffusionPipeline,
    layout: AdapterLayout,
    recipe: FleetRecipe,
    identity: str,
    sources: Sources,
    steps: int,
) -> tuple[Tensor, float]:
    """One person's weights by diffusers' DreamBooth example, one instance and one class picture a step.

    Also the seconds that wrapping the model for the person took, and unwrapping it.
    """
    device, began = pipeline.device, time.perf_counter()
    config = LoraConfig(r=layout.rank, lora_alpha=layout.alpha, target_modules=list(layout.targets))
    model = get_peft_model(pipeline.unet, config, autocast_adapter_dtype=False)
    trained = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    initial = layout.unflatten(layout.initial(recipe.seed)[None])
    for name, parameter in trained.items():
        parameter.data = initial[name][0].to(device)
    optimizer = torch.optim.AdamW(trained.values(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    rng, loss_weights = stream(recipe.seed, identity), torch.tensor([1.0, recipe.prior_weight], device=device)
    preparing = time.perf_counter() - began
    for _ in range(steps):
        latents, prior, text = sources()
        draws = [draw(rng, source, 1, recipe.timesteps) for source in (latents, prior)]
        batch = (torch.cat(column).to(device) for column in zip(*draws, strict=True))
        loss = (loss_weights * denoising_loss(_InBasePrecision(model), pipeline.scheduler, *batch, text)).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), recipe.clip_norm)
        optimizer.step()
    weights = layout.flatten({n: p.detach().float() for n, p in trained.items()}).cpu()  # so a GPU is done
    began = time.perf_counter()
    model.unload()
    return weights, preparing + time.perf_counter() - began


class _InBasePrecision:
    """A PEFT model with adapters in fp32 over a base that computes in another precision, for ``denoising_loss``."""

    def __init__(self, model):
        self.model = model

    def parameters(self):
        return self.model.base_model.model.conv_in.parameters()

    def __call__(self, *inputs):
        return self.model(*inputs)


def paint_one_by_one(
    pipeline: StableDiffusionPipeline,
    layout: AdapterLayout,
    weights: Tensor,
    prompts: Sequence[str],
    sampling: Sampling,
    folder: str | Path,
) -> np.ndarray:
    """A picture of each prompt, of seeds 0, 1, ..., by an adapter of its own that diffusers loads from a file."""
    pictures = []
    for seed, (own, prompt) in enumerate(zip(weights, prompts, strict=True)):
        save_adapter(layout, own, Path(folder) / f"{seed}.safetensors")
        pipeline.load_lora_weights(folder, weight_name=f"{seed}.safetensors")
        pictures.append(generate(pipeline, [prompt], [seed], sampling=sampling))
        pipeline.unload_lora_weights()
    return np.concatenate(pictures)
