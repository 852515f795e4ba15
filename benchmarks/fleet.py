"""Fleet fine-tuning against PEFT's sequential loop, and many adapters in a batch against loading them one by one.

    python benchmarks/fleet.py --steps 10 --people 64

Every way trains the same people with the same objective (one instance and one prior image a step), draws and steps,
each in a process of its own, so that its peak memory is its own. A model-step is one optimiser step of one adapter.
"""

import json
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode

from w2w_lib import profiles
from w2w_lib.adapter_files import save_adapter
from w2w_lib.base_model import CLASS_PROMPT, INSTANCE_PROMPT, encode_images, encode_prompts, fingerprint, open_base
from w2w_lib.fleet import Fleet, FleetRecipe
from w2w_lib.generate import Sampling, generate, to_pixels
from w2w_lib.layout import AdapterLayout
from w2w_lib.objective import denoising_loss, draw, stream
from w2w_lib.people import People

GEMM_SIZE, GEMM_REPEATS = 2048, 20
VIEWS = 8


@dataclass(frozen=True)
class Setting:
    """What all ways have in common."""

    base: str
    people: int
    recipe: FleetRecipe
    dtype: torch.dtype
    device: str


class Bench:
    """The base, the people and the shared class images."""

    def __init__(self, setting: Setting):
        self.recipe, self.device = setting.recipe, setting.device
        self.pipeline = open_base(setting.base, setting.dtype, setting.device)
        self.layout = AdapterLayout.of(self.pipeline.unet, fingerprint(self.pipeline), "paper")
        size = self.pipeline.unet.config.sample_size * 8
        self.people = People.render("benchmark", setting.people, VIEWS, size, workers=1)
        self.latents = self.people.latents(self.pipeline)
        count = VIEWS
        self.class_pictures = generate(
            self.pipeline, [CLASS_PROMPT] * count, range(count), sampling=Sampling(steps=4, guidance=1.0)
        )
        self.prior = encode_images(self.pipeline, to_pixels(self.class_pictures).to(self.device)).cpu()

    def sequential(self, cached: bool) -> torch.Tensor:
        """PEFT's loop, one person after the other; without ``cached`` it encodes images and prompts in every step."""
        return torch.stack([self._peft(identity, cached) for identity in self.people.ids])

    def _peft(self, identity: str, cached: bool) -> torch.Tensor:
        recipe, layout, pipeline = self.recipe, self.layout, self.pipeline
        config = LoraConfig(r=layout.rank, lora_alpha=layout.alpha, target_modules=list(layout.targets))
        model = get_peft_model(pipeline.unet, config, autocast_adapter_dtype=False)
        trained = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
        start = layout.unflatten(layout.initial(recipe.seed)[None])
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.data = start[name][0].to(self.device)
        optimizer = torch.optim.AdamW(trained.values(), recipe.learning_rate, weight_decay=recipe.weight_decay)
        rng, prompts = stream(recipe.seed, identity), (INSTANCE_PROMPT, CLASS_PROMPT)
        texts = [encode_prompts(pipeline, [prompt]) for prompt in prompts]
        pictures = self.people.of(identity), self.class_pictures
        sources = self.latents[identity], self.prior
        for _ in range(recipe.steps):
            loss = 0.0
            for kind, weight in enumerate((1.0, recipe.prior_weight)):
                latents, noise, timesteps = draw(rng, sources[kind], 1, recipe.timesteps)
                text = texts[kind]
                if not cached:
                    encode_images(pipeline, to_pixels(pictures[kind][:1]).to(self.device))
                    text = encode_prompts(pipeline, [prompts[kind]])
                batch = (x.to(self.device) for x in (latents, noise, timesteps))
                loss = loss + weight * denoising_loss(_Cast(model), pipeline.scheduler, *batch, text).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained.values(), recipe.clip_norm)
            optimizer.step()
        theta = layout.flatten({n: p.detach().float().cpu() for n, p in trained.items()})
        model.unload()
        return theta

    def fleet(self, size: int) -> torch.Tensor:
        """The fleet, ``size`` people at a time."""
        fleet, ids = Fleet(self.pipeline, self.layout, self.recipe, self.prior), self.people.ids
        parts = [ids[start : start + size] for start in range(0, len(ids), size)]
        return torch.cat([fleet.train({i: self.latents[i] for i in part})[0].cpu() for part in parts])

    def flops_per_step(self) -> int:
        """Floating-point operations of one model-step, counted by PyTorch."""
        one = replace(self.recipe, steps=1)
        with FlopCounterMode(display=False) as counter:
            Fleet(self.pipeline, self.layout, one, self.prior).train(dict(list(self.latents.items())[:1]))
        return counter.get_total_flops()


