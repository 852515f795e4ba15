"""Fleet fine-tuning: DreamBooth for many people at once, each with a LoRA of its own, on one frozen base."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from functools import cached_property

import torch
from diffusers import StableDiffusionPipeline
from diffusers.optimization import get_scheduler
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from w2w_lib.lora.batched import BatchedAdapters, apply_adapters
from w2w_lib.lora.initialisation import shared_initialisation
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.denoising import denoising_loss, draw, stream
from w2w_lib.models.prompts import CLASS_PROMPT, INSTANCE_PROMPT, encode_prompts
from w2w_lib.training.memory import plan
from w2w_lib.training.recipe import FleetRecipe
from w2w_lib.training.weights_dataset import WeightsDataset
from w2w_lib.training.workers import train_in_groups


class Fleet:
    """Trains adapters on one frozen base; ``train`` takes as many identities as fit in memory.

    ``compiled`` lets ``torch.compile`` fuse what lies between the matrix products: half a minute at the start (a C++
    compiler is needed on a CPU), then faster steps, in notebook 02's setting by a quarter. ``checkpointing`` keeps
    fewer activations and computes them again in the backward pass: more adapters fit, each step takes about a third
    longer.
    """

    def __init__(
        self,
        pipeline: StableDiffusionPipeline,
        layout: AdapterLayout,
        recipe: FleetRecipe,
        prior_latents: Float[Tensor, "images channels height width"],
        compiled: bool = False,
        checkpointing: bool = False,
    ):
        self.unet, self.scheduler = pipeline.unet, pipeline.scheduler
        self.compiled, self.checkpointing, self.layout, self.recipe = compiled, checkpointing, layout, recipe
        self.prior_latents = prior_latents.float().cpu()
        self.device = pipeline.device
        self.instance_text = encode_prompts(pipeline, [INSTANCE_PROMPT])
        self.prior_text = encode_prompts(pipeline, [CLASS_PROMPT])
        self.start = shared_initialisation(recipe.initialisation, pipeline, layout, self.prior_latents, recipe.seed)

    @cached_property
    def denoiser(self) -> nn.Module:
        return torch.compile(self.unet, dynamic=False) if self.compiled else self.unet

    def __getstate__(self) -> dict:
        """What a worker process is sent; it compiles for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "denoiser"}

    def train(
        self,
        latents: dict[str, Float[Tensor, "images channels height width"]],
        on_step: Callable[[int, Tensor, Tensor], None] | None = None,
        bank: BatchedAdapters | None = None,
    ) -> tuple[Float[Tensor, "models d"], Float[Tensor, " models"]]:
        """Fine-tune one adapter for each identity; weights, and mean loss of the last tenth of the steps, on the CPU.

        Every identity has its own random stream, its own gradient clipping and, as AdamW works number by number, its
        own optimiser state: losses are summed over the fleet, so no identity feels the others. After each step
        ``on_step`` is told its number, the adapters as they are and their losses. With a ``bank`` that the UNet is
        already wearing, a compiled fleet need not compile again for every group.
        """
        with self._checkpoints(), nullcontext(bank) if bank else apply_adapters(self.unet, self.layout) as bank:
            return self._train(bank, latents, on_step)

    @contextmanager
    def _checkpoints(self) -> Iterator[None]:
        if self.checkpointing:
            self.unet.enable_gradient_checkpointing()
        try:
            yield
        finally:
            self.unet.disable_gradient_checkpointing()

    def _train(self, bank: BatchedAdapters, latents: dict[str, Tensor], on_step) -> tuple[Tensor, Tensor]:
        recipe, ids = self.recipe, list(latents)
        streams = [stream(recipe.seed, i) for i in ids]
        down = torch.cat([torch.full((factor.size,), factor.is_down) for factor in self.layout.factors])
        halves = [self.start[half].repeat(len(ids), 1).to(self.device).requires_grad_() for half in (down, ~down)]
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
        text = torch.where(is_prior[:, None, None].to(self.device), self.prior_text, self.instance_text)
        loss_weights = torch.where(
            is_prior, recipe.prior_weight / max(recipe.prior_batch, 1), 1 / recipe.instance_batch
        )
        loss_weights, history = loss_weights.to(self.device), []
        for step in range(recipe.steps):
            batch = self._batch([latents[i] for i in ids], streams)
            optimizer.zero_grad()
            bank.set(torch.cat(halves, 1)[:, in_order], per_model)
            losses = loss_weights * denoising_loss(self.denoiser, self.scheduler, *batch, text)
            per_identity = losses.view(len(ids), per_model).sum(1)
            per_identity.sum().backward()
            norm = torch.cat([half.grad for half in halves], 1).norm(dim=1, keepdim=True)
            for half in halves:
                half.grad.mul_((recipe.clip_norm / (norm + 1e-6)).clamp(max=1.0))
            optimizer.step()
            schedule.step()
            history.append(per_identity.detach().cpu())
            if on_step:
                on_step(step, torch.cat(halves, 1)[:, in_order].detach().cpu(), history[-1])
        last = torch.stack(history[-max(1, recipe.steps // 10) :]).mean(0)
        return torch.cat(halves, 1)[:, in_order].detach().cpu(), last

    def _batch(self, latents: list[Tensor], streams: list[torch.Generator]) -> tuple[Tensor, Tensor, Tensor]:
        recipe, parts = self.recipe, []
        for own, rng in zip(latents, streams, strict=True):
            parts.append(draw(rng, own, recipe.instance_batch, recipe.timesteps))
            if recipe.prior_weight:
                parts.append(draw(rng, self.prior_latents, recipe.prior_batch, recipe.timesteps))
        return tuple(torch.cat(column).to(self.device) for column in zip(*parts, strict=True))

    def memory_per_model(self, latents: Float[Tensor, "images channels height width"]) -> int:
        """Bytes that one training step takes for each adapter: on a GPU its peak, on a CPU what autograd saves."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            with self._checkpoints():
                self._first_step(latents)
            return torch.cuda.max_memory_allocated(self.device) - before
        saved = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        frozen = {p.untyped_storage().data_ptr() for p in self.unet.parameters()}
        with self._checkpoints(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            self._first_step(latents)
        return sum(size for pointer, size in saved.items() if pointer not in frozen)

    def _first_step(self, latents: Tensor) -> None:
        recipe = self.recipe
        weights = self.start[None].to(self.device).requires_grad_()
        batch = self._batch([latents], [stream(recipe.seed, "memory")])
        text = self.instance_text.expand(len(batch[0]), -1, -1)
        with apply_adapters(self.unet, self.layout, weights, each=len(batch[0])):
            denoising_loss(self.unet, self.scheduler, *batch, text).sum().backward()

    def train_all(
        self,
        latents: dict[str, Float[Tensor, "images channels height width"]],
        dataset: WeightsDataset,
        fleet_size: int = 32,
        workers: int | None = 1,
        pictures: Mapping[str, str] | None = None,
    ) -> None:
        """Fine-tune every identity that the dataset does not hold yet, at most ``fleet_size`` at a time.

        ``workers`` is the number of processes that do so side by side (see ``w2w_lib.workers``); None stands for one
        for each core of a CPU, and one for a GPU. Fewer identities at a time where that many would not fit in memory;
        MemoryError where not even one does. ``pictures`` are fingerprints of what the latents were made of, by
        identity: ValueError where a finished row learned others. People whose weights become NaN or infinite are left
        out, and named by a ValueError when all others are finished.
        """
        if fleet_size < 1:
            raise ValueError(f"fleet_size {fleet_size}: expected at least 1")
        if empty := [i for i, own in latents.items() if not len(own)]:
            raise ValueError(f"{', '.join(empty[:5])}: no pictures to learn from; expected at least one of each")
        done = set(self._finished(dataset, pictures or {}))
        todo = [i for i in latents if i not in done]
        workers = workers or (torch.get_num_threads() if self.device.type == "cpu" else 1)
        workers = max(1, min(workers, -(-len(todo) // fleet_size)))
        if todo:
            workers, fleet_size = plan(workers, fleet_size, self.memory_per_model(latents[todo[0]]), self.device)
        diverged = []
        with (
            tqdm(total=len(latents), initial=len(done & set(latents)), desc="fine-tune", unit="person") as bar,
            closing(train_in_groups(self, {i: latents[i] for i in todo}, fleet_size, workers, bar.write)) as groups,
        ):
            for ids, weights, losses in groups:
                sound = (weights.isfinite().all(1) & losses.isfinite()).tolist()
                diverged += [i for i, fine in zip(ids, sound, strict=True) if not fine]
                if kept := [i for i, fine in zip(ids, sound, strict=True) if fine]:
                    dataset.append(kept, weights[sound], losses[sound], pictures)
                    bar.set_postfix(loss=f"{losses[sound].mean():.3f}")
                bar.update(len(ids))
        if diverged:
            raise ValueError(
                f"the weights of {', '.join(diverged)} became NaN or infinite; all others are finished and kept: "
                "look at these people's pictures, or lower the learning rate, and run again"
            )

    @staticmethod
    def _finished(dataset: WeightsDataset, pictures: Mapping[str, str]) -> list[str]:
        learned = dataset.pictures()
        others = [i for i, own in learned.items() if own is not None and pictures.get(i, own) != own]
        if others:
            raise ValueError(
                f"{dataset.folder}: {len(others)} finished people, among them {', '.join(others[:3])}, learned other "
                "pictures than these: move the folder away to train them again, or use the pictures they learned"
            )
        return list(learned)
