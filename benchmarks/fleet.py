"""Fleet fine-tuning against PEFT's sequential loop, and many adapters in one batch against loading them one by one.

    python benchmarks/fleet.py                  # the pocket base, on a CPU or a GPU
    python benchmarks/fleet.py --random-sd15    # the architecture of Stable Diffusion 1.5 at 512 pixels: for a GPU

Every way trains the same people with the same objective (one instance and one class picture a step, in one batch, as
in diffusers' DreamBooth example), the same draws and the same steps, each in a process of its own; "2 ×" is two such
processes at the same time, each with one thread. A model-step is one optimiser step of one adapter; PEFT's time does
not count what it takes to wrap the model for the next person. Every way is timed several times: the table has the
median, and the spread between the fastest and the slowest. The loss is that of the finished adapters on noise that no
way has seen. What does not fit into memory has an empty row.
"""

import json
import resource
import tempfile
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from w2w_lib.lora.adapter_files import save_adapter
from w2w_lib.lora.batched import apply_adapters
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.base import open_base
from w2w_lib.models.denoising import denoising_loss, draw, stream
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.images import encode_images, to_pixels
from w2w_lib.models.prompts import CLASS_PROMPT, INSTANCE_PROMPT, encode_prompts
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.people.people_set import People
from w2w_lib.people.rendered.captions import VOCABULARY
from w2w_lib.pocket.architecture import build_text_encoder, build_tokenizer
from w2w_lib.training.fleet import Fleet
from w2w_lib.training.memory import halved_fleet
from w2w_lib.training.recipe import FleetRecipe
from w2w_lib.workbook import profiles

GEMM_SIZE, GEMM_REPEATS, GEMM_TIMES = {"cpu": 2048, "cuda": 8192}, 10, 5
REPEATS = 3  # of every way's timing
VIEWS = 8
PEERS = ("PEFT, as its examples", "PEFT, cached")
PAINTED = 16  # adapters that paint one picture each
SHARES = ("spread", "of GEMM rate", "loss")  # what does not add up over processes
STEPS_OF_A_MODEL = 800  # of the profile sd15, for "models an hour"
COMPARED = 4  # people that every way trains and whose loss is compared


@dataclass(frozen=True)
class Setting:
    """What all ways have in common."""

    base: str
    people: People
    recipe: FleetRecipe
    dtype: torch.dtype
    device: str


class Bench:
    """The base, the people and the shared class pictures."""

    def __init__(self, setting: Setting):
        self.setting, self.recipe, self.device = setting, setting.recipe, setting.device
        self.pipeline = open_base(setting.base, setting.dtype, setting.device)
        self.layout = AdapterLayout.of(self.pipeline.unet, fingerprint(self.pipeline), "paper")
        self.people, self.preparing = setting.people, 0.0
        sampling = Sampling(steps=4, guidance=1.0)
        self.class_pictures = generate(self.pipeline, [CLASS_PROMPT] * VIEWS, range(VIEWS), sampling=sampling)

    @cached_property
    def latents(self) -> dict[str, torch.Tensor]:
        return self.people.latents(self.pipeline)

    @cached_property
    def prior(self) -> torch.Tensor:
        return self._encode(self.class_pictures)

    @cached_property
    def text(self) -> torch.Tensor:
        return encode_prompts(self.pipeline, [INSTANCE_PROMPT, CLASS_PROMPT])

    def _encode(self, pictures) -> torch.Tensor:
        return encode_images(self.pipeline, to_pixels(pictures).to(self.device)).cpu()

    def sequential(self, steps: int, cached: bool) -> torch.Tensor:
        """PEFT's loop, one person after the other; without ``cached`` it encodes pictures and prompts in every step."""
        return torch.stack([self._peft(identity, steps, cached) for identity in self.people.ids[:COMPARED]])

    def _peft(self, identity: str, steps: int, cached: bool) -> torch.Tensor:
        recipe, layout, pipeline = self.recipe, self.layout, self.pipeline
        began = time.perf_counter()
        config = LoraConfig(r=layout.rank, lora_alpha=layout.alpha, target_modules=list(layout.targets))
        model = get_peft_model(pipeline.unet, config, autocast_adapter_dtype=False)
        trained = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
        initial = layout.unflatten(layout.initial(recipe.seed)[None])
        for name, parameter in trained.items():
            parameter.data = initial[name][0].to(self.device)
        optimizer = torch.optim.AdamW(trained.values(), recipe.learning_rate, weight_decay=recipe.weight_decay)
        rng, own = stream(recipe.seed, identity), self.people.of(identity)
        loss_weights = torch.tensor([1.0, recipe.prior_weight], device=self.device)
        self.preparing += time.perf_counter() - began
        for _ in range(steps):
            if cached:
                latents, prior, text = self.latents[identity], self.prior, self.text
            else:  # the examples encode what a step needs when it needs it; here the pictures of one batch
                latents, prior = self._encode(own[:1]).expand(VIEWS, -1, -1, -1), self._encode(self.class_pictures[:1])
                text = encode_prompts(pipeline, [INSTANCE_PROMPT, CLASS_PROMPT])
            draws = [draw(rng, source, 1, recipe.timesteps) for source in (latents, prior)]
            batch = (torch.cat(column).to(self.device) for column in zip(*draws, strict=True))
            loss = (loss_weights * denoising_loss(_InBasePrecision(model), pipeline.scheduler, *batch, text)).sum()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained.values(), recipe.clip_norm)
            optimizer.step()
        weights = layout.flatten({n: p.detach().float() for n, p in trained.items()})
        began = time.perf_counter()
        model.unload()
        self.preparing += time.perf_counter() - began
        return weights

    def fleet(self, steps: int, size: int, compiled: bool) -> torch.Tensor:
        """The fleet, ``size`` people at a time."""
        fleet = Fleet(self.pipeline, self.layout, replace(self.recipe, steps=steps), self.prior, compiled)
        ids, weights = self.people.ids, []
        with fleet.session() as train:
            for first in range(0, len(ids), size):
                chosen = {i: self.latents[i] for i in ids[first : first + size]}
                weights.append(train(chosen)[0])
        return torch.cat(weights)

    def run(self, way: str, steps: int) -> torch.Tensor:
        if "PEFT" in way:
            return self.sequential(steps, cached=way.endswith("cached"))
        return self.fleet(steps, int(way.split()[-1]), compiled="compiled" in way)

    def flops_per_step(self) -> int:
        """Floating-point operations of one model-step, counted by PyTorch."""
        one = Fleet(self.pipeline, self.layout, replace(self.recipe, steps=1), self.prior)
        with FlopCounterMode(display=False) as counter:
            one.train(dict(list(self.latents.items())[:1]))
        return counter.get_total_flops()

    @torch.no_grad()
    def loss(self, weights: torch.Tensor) -> float:
        """Of the compared people's adapters, on one noise for all ways."""
        pictures = torch.stack([self.latents[i][0] for i in self.people.ids[:COMPARED]])
        noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(1))
        timesteps = torch.linspace(300, 900, len(pictures)).long()
        batch = (x.to(self.device) for x in (pictures, noise, timesteps))
        text = self.text[:1].expand(len(pictures), -1, -1)
        with apply_adapters(self.pipeline.unet, self.layout, weights[:COMPARED].to(self.device)):
            return denoising_loss(self.pipeline.unet, self.pipeline.scheduler, *batch, text).mean().item()