class _Cast:
    """A PEFT model whose adapters are in fp32 over a base that computes in another precision."""

    def __init__(self, model):
        self.model = model

    def parameters(self):
        return self.model.base_model.model.conv_in.parameters()

    def __call__(self, *inputs):
        return self.model(*inputs)


def _way(setting: Setting, way: str) -> dict[str, float]:
    bench = Bench(setting)
    run = {"examples": lambda: bench.sequential(False), "cached": lambda: bench.sequential(True)}.get(way)
    run = run or (lambda: bench.fleet(int(way)))
    warm_up, bench.recipe = bench.recipe, replace(bench.recipe, steps=1)
    run()
    bench.recipe = warm_up
    began = time.perf_counter()
    theta = run()
    seconds = time.perf_counter() - began
    steps = setting.people * setting.recipe.steps
    on_gpu = setting.device == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "model-steps/s": steps / seconds,
        "TFLOP/s": steps / seconds * bench.flops_per_step() / 1e12,
        "GEMM TFLOP/s": _gemm(setting) / 1e12,
        "peak GB": peak / 1e9,
        "|theta|": float(theta.norm(dim=1).mean()),
    }


def _gemm(setting: Setting) -> float:
    a = torch.randn(GEMM_SIZE, GEMM_SIZE, dtype=setting.dtype, device=setting.device)
    for repeats in (3, GEMM_REPEATS):  # the first to warm up
        began = time.perf_counter()
        for _ in range(repeats):
            result = a @ a
        result.sum().item()
        seconds = (time.perf_counter() - began) / repeats
    return 2 * GEMM_SIZE**3 / seconds


def _painting(setting: Setting, way: str) -> dict[str, float]:
    bench = Bench(replace(setting, recipe=replace(setting.recipe, steps=1)))
    theta = bench.fleet(setting.people)
    sampling, ids = Sampling(batch_size=setting.people), range(setting.people)
    prompts = [INSTANCE_PROMPT] * setting.people
    began = time.perf_counter()
    if way == "one batch":
        generate(bench.pipeline, prompts, list(ids), bench.layout, theta.to(setting.device), sampling=sampling)
    else:
        with tempfile.TemporaryDirectory() as folder:
            for i in ids:
                save_adapter(bench.layout, theta[i], Path(folder) / f"{i}.safetensors")
                bench.pipeline.load_lora_weights(folder, weight_name=f"{i}.safetensors")
                generate(bench.pipeline, prompts[:1], [i], sampling=sampling)
                bench.pipeline.unload_lora_weights()
    return {"images/s": setting.people / (time.perf_counter() - began)}


def _alone(function, *arguments):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main(
    base: Annotated[str, typer.Option(help="Folder or hub id of the base model.")] = "",
    people: Annotated[int, typer.Option(help="Adapters to train each way.")] = 64,
    steps: Annotated[int, typer.Option(help="Steps of each adapter.")] = 10,
    sizes: Annotated[str, typer.Option(help="Fleet sizes.")] = "1,4,16,64",
    out: Annotated[Path, typer.Option(help="Where the numbers go.")] = Path("benchmarks/fleet.json"),
) -> None:
    """Measure and print both tables, and write them as JSON."""
    recipe = FleetRecipe(steps=steps, learning_rate=0.0125, instance_batch=1, prior_batch=1, prior_weight=1.0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    setting = Setting(base or str(profiles.base("pocket")), people, recipe, torch.bfloat16, device)
    ways = {"PEFT, as its examples": "examples", "PEFT, cached": "cached"}
    ways |= {f"fleet of {size}": size for size in sizes.split(",")}
    training = pd.DataFrame({name: _alone(_way, setting, way) for name, way in ways.items()}).T
    training["over cached PEFT"] = training["model-steps/s"] / training.loc["PEFT, cached", "model-steps/s"]
    training["of GEMM rate"] = training["TFLOP/s"] / training["GEMM TFLOP/s"]
    painting = pd.DataFrame({way: _alone(_painting, setting, way) for way in ("one by one", "one batch")}).T
    print(training.round(3).to_string(), painting.round(2).to_string(), sep="\n\n")
    tables = {"training": training.to_dict("index"), "painting": painting.to_dict("index")}
    out.write_text(json.dumps(tables | {"people": people, "steps": steps, "device": device}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
