"""Train the pocket base, a small Stable Diffusion, on captioned renders of people who appear nowhere else."""

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from jaxtyping import Bool, Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from w2w_lib.base_model import MAX_TOKENS, build_text_encoder, build_tokenizer, build_unet, pocket_scheduler
from w2w_lib.codec import PatchCodec, fit_patch_codec
from w2w_lib.population import VOCABULARY, caption, render_population, sample_person, sample_view

SPLIT = "base"  # the identities of the base's training set; no other part of the workbook draws from this split


@dataclass(frozen=True)
class BaseRecipe:
    """Everything that decides the trained base; the defaults are the shipped model's."""

    people: int = 9000
    views: int = 3
    image_size: int = 64
    latent_channels: int = 20
    channels: tuple[int, ...] = (128, 192)
    text_width: int = 128
    text_layers: int = 2
    captions_per_view: int = 8
    empty_share: float = 0.05  # of captions, left empty for classifier-free guidance
    steps: int = 5500
    summary_after: int = 3500  # from this step on, a share of the captions is seen through its summary alone
    summary_share: float = 0.7
    batch_size: int = 64
    learning_rate: float = 8e-4
    warmup_steps: int = 300
    weight_decay: float = 0.01
    ema_decay: float = 0.998
    seed: int = 0

    @classmethod
    def of(cls, settings: dict) -> "BaseRecipe":
        """The default recipe with the given fields changed; ValueError for one that there is not."""
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(f"base recipe: no {', '.join(unknown)}; expected some of {', '.join(known)}")
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})


@dataclass
class BaseData:
    """The cached training set: latents of every view and several tokenised captions of each."""

    latents: Float[Tensor, "images channels height width"]
    tokens: Int[Tensor, "images captions tokens"]
    codec: PatchCodec
    held_out: int  # the last so many images are kept for the printed check


def _save_atomically(tensors: dict[str, Tensor], path: Path) -> None:
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    os.replace(partial, path)


def _render(recipe: BaseRecipe, work: Path, workers: int) -> UInt8[Tensor, "images 3 height width"]:
    path = work / "images.npy"
    if not path.exists():
        images, _ = render_population(SPLIT, range(recipe.people), recipe.views, recipe.image_size, workers)
        np.save(work / "images.partial.npy", images.reshape(-1, *images.shape[2:]), allow_pickle=False)
        os.replace(work / "images.partial.npy", path)
    return torch.from_numpy(np.load(path, allow_pickle=False)).permute(0, 3, 1, 2)


