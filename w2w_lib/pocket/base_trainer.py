"""The steps of the pocket base's training: losses, masters and averages of weights, checkpoints."""

from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import CLIPTextModel

from w2w_lib.files.atomic import replacing
from w2w_lib.pocket.architecture import MAX_TOKENS, build_unet, pocket_scheduler
from w2w_lib.pocket.codec import PatchCodec
from w2w_lib.pocket.codec_training import face_weight
from w2w_lib.pocket.recipe import BaseRecipe
from w2w_lib.pocket.text_states import end_positions
from w2w_lib.pocket.text_training import train_text_encoder
from w2w_lib.pocket.training_data import BaseData, tokenizer_of
from w2w_lib.training import compilation


class Denoiser(nn.Module):
    """The UNet behind the text encoder: one network to compile, which is given tokens or the states of texts."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel):
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet

    def states(self, tokens: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch tokens width"]:
        """The text states of tokens."""
        with torch.autocast(tokens.device.type, torch.bfloat16):
            return self.text_encoder(tokens.long()).last_hidden_state

    def forward(self, noisy: Float[Tensor, "batch channels height width"], timesteps: Tensor, text: Tensor) -> Tensor:
        """The prediction for noisy latents, each with its text."""
        states = text if text.is_floating_point() else self.states(text)
        return self.unet(noisy, timesteps, states.to(noisy.dtype)).sample


class BaseTrainer:
    """UNet in bf16 with fp32 master weights, AdamW, EMA and checkpoints; a "joint" text encoder learns with it."""

    def __init__(self, recipe: BaseRecipe, data: BaseData, work: Path, device: str = "cpu", compiled: bool = False):
        self.recipe, self.data, self.work, self.device = recipe, data.to(device), work, device
        self.tokenizer = tokenizer_of(recipe.known)
        self.text_encoder, self.text_read = train_text_encoder(recipe, self.data, work)
        torch.manual_seed(recipe.seed)
        self.unet = self._new_unet()
        self.unet.set_attn_processor(AttnProcessor())
        self.scheduler = pocket_scheduler()
        self.masters = [p.detach().clone().to(device).requires_grad_() for p in self.unet.parameters()]
        self.unet.to(device, torch.bfloat16, memory_format=torch.channels_last)
        self.denoiser = Denoiser(self.text_encoder, self.unet)
        self.forward = compilation.compiled(self.denoiser, recorded=device != "cpu") if compiled else self.denoiser
        for master in self.masters:
            master.grad = torch.zeros_like(master)
        self.words = [*self.text_encoder.parameters()] if recipe.text_objective == "joint" else []
        self.learned = [*self.masters, *self.words]
        self.optimizer = torch.optim.AdamW(
            self._groups(), recipe.learning_rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay, fused=True
        )
        self.schedule = get_cosine_schedule_with_warmup(self.optimizer, recipe.warmup_steps, recipe.steps)
        self.ema = EMAModel(self.learned, decay=recipe.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
        self.weight = face_weight(*data.latents.shape[-2:], recipe.face_weight).to(device)
        self.step, self.log = 0, []

    def _new_unet(self) -> UNet2DConditionModel:
        recipe, size = self.recipe, self.data.latents.shape[-1]
        return build_unet(recipe.latent_channels, size, list(recipe.channels), recipe.text_width)

    def _groups(self) -> list[dict]:
        """What is learned, by learning rate."""
        if not self.words:
            return [{"params": self.masters}]
        embeddings = self.text_encoder.get_input_embeddings().weight
        layers = [parameter for parameter in self.words if parameter is not embeddings]
        recipe = self.recipe
        return [
            {"params": self.masters},
            {"params": layers, "lr": recipe.joint_learning_rate},
            {"params": [embeddings], "lr": recipe.embedding_learning_rate, "weight_decay": 0.0},
        ]

    def _text(self, rows: Tensor, columns: Tensor, summarised: bool) -> Tensor:
        """Tokens of captions, or their last text state alone, in which the encoder has seen all words.

        To attend to one position is to attend to 77 equal ones.
        """
        tokens = self.data.tokens[rows, columns]
        if not summarised:
            return tokens if self.words else self.denoiser.states(tokens)
        states = self.denoiser.states(tokens)
        return states[torch.arange(len(tokens), device=tokens.device), end_positions(tokens, self.tokenizer)][:, None]

    def _loss(
        self, forward, latents: Tensor, noise: Tensor, timesteps: Tensor, text: Tensor
    ) -> Float[Tensor, " batch"]:
        noisy = self.scheduler.add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, timesteps)
        noisy = noisy.to(torch.bfloat16, memory_format=torch.channels_last)
        prediction = forward(noisy, timesteps, text)
        errors = F.mse_loss(prediction.float(), target, reduction="none")
        return (errors * self.weight).mean((1, 2, 3))

    def train_step(self) -> Float[Tensor, ""]:
        """One AdamW step; its randomness depends on the seed and the step alone, so runs resume exactly."""
        recipe, data, device = self.recipe, self.data, self.device
        seed = recipe.seed * 1_000_003 + self.step
        rng, coin = torch.Generator(device).manual_seed(seed), torch.Generator().manual_seed(seed)
        drawn, named = (recipe.batch_size,), round(recipe.known_share * recipe.batch_size) if data.known else 0
        known = torch.randint(max(data.known, 1), (named,), generator=rng, device=device)
        described = (data.known, len(data.latents) - data.held_out, (recipe.batch_size - named,))
        rows = torch.cat([known, torch.randint(*described, generator=rng, device=device)])
        columns = torch.randint(data.tokens.shape[1], drawn, generator=rng, device=device)
        # One timestep in each of batch_size equal strata: the same expectation, less noise.
        shifts = torch.rand(drawn, generator=rng, device=device)
        strata = (torch.randperm(recipe.batch_size, generator=rng, device=device) + shifts) / recipe.batch_size
        count = self.scheduler.config.num_train_timesteps
        timesteps = (strata * count).long().clamp(max=count - 1)  # a last stratum may round up to 1
        latents = data.latents[rows]
        noise = torch.randn(latents.shape, generator=rng, device=device)
        summarised = torch.rand((), generator=coin).item() < recipe.summary_share
        text = self._text(rows, columns, summarised)
        loss = self._loss(self.forward, latents, noise, timesteps, text).mean()
        loss.backward()
        parameters = [*self.unet.parameters()]
        torch._foreach_copy_([m.grad for m in self.masters], [p.grad for p in parameters])
        torch.nn.utils.clip_grad_norm_(self.learned, 1.0)
        self.optimizer.step()
        self.schedule.step()
        with torch.no_grad():
            torch._foreach_copy_(parameters, self.masters)
        for parameter in (*parameters, *self.words):
            parameter.grad = None
        self.ema.step(self.learned)
        self.step += 1
        return loss.detach()

    @torch.no_grad()
    def caption_signal(self) -> dict[str, float]:
        """Denoising loss on people never trained on, with the right, the dropped and a wrong caption."""
        rows = torch.arange(len(self.data.latents), device=self.device)[-self.data.held_out :]
        richest = self.data.mentioned[rows].sum(-1).argmax(1)
        rng = torch.Generator().manual_seed(1)
        latents = self.data.latents[rows]
        noise = torch.randn(latents.shape, generator=rng).to(self.device)
        timesteps = torch.linspace(300, 999, len(rows)).long()[torch.randperm(len(rows), generator=rng)].to(self.device)
        bare = self.tokenizer("person", padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids
        right = self._text(rows, richest, False)
        captions = {
            "right": right,
            "summary": self._text(rows, richest, True),
            "dropped": bare.to(self.device).expand(len(rows), -1),
            "wrong": right.roll(7, 0),
        }
        return {
            f"loss_{kind}": self._loss(self.denoiser, latents, noise, timesteps, text).mean().item()
            for kind, text in captions.items()
        }

    def save_checkpoint(self) -> None:
        state = {
            "learned": self.learned,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ema": [p.clone() for p in self.ema.shadow_params],
            "ema_steps": self.ema.optimization_step,
            "step": self.step,
            "log": self.log,
        }
        with replacing(self.work / "checkpoint.pt") as partial:
            torch.save(state, partial)

    def load_checkpoint(self) -> bool:
        """Continue from the last checkpoint in the work folder, if there is one."""
        path = self.work / "checkpoint.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        with torch.no_grad():
            for target, source in ((self.learned, state["learned"]), (self.ema.shadow_params, state["ema"])):
                torch._foreach_copy_(target, source)
            torch._foreach_copy_([*self.unet.parameters()], self.masters)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.ema.optimization_step = state["ema_steps"]
        self.step, self.log = state["step"], state["log"]
        return True

    def pipeline(self, codec: PatchCodec) -> StableDiffusionPipeline:
        """The model with its averaged weights and this codec, as a pipeline in fp32 on the CPU."""
        unet, text_encoder = self._new_unet(), deepcopy(self.text_encoder).cpu()
        averaged = [*unet.parameters(), *(text_encoder.parameters() if self.words else ())]
        with torch.no_grad():
            torch._foreach_copy_(averaged, [average.cpu() for average in self.ema.shadow_params])
        return StableDiffusionPipeline(
            vae=codec,
            text_encoder=text_encoder.eval(),
            tokenizer=self.tokenizer,
            unet=unet.eval(),
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