class _InBasePrecision:
    """A PEFT model with adapters in fp32 over a base that computes in another precision, for ``denoising_loss``."""

    def __init__(self, model):
        self.model = model

    def parameters(self):
        return self.model.base_model.model.conv_in.parameters()

    def __call__(self, *inputs):
        return self.model(*inputs)


def _train(setting: Setting, way: str) -> dict[str, float]:
    bench = Bench(setting)
    flops = bench.flops_per_step()
    torch.backends.cudnn.allow_tf32 = setting.dtype != torch.float32  # fp32 is fp32, as in the product beside it
    _barrier.wait()
    gemm = _gemm(setting)
    bench.run(way, steps=1)  # caches, compilation
    on_gpu, rates = setting.device == "cuda", []
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(REPEATS):
        _barrier.wait()
        bench.preparing, began = 0.0, time.perf_counter()
        weights = bench.run(way, setting.recipe.steps)  # ends with weights on the CPU, so a GPU is done
        rates.append(len(weights) * setting.recipe.steps / (time.perf_counter() - began - bench.preparing))
    rate = float(np.median(rates))
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "model-steps/s": rate,
        "spread": (max(rates) - min(rates)) / rate,
        "samples/s": 2 * rate,
        "models an hour": 3600 * rate / STEPS_OF_A_MODEL,
        "TFLOP/s": rate * flops / 1e12,
        "of GEMM rate": rate * flops / gemm,
        "peak GB": peak / 1e9,
        "loss": bench.loss(weights),
    }


def _gemm(setting: Setting) -> float:
    """Operations per second of a large matrix product: the best of several measurements, as others may disturb one."""
    size, seconds = GEMM_SIZE[setting.device], []
    a = torch.randn(size, size, dtype=setting.dtype, device=setting.device)
    for _ in range(GEMM_TIMES):
        began = time.perf_counter()
        for _ in range(GEMM_REPEATS):
            result = a @ a
        result.sum().item()
        seconds.append((time.perf_counter() - began) / GEMM_REPEATS)
    return 2 * size**3 / min(seconds)