def prepare_data(recipe: BaseRecipe, work: Path, workers: int = 2) -> BaseData:
    """Render the base's people, fit the codec on them, encode and caption every view; cached in ``work``."""
    cache = work / "data.safetensors"
    tokenizer = build_tokenizer(VOCABULARY)
    if not cache.exists():
        pixels = _render(recipe, work, workers)
        fitted = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(recipe.seed))[:6000]]
        codec = fit_patch_codec(fitted / 127.5 - 1, recipe.latent_channels)
        with torch.no_grad():
            latents = torch.cat([codec.encoder(part / 127.5 - 1) for part in pixels.split(512)]).contiguous()
        captions = []
        for person_index in tqdm(range(recipe.people), desc="captions"):
            person = sample_person(SPLIT, person_index)
            for view_index in range(recipe.views):
                view = sample_view(SPLIT, person_index, view_index)
                rng = np.random.default_rng([recipe.seed, person_index, view_index])
                for _ in range(recipe.captions_per_view):
                    text = caption(person, view, rng)
                    captions.append("" if rng.random() < recipe.empty_share else text)
        fitting = [len(tokenizer.tokenize(c)) <= MAX_TOKENS - 2 for c in captions]
        captions = [c if fits else c.replace(",", "") for c, fits in zip(captions, fitting, strict=True)]
        ids = tokenizer(captions, padding="max_length", max_length=MAX_TOKENS, truncation=True).input_ids
        tokens = torch.tensor(ids, dtype=torch.int16).reshape(len(latents), recipe.captions_per_view, MAX_TOKENS)
        codec_weights = {f"codec.{k}": v for k, v in codec.state_dict().items()}
        _save_atomically({"latents": latents, "tokens": tokens, **codec_weights}, cache)
    stored = load_file(cache)
    codec = PatchCodec(latent_channels=recipe.latent_channels)
    codec.load_state_dict({k.removeprefix("codec."): v for k, v in stored.items() if k.startswith("codec.")})
    held_out = min(64, recipe.people // 4) * recipe.views
    return BaseData(stored["latents"], stored["tokens"], codec, held_out)


class BaseTrainer:
    """UNet and text encoder in bf16 with fp32 master weights, AdamW, EMA and checkpoints."""

    def __init__(self, recipe: BaseRecipe, data: BaseData, work: Path, device: str = "cpu"):
        torch.manual_seed(recipe.seed)
        self.recipe, self.data, self.work, self.device = recipe, data, work, device
        self.tokenizer = build_tokenizer(VOCABULARY)
        self.text_encoder = build_text_encoder(self.tokenizer, recipe.text_width, recipe.text_layers)
        size = data.latents.shape[-1]
        self.unet = build_unet(recipe.latent_channels, size, list(recipe.channels), recipe.text_width)
        self.unet.set_attn_processor(AttnProcessor())
        self.scheduler = pocket_scheduler()
        self.masters = [p.detach().clone().to(device) for p in self._parameters()]
        for module in (self.unet, self.text_encoder):
            module.to(device, torch.bfloat16)
        self.unet.to(memory_format=torch.channels_last)
        for master, parameter in zip(self.masters, self._parameters(), strict=True):
            master.grad = torch.zeros_like(master)
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(
            self.masters,
            recipe.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.schedule = get_cosine_schedule_with_warmup(self.optimizer, recipe.warmup_steps, recipe.steps)
        self.ema = EMAModel(self.masters, decay=recipe.ema_decay, use_ema_warmup=True, power=0.75)
        self.step, self.log = 0, []

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [*self.unet.parameters(), *self.text_encoder.parameters()]

    def _text(self, tokens: Tensor, summarised: Bool[Tensor, " batch"] | None) -> Float[Tensor, "batch tokens width"]:
        """Text states; where ``summarised``, every position holds the end-of-text state, the caption in one vector.

        A rank-1 adapter on keys and values shifts all positions alike, so the UNet must know how to read a person from
        such a shift, not only from the words of a caption.
        """
        states = self.text_encoder(tokens.long()).last_hidden_state
        if summarised is None:
            return states
        ends = (tokens == self.tokenizer.eos_token_id).int().argmax(1)
        summary = states[torch.arange(len(states)), ends.long()][:, None].expand_as(states)
        return torch.where(summarised[:, None, None], summary, states)

    def _loss(
        self,
        latents: Tensor,
        tokens: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        summarised: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, " batch"]:
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        text = self._text(tokens, summarised)
        noisy = noisy.to(torch.bfloat16, memory_format=torch.channels_last)
        prediction = self.unet(noisy, timesteps, text).sample
        return F.mse_loss(prediction.float(), target, reduction="none").mean((1, 2, 3))

    def train_step(self) -> float:
        """One AdamW step; its randomness depends on the seed and the step alone, so runs resume exactly."""
        recipe, data = self.recipe, self.data
        rng = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        count = len(data.latents) - data.held_out
        rows = torch.randint(count, (recipe.batch_size,), generator=rng)
        columns = torch.randint(data.tokens.shape[1], (recipe.batch_size,), generator=rng)
        # One timestep in each of batch_size equal strata: the same expectation, less noise.
        strata = (torch.arange(recipe.batch_size) + torch.rand(recipe.batch_size, generator=rng)) / recipe.batch_size
        timesteps = (strata * self.scheduler.config.num_train_timesteps).long()
        noise = torch.randn(data.latents[rows].shape, generator=rng)
        share = recipe.summary_share if self.step >= recipe.summary_after else 0.0
        summarised = torch.rand(recipe.batch_size, generator=rng) < share
        batch = (data.latents[rows], data.tokens[rows, columns], noise, timesteps, summarised)
        loss = self._loss(*(x.to(self.device) for x in batch)).mean()
        loss.backward()
        parameters = self._parameters()
        torch._foreach_copy_([m.grad for m in self.masters], [p.grad for p in parameters])
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.optimizer.step()
        self.schedule.step()
        with torch.no_grad():
            torch._foreach_copy_(parameters, self.masters)
        for parameter in parameters:
            parameter.grad = None
        self.ema.step(self.masters)
        self.step += 1
        return loss.item()

    @torch.no_grad()
    def caption_signal(self) -> dict[str, float]:
        """Denoising loss on people never trained on, with the right, the dropped and a wrong caption."""
        latents, tokens = self.data.latents[-self.data.held_out :], self.data.tokens[-self.data.held_out :, 0]
        tokens = self._richest_captions()
        rng = torch.Generator().manual_seed(1)
        noise = torch.randn(latents.shape, generator=rng)
        timesteps = torch.linspace(300, 999, len(latents)).long()[torch.randperm(len(latents), generator=rng)]
        bare = self.tokenizer("person", padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids
        whole, summary = torch.zeros(len(tokens), dtype=torch.bool), torch.ones(len(tokens), dtype=torch.bool)
        captions = {
            "right": (tokens, whole),
            "summary": (tokens, summary),
            "dropped": (bare.expand(len(tokens), -1), whole),
            "wrong": (tokens.roll(7, 0), whole),
        }
        return {
            f"loss_{kind}": self._loss(*(x.to(self.device) for x in (latents, c, noise, timesteps, by_summary)))
            .mean()
            .item()
            for kind, (c, by_summary) in captions.items()
        }

    def _richest_captions(self) -> Int[Tensor, "images tokens"]:
        held_out = self.data.tokens[-self.data.held_out :]
        lengths = (held_out != self.tokenizer.pad_token_id).sum(-1)
        return held_out[torch.arange(len(held_out)), lengths.argmax(1)]

    def save_checkpoint(self) -> None:
        state = {
            "masters": self.masters,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ema": [p.clone() for p in self.ema.shadow_params],
            "ema_steps": self.ema.optimization_step,
            "step": self.step,
            "log": self.log,
        }
        partial = self.work / "checkpoint.partial"
        torch.save(state, partial)
        os.replace(partial, self.work / "checkpoint.pt")

    def load_checkpoint(self) -> bool:
        """Continue from the last checkpoint in the work folder, if there is one."""
        path = self.work / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        with torch.no_grad():
            for target, source in ((self.masters, state["masters"]), (self.ema.shadow_params, state["ema"])):
                torch._foreach_copy_(target, source)
            torch._foreach_copy_(self._parameters(), self.masters)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.ema.optimization_step = state["ema_steps"]
        self.step, self.log = state["step"], state["log"]
        return True

    def pipeline(self) -> StableDiffusionPipeline:
        """The model with its averaged weights, as a pipeline in fp32 on the CPU."""
        recipe = self.recipe
        text_encoder = build_text_encoder(self.tokenizer, recipe.text_width, recipe.text_layers)
        size = self.data.latents.shape[-1]
        unet = build_unet(recipe.latent_channels, size, list(recipe.channels), recipe.text_width)
        with torch.no_grad():
            targets = [*unet.parameters(), *text_encoder.parameters()]
            for parameter, average in zip(targets, self.ema.shadow_params, strict=True):
                parameter.copy_(average)
        return StableDiffusionPipeline(
            vae=self.data.codec,
            text_encoder=text_encoder.eval(),
            tokenizer=self.tokenizer,
            unet=unet.eval(),
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


def _finished(recipe: BaseRecipe, out: Path) -> list[dict]:
    done = json.loads((out / "training.json").read_text())
    there, here = asdict(BaseRecipe.of(done["recipe"])), asdict(recipe)
    changed = [f"{name} {there[name]} there, {here[name]} here" for name in here if there[name] != here[name]]
    if changed:
        raise ValueError(
            f"{out} holds a base made by another recipe ({'; '.join(changed)}): "
            "move the folder away to train anew, or use that recipe"
        )
    return done["log"]


def train_base(
    recipe: BaseRecipe,
    out: Path,
    work: Path,
    device: str = "cpu",
    workers: int = 2,
    checkpoint_every: int = 500,
) -> list[dict]:
    """Train (or continue) the base, write it as a half-precision pipeline folder ``out``, return the loss log.

    Interrupt it at any time: the next call continues from the last checkpoint in ``work``.
    A base that is already in ``out`` is left as it is; ValueError if it was made by another recipe.
    """
    if (out / "training.json").exists():
        return _finished(recipe, out)
    work.mkdir(parents=True, exist_ok=True)
    trainer = BaseTrainer(recipe, prepare_data(recipe, work, workers), work, device)
    trainer.load_checkpoint()
    recent = []
    bar = tqdm(total=recipe.steps, initial=trainer.step, desc="train base", unit="step", mininterval=10)
    while trainer.step < recipe.steps:
        recent.append(trainer.train_step())
        bar.update()
        if trainer.step % checkpoint_every == 0 or trainer.step == recipe.steps:
            entry = {"step": trainer.step, "loss": float(np.mean(recent)), **trainer.caption_signal()}
            trainer.log.append(entry)
            bar.write(json.dumps(entry))
            recent.clear()
            trainer.save_checkpoint()
    bar.close()
    trainer.pipeline().to(dtype=torch.float16).save_pretrained(out)
    (out / "training.json").write_text(json.dumps({"recipe": asdict(recipe), "log": trainer.log}, indent=1))
    return trainer.log
