"""The training loop: DreamBooth for several people at once, each with a LoRA of its own, on one frozen base."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property, partial

import torch
from diffusers import StableDiffusionPipeline
from diffusers.optimization import get_scheduler
from jaxtyping import Float
from torch import Tensor, nn

from w2w_lib.files.tensors import finite, floating
from w2w_lib.inputs import instance
from w2w_lib.lora.batched import BatchedAdapters, apply_adapters
from w2w_lib.lora.initialisation import shared_initialisation
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.denoising import denoising_loss, draw_rows, min_snr_weights, stream
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.precision import loss_scale
from w2w_lib.training.compilation import compiled as compile_module
from w2w_lib.training.prompt_table import Contexts, PromptTable
from w2w_lib.training.recipe import FleetRecipe

Latents = Mapping[str, Float[Tensor, "images channels height width"]]
OnStep = Callable[[int, Tensor, Tensor], None]


class TrainingLoop:
    """Trains the adapters of a group of identities side by side; see ``w2w_lib.training.fleet.Fleet``.

    All that decides a row of weights is in this module and in those it imports from ``models`` and ``lora``.
    """

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        layout: AdapterLayout,
        recipe: FleetRecipe,
        prior_latents: Float[Tensor, "images channels height width"],
        compiled: bool = False,
        checkpointing: bool = False,
        contexts: Contexts | None = None,
        prior_contexts: Sequence[str] = (),
    ):
        instance("pipeline", pipeline, StableDiffusionPipeline)
        instance("layout", layout, AdapterLayout)
        instance("recipe", recipe, FleetRecipe)
        if (found := fingerprint(pipeline)) != layout.base:
            raise ValueError(f"the layout is of base {layout.base}, this pipeline is base {found}: open that base")
        self.unet, self.scheduler = pipeline.unet, pipeline.scheduler
        self.compiled, self.checkpointing, self.layout, self.recipe = compiled, checkpointing, layout, recipe
        self.prior_latents = floating("class pictures", prior_latents).detach().float().cpu()
        self.device, self.dtype = pipeline.device, next(pipeline.unet.parameters()).dtype
        known = self.scheduler.config.num_train_timesteps
        if recipe.timesteps[1] > known:
            raise ValueError(f"FleetRecipe: timesteps end at {recipe.timesteps[1]}, this base has {known}")
        needed = bool(recipe.prior_weight) or recipe.initialisation != "random"
        self._require("class pictures", self.prior_latents, least=int(needed))
        named = (contexts or {}, prior_contexts) if recipe.instance_prompt == "context" else ({}, ())
        self.prompts = PromptTable(pipeline, *named, len(prior_latents))
        start = recipe.initialisation, pipeline, layout, self.prior_latents, recipe.seed
        self.initial = shared_initialisation(*start, contexts=named[1])

    @cached_property
    def denoiser(self) -> nn.Module:
        """The UNet that a step runs: compiled, if so wished."""
        return compile_module(self.unet) if self.compiled else self.unet

    def __getstate__(self) -> dict:
        """What a worker process is sent; it compiles for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "denoiser"}

    @contextmanager
    def session(self) -> Iterator[Callable[[Latents], tuple[Tensor, Tensor]]]:
        """``train`` for many groups one after the other: the UNet's hooks stay, so that it is compiled but once."""
        with apply_adapters(self.unet, self.layout) as adapters:
            yield partial(self.train, adapters=adapters)

    def train(
        self, latents: Latents, on_step: OnStep | None = None, adapters: BatchedAdapters | None = None
    ) -> tuple[Float[Tensor, "models d"], Float[Tensor, " models"]]:
        """Fine-tune one adapter for each identity; weights, and mean loss of the last tenth of the steps, on the CPU.

        Every identity has its own random stream, its own gradient clipping and, as AdamW works number by number, its
        own optimiser state; losses are summed over the group, so that no identity's result depends on the others.
        After each step ``on_step`` gets its number, the weights as they are and their losses. ``adapters`` are those
        already applied to the UNet, if there are some.
        """
        self.require(latents)
        applied: AbstractContextManager = nullcontext(adapters) if adapters else apply_adapters(self.unet, self.layout)
        with self._checkpoints(), applied as adapters:
            return self._train(adapters, latents, on_step)

    def require(self, latents: Latents) -> None:
        """ValueError for latents that are none, not finite or not of this base's size."""
        instance("latents", latents, Mapping)
        if not latents:
            raise ValueError("no identities to train: expected latents of at least one")
        for identity, own in latents.items():
            self._require(identity, own)
            self.prompts.of(identity, len(own))

    def _require(self, name: str, latents: Tensor, least: int = 1) -> None:
        size = self.unet.config.sample_size
        shape = (self.unet.config.in_channels, *(size if isinstance(size, (list, tuple)) else (size, size)))
        if floating(f"{name}: latents", latents).shape[1:] != shape or len(latents) < least:
            raise ValueError(
                f"{name}: latents of shape {tuple(latents.shape)}; expected at least {least} of shape {shape}, as this "
                "base paints"
            )
        if not finite(latents):
            raise ValueError(f"{name}: latents hold NaN or infinite numbers; look at these pictures")

    @contextmanager
    def _checkpoints(self) -> Iterator[None]:
        if self.checkpointing:
            self.unet.enable_gradient_checkpointing()
        try:
            yield
        finally:
            self.unet.disable_gradient_checkpointing()

    def _train(self, adapters: BatchedAdapters, latents: Latents, on_step: OnStep | None) -> tuple[Tensor, Tensor]:
        recipe, ids = self.recipe, list(latents)
        streams = [stream(recipe.seed, i) for i in ids]
        down = torch.cat([torch.full((factor.size,), factor.is_down) for factor in self.layout.factors])
        halves = [self.initial[half].repeat(len(ids), 1).to(self.device).requires_grad_() for half in (down, ~down)]
        in_order = torch.cat([down.nonzero(), (~down).nonzero()]).flatten().argsort().to(self.device)
        optimizer = torch.optim.AdamW(
            [{"params": halves[:1]}, {"params": halves[1:], "lr": recipe.learning_rate * recipe.lr_ratio}],
            recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            fused=self.device.type == "cpu",
        )
        schedule = get_scheduler(recipe.lr_scheduler, optimizer, num_warmup_steps=0, num_training_steps=recipe.steps)
        per_model = recipe.instance_batch + (recipe.prior_batch if recipe.prior_weight else 0)
        is_prior = (torch.arange(per_model) >= recipe.instance_batch).repeat(len(ids))
        loss_weights = torch.where(
            is_prior, recipe.prior_weight / max(recipe.prior_batch, 1), 1 / recipe.instance_batch
        )
        loss_weights, history, scale = loss_weights.to(self.device), [], loss_scale(self.unet)
        for step in range(recipe.steps):
            batch = self._batch(latents, streams)
            optimizer.zero_grad()
            adapters.set(torch.cat(halves, 1)[:, in_order], per_model)
            losses = loss_weights * denoising_loss(self.denoiser, self.scheduler, *batch)
            if recipe.min_snr:
                losses = losses * min_snr_weights(self.scheduler, batch[2], recipe.min_snr)
            per_identity = losses.view(len(ids), per_model).sum(1)
            (scale * per_identity.sum()).backward()
            norm = torch.cat([half.grad for half in halves], 1).norm(dim=1, keepdim=True) / scale
            for half in halves:
                half.grad.mul_((recipe.clip_norm / (norm + 1e-6)).clamp(max=1.0) / scale)
            optimizer.step()
            schedule.step()
            history.append(per_identity.detach().cpu())
            if on_step:
                on_step(step, torch.cat(halves, 1)[:, in_order].detach().cpu(), history[-1])
        last = torch.stack(history[-max(1, recipe.steps // 10) :]).mean(0)
        return torch.cat(halves, 1)[:, in_order].detach().cpu(), last

    def _batch(self, latents: Latents, streams: list[torch.Generator]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents, noise, timesteps and text states of one step."""
        recipe, parts = self.recipe, []
        for (identity, own), rng in zip(latents.items(), streams, strict=True):
            parts.append(self._draw(rng, own, recipe.instance_batch, self.prompts.of(identity, len(own))))
            if recipe.prior_weight:
                parts.append(self._draw(rng, self.prior_latents, recipe.prior_batch, self.prompts.prior))
        *batch, prompts = (torch.cat(column).to(self.device) for column in zip(*parts, strict=True))
        return *batch, self.prompts.states[prompts]

    def _draw(self, rng: torch.Generator, latents: Tensor, count: int, prompts: Tensor) -> tuple[Tensor, ...]:
        timesteps = self.recipe.timesteps, self.recipe.timestep_density, self.recipe.logit_mean
        rows, noise, drawn = draw_rows(rng, latents, count, *timesteps)
        return latents[rows], noise, drawn, prompts[rows]
