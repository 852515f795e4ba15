"""Fleet fine-tuning: DreamBooth for many people at once, each with a LoRA of its own, on one frozen base."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property

import torch
from diffusers import StableDiffusionPipeline
from diffusers.optimization import get_scheduler
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from w2w_lib.bank import AdapterBank, wearing
from w2w_lib.base_model import CLASS_PROMPT, INSTANCE_PROMPT, encode_prompts
from w2w_lib.layout import AdapterLayout
from w2w_lib.memory import plan
from w2w_lib.objective import denoising_loss, draw, stream
from w2w_lib.start import shared_start
from w2w_lib.weights_dataset import WeightsDataset
from w2w_lib.workers import in_groups


@dataclass(frozen=True)
class FleetRecipe:
    """DreamBooth's settings (Ruiz et al. 2023), the same for every identity."""

    steps: int = 150
    learning_rate: float = 1e-2
    lr_ratio: float = 1.0  # of B's learning rate over A's, which is learning_rate (LoRA+, Hayou et al. 2024)
    instance_batch: int = 3
    prior_batch: int = 1
    prior_weight: float = 1.0  # lambda of Dravid et al. 2024, eq. 2
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    timesteps: tuple[int, int] = (0, 1000)
    lr_scheduler: str = "constant"  # one of diffusers' names; "linear" ends at 0
    start: str = "random"  # see w2w_lib.start
    seed: int = 0

    def __post_init__(self):
        least = {"steps": 1, "instance_batch": 1, "prior_batch": 1 if self.prior_weight else 0, "prior_weight": 0}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"fine-tuning recipe: {name} is {getattr(self, name)}, expected at least {bound}")
        if not 0 <= self.timesteps[0] < self.timesteps[1]:
            raise ValueError(f"fine-tuning recipe: timesteps {self.timesteps}, expected a first one and a later end")

    def to_dict(self) -> dict:
        return asdict(self) | {"timesteps": list(self.timesteps)}


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
        self.start = shared_start(recipe.start, pipeline, layout, self.prior_latents, recipe.seed)

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
        bank: AdapterBank | None = None,
    ) -> tuple[Float[Tensor, "models d"], Float[Tensor, " models"]]:
        """Fine-tune one adapter for each identity; theta and the mean loss of the last tenth of the steps, on the CPU.

        Every identity has its own random stream, its own gradient clipping and, as AdamW works number by number, its
        own optimiser state: losses are summed over the fleet, so no identity feels the others. After each step
        ``on_step`` is told its number, the adapters as they are and their losses. With a ``bank`` that the UNet is
        already wearing, a compiled fleet need not compile again for every group.
        """
        with self._checkpoints(), nullcontext(bank) if bank else wearing(self.unet, self.layout) as bank:
            return self._train(bank, latents, on_step)

    @contextmanager
    def _checkpoints(self) -> Iterator[None]:
        if self.checkpointing:
            self.unet.enable_gradient_checkpointing()
        try:
            yield
        finally:
            self.unet.disable_gradient_checkpointing()

    def _train(self, bank: AdapterBank, latents: dict[str, Tensor], on_step) -> tuple[Tensor, Tensor]:
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
        weights = torch.where(is_prior, recipe.prior_weight / max(recipe.prior_batch, 1), 1 / recipe.instance_batch)
        weights, history = weights.to(self.device), []
        for step in range(recipe.steps):
            batch = self._batch([latents[i] for i in ids], streams)
            optimizer.zero_grad()
            bank.put_on(torch.cat(halves, 1)[:, in_order], per_model)
            losses = weights * denoising_loss(self.denoiser, self.scheduler, *batch, text)
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

        weights = {p.untyped_storage().data_ptr() for p in self.unet.parameters()}
        with self._checkpoints(), torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            self._first_step(latents)
        return sum(size for pointer, size in saved.items() if pointer not in weights)

    def _first_step(self, latents: Tensor) -> None:
        recipe = self.recipe
        theta = self.start[None].to(self.device).requires_grad_()
        batch = self._batch([latents], [stream(recipe.seed, "memory")])
        text = self.instance_text.expand(len(batch[0]), -1, -1)
        with wearing(self.unet, self.layout, theta, each=len(batch[0])):
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
            closing(in_groups(self, {i: latents[i] for i in todo}, fleet_size, workers, bar.write)) as groups,
        ):
            for ids, theta, losses in groups:
                sound = (theta.isfinite().all(1) & losses.isfinite()).tolist()
                diverged += [i for i, fine in zip(ids, sound, strict=True) if not fine]
                if kept := [i for i, fine in zip(ids, sound, strict=True) if fine]:
                    dataset.append(kept, theta[sound], losses[sound], pictures)
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
