"""The card itself, and fleets of adapters on it beside PEFT's loop."""

import platform
import subprocess
import time
from functools import cache, partial

import diffusers
import peft
import torch
from measuring import flops_of, forget_peak_memory, gemm_rate, peak_memory
from peers import train_with_peft
from workplace import Workplace, layout_of, opened, random_latents

from w2w_lib.models.prompts import CLASS_PROMPT, INSTANCE_PROMPT, encode_prompts
from w2w_lib.training.fleet import Fleet
from w2w_lib.training.memory import halved_fleet
from w2w_lib.training.recipe import FleetRecipe
from w2w_lib.workbook import paths

STEPS_OF_A_MODEL = 800  # of the profile sd15, whose recipe this is
RECIPE = partial(FleetRecipe, learning_rate=1e-4, instance_batch=1, prior_batch=1, prior_weight=1.0)
PICTURES = 8  # of a person, and of the class
GIB = 2**30


def card(place: Workplace) -> dict:
    """What the card is, and the rate of large matrix products that shares of its peak refer to."""
    versions = {"torch": torch.__version__, "diffusers": diffusers.__version__, "peft": peft.__version__}
    found = {"name": platform.processor(), "commit": _commit(), "python": platform.python_version()} | versions
    if place.device == "cuda":
        about = torch.cuda.get_device_properties(0)
        found |= {
            "name": about.name,
            "memory_gib": about.total_memory / GIB,
            "capability": f"{about.major}.{about.minor}",
            "multiprocessors": about.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
    rates = {"bf16": torch.bfloat16, "fp32": torch.float32}
    return found | {f"{name}_gemm_tflops": gemm_rate(place.device, dtype) / 1e12 for name, dtype in rates.items()}


def _commit() -> str:
    """The commit of this checkout, marked where files differ from it; empty without Git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    return subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True).stdout.strip()


def fleet(place: Workplace, size: int, compiled: bool, checkpointing: bool) -> dict:
    """Seconds and memory of a step of ``size`` adapters; or that they do not fit into the memory."""
    kind = {"way": "fleet", "models": size, "compiled": compiled, "checkpointing": checkpointing}
    try:
        return kind | _fleet(place, size, compiled, checkpointing)
    except (RuntimeError, MemoryError) as error:
        halved_fleet(2, error)  # raises what is not for want of memory
        return kind | {"out_of_memory": True}


def _fleet(place: Workplace, size: int, compiled: bool, checkpointing: bool) -> dict:
    flops, gemm = _references(place)
    pipeline, sizes, ends = opened(place), place.sizes, []
    recipe = RECIPE(steps=sizes.warm_steps + sizes.timed_steps)
    latents = {f"person-{i}": random_latents(pipeline, PICTURES, 1 + i) for i in range(size)}
    torch.compiler.reset()  # fleets of other sizes
    trainer = Fleet(pipeline, layout_of(pipeline), recipe, random_latents(pipeline, PICTURES), compiled, checkpointing)
    forget_peak_memory(place.device)
    began = time.perf_counter()
    trainer.train(latents, on_step=lambda *_: ends.append(time.perf_counter()))  # losses are on the CPU by then
    seconds = (ends[-1] - ends[sizes.warm_steps - 1]) / sizes.timed_steps
    return {"first_step_seconds": ends[0] - began} | _rates(place, seconds, size, flops, gemm)


def peft_loop(place: Workplace) -> dict:
    """The same for PEFT's loop of one person after the other, latents and text states kept."""
    flops, gemm = _references(place)
    pipeline, steps = opened(place), place.sizes.timed_steps
    text = encode_prompts(pipeline, [INSTANCE_PROMPT, CLASS_PROMPT])
    cached = random_latents(pipeline, PICTURES, 1), random_latents(pipeline, PICTURES), text
    train = partial(train_with_peft, pipeline, layout_of(pipeline), RECIPE(), "person-0", lambda: cached)
    train(place.sizes.warm_steps)
    forget_peak_memory(place.device)
    began = time.perf_counter()
    _, preparing = train(steps)
    seconds = (time.perf_counter() - began - preparing) / steps
    kind = {"way": "PEFT's loop", "models": 1, "compiled": False, "checkpointing": False}
    return kind | _rates(place, seconds, 1, flops, gemm)


@cache
def _references(place: Workplace) -> tuple[int, float]:
    """Operations of a step of one adapter, forward and backward, without checkpointing; rate of matrix products."""
    pipeline = opened(place)
    one = Fleet(pipeline, layout_of(pipeline), RECIPE(steps=1), random_latents(pipeline, PICTURES))
    flops = flops_of(lambda: one.train({"person-0": random_latents(pipeline, PICTURES, 1)}))
    return flops, gemm_rate(place.device, torch.bfloat16)


def _rates(place: Workplace, seconds: float, models: int, flops: int, gemm: float) -> dict:
    rate = models * flops / seconds
    return {
        "seconds_per_step": seconds,
        "models_per_hour": 3600 * models / (seconds * STEPS_OF_A_MODEL),
        "tflops": rate / 1e12,
        "share_of_gemm": rate / gemm,
        "peak_memory_gib": peak_memory(place.device) / GIB,
    }