def _paint(setting: Setting, way: str) -> dict[str, float]:
    bench = Bench(setting)
    count = min(PAINTED, len(setting.people.ids))
    weights = 0.01 * torch.randn(count, bench.layout.dimension, generator=torch.Generator().manual_seed(0))
    prompts, seeds = [INSTANCE_PROMPT] * count, range(count)
    sampling = Sampling(batch_size=count)
    began = time.perf_counter()
    if way == "in one batch":
        generate(bench.pipeline, prompts, seeds, bench.layout, weights, sampling=sampling)
    else:
        with tempfile.TemporaryDirectory() as folder:
            for seed in seeds:
                save_adapter(bench.layout, weights[seed], Path(folder) / f"{seed}.safetensors")
                bench.pipeline.load_lora_weights(folder, weight_name=f"{seed}.safetensors")
                generate(bench.pipeline, prompts[:1], [seed], sampling=sampling)
                bench.pipeline.unload_lora_weights()
    return {"images/s": count / (time.perf_counter() - began)}


def _train_as(way: str, setting: Setting) -> pd.Series:
    """One row of the table: how many processes, which precision and which way of training, by its name.

    Empty where it does not fit into memory.
    """
    processes = int(way.split(" × ")[0]) if "×" in way else 1
    if "fp32" in way:
        setting = replace(setting, dtype=torch.float32)
    try:
        return _in_processes(processes, _train, setting, way)
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, BrokenExecutor):  # killed, as one is for want of memory
            halved_fleet(2, error)  # raises what is not for want of memory
        return pd.Series(dtype=float)


def _random_stable_diffusion(folder: str) -> str:
    """The architecture of Stable Diffusion 1.5 with random weights: neither d nor the operations care."""
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    tokenizer = build_tokenizer(VOCABULARY)
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=build_text_encoder(tokenizer, 768, 12, heads=12),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).to(dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def _in_processes(count: int, function, *arguments) -> pd.Series:
    """The mean loss and the sums of everything else over processes that do the same at the same time.

    One has all threads, more have one thread each.
    """
    context = get_context("spawn")
    meet = (context.Barrier(count), None if count == 1 else 1)
    with ProcessPoolExecutor(count, mp_context=context, initializer=_join, initargs=meet) as pool:
        results = pd.DataFrame([done.result() for done in [pool.submit(function, *arguments) for _ in range(count)]])
    return pd.Series({name: own.mean() if name in SHARES else own.sum() for name, own in results.items()})


def _join(barrier: Barrier, threads: int | None) -> None:
    global _barrier
    _barrier = barrier
    if threads:
        torch.set_num_threads(threads)


def main(
    base: Annotated[str, typer.Option(help="Folder or hub id of the base model; by default the pocket base.")] = "",
    random_sd15: Annotated[bool, typer.Option(help="Stable Diffusion 1.5's architecture with random weights.")] = False,
    people: Annotated[int, typer.Option(help="Adapters that a fleet trains.")] = 64,
    steps: Annotated[int, typer.Option(help="Steps of each adapter.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Where the numbers go: by default beside this file.")] = None,
) -> None:
    """Measure and print both tables, and write them as JSON after every row."""
    recipe = FleetRecipe(steps=steps, learning_rate=0.0125, instance_batch=1, prior_batch=1, prior_weight=1.0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = out or Path(__file__).with_name("fleet_sd15.json" if random_sd15 else "fleet.json")
    with tempfile.TemporaryDirectory() as folder:
        base = _random_stable_diffusion(folder) if random_sd15 else base or str(profiles.base("pocket"))
        opened = open_base(base, device="cpu")
        size = opened.unet.config.sample_size * opened.vae_scale_factor
        del opened
        setting = Setting(base, People.render("benchmark", people, VIEWS, size), recipe, torch.bfloat16, device)
        about = {"people": people, "steps": steps, "device": device}
        training, rows = {}, []
        for way in tqdm(_ways(people, device), desc="train", unit="way"):
            training[way] = _train_as(way, setting)
            rows = _with_ratios(pd.DataFrame(training).T)
            _write(out, {"training": rows} | about)
        painting = {way: _in_processes(1, _paint, setting, way) for way in ("one by one", "in one batch")}
    painting = pd.DataFrame(painting).T
    _write(out, {"training": rows, "painting": painting} | about)
    print(rows.round(3).to_string(), painting.round(2).to_string(), sep="\n\n")


def _ways(people: int, device: str) -> list[str]:
    sizes = [size for size in (1, 4, 16) if size < people]
    ways = [*PEERS, *(f"fleet of {size}" for size in (*sizes, people))]
    if device == "cuda":  # where the largest may not fit
        ways += [f"compiled fleet of {size}" for size in sizes]
    ways += [f"compiled fleet of {people}", f"fp32 compiled fleet of {people}"]
    if device == "cpu":
        ways += [f"{torch.get_num_threads()} × {way}" for way in (PEERS[1], *ways[-3:])]
    return ways


def _write(out: Path, numbers: dict) -> None:
    plain = {k: json.loads(v.to_json(orient="index")) if isinstance(v, pd.DataFrame) else v for k, v in numbers.items()}
    out.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n")


def _with_ratios(training: pd.DataFrame) -> pd.DataFrame:
    for peer in PEERS:
        if peer in training.index and "model-steps/s" in training:
            training[f"over {peer}"] = training["model-steps/s"] / training.loc[peer, "model-steps/s"]
    return training


if __name__ == "__main__":
    typer.run(main)
