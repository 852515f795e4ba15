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
from measuring import flops_of, forget_peak_memory, gemm_rate, peak_memory
from peers import paint_one_by_one, train_with_peft
from tqdm import tqdm

from w2w_lib.lora.batched import apply_adapters
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.base import open_base
from w2w_lib.models.denoising import denoising_loss
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.models.images import encode_images, to_pixels
from w2w_lib.models.prompts import CLASS_PROMPT, INSTANCE_PROMPT, encode_prompts
from w2w_lib.models.sampling import Sampling, generate
from w2w_lib.people.people_set import People
from w2w_lib.release.random_base import FULL, write_random_base
from w2w_lib.training.fleet import Fleet
from w2w_lib.training.memory import halved_fleet
from w2w_lib.training.recipe import FleetRecipe
from w2w_lib.workbook import profiles
from w2w_lib.workbook.lifetime import ends_together

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
        def sources() -> tuple[torch.Tensor, ...]:
            if cached:
                return self.latents[identity], self.prior, self.text
            # the examples encode what a step needs when it needs it; here the pictures of one batch
            own = self._encode(self.people.of(identity)[:1]).expand(VIEWS, -1, -1, -1)
            text = encode_prompts(self.pipeline, [INSTANCE_PROMPT, CLASS_PROMPT])
            return own, self._encode(self.class_pictures[:1]), text

        weights, preparing = train_with_peft(self.pipeline, self.layout, self.recipe, identity, sources, steps)
        self.preparing += preparing
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
        return flops_of(lambda: one.train(dict(list(self.latents.items())[:1])))

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


def _train(setting: Setting, way: str) -> dict[str, float]:
    bench = Bench(setting)
    flops = bench.flops_per_step()
    torch.backends.cudnn.allow_tf32 = setting.dtype != torch.float32  # fp32 is fp32, as in the product beside it
    _barrier.wait()
    gemm = gemm_rate(setting.device, setting.dtype)
    bench.run(way, steps=1)  # caches, compilation
    rates = []
    forget_peak_memory(setting.device)
    for _ in range(REPEATS):
        _barrier.wait()
        bench.preparing, began = 0.0, time.perf_counter()
        weights = bench.run(way, setting.recipe.steps)  # ends with weights on the CPU, so a GPU is done
        rates.append(len(weights) * setting.recipe.steps / (time.perf_counter() - began - bench.preparing))
    rate = float(np.median(rates))
    return {
        "model-steps/s": rate,
        "spread": (max(rates) - min(rates)) / rate,
        "samples/s": 2 * rate,
        "models an hour": 3600 * rate / STEPS_OF_A_MODEL,
        "TFLOP/s": rate * flops / 1e12,
        "of GEMM rate": rate * flops / gemm,
        "peak GB": peak_memory(setting.device) / 1e9,
        "loss": bench.loss(weights),
    }


def _paint(setting: Setting, way: str) -> dict[str, float]:
    bench = Bench(setting)
    count = min(PAINTED, len(setting.people.ids))
    weights = 0.01 * torch.randn(count, bench.layout.dimension, generator=torch.Generator().manual_seed(0))
    prompts = [INSTANCE_PROMPT] * count
    sampling = Sampling(batch_size=count)
    began = time.perf_counter()
    if way == "in one batch":
        generate(bench.pipeline, prompts, range(count), bench.layout, weights, sampling=sampling)
    else:
        with tempfile.TemporaryDirectory() as folder:
            paint_one_by_one(bench.pipeline, bench.layout, weights, prompts, sampling, folder)
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


@ends_together()
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
        if random_sd15:
            base = str(write_random_base(folder, FULL, torch.bfloat16))
        base = base or str(profiles.base("pocket"))
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
