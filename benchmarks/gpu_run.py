"""A short run of the profile sd15's path from end to end: import, sample, edit, paint, invert, and files for others."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from diffusers import StableDiffusionPipeline
from gpu_space import import_into, synthetic_release
from peft import PeftModel
from torch import Tensor
from workplace import Workplace, layout_of, opened, random_latents

from w2w_lib.lora.adapter_files import FORMATS, save_adapter
from w2w_lib.lora.batched import apply_adapters
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.images import encode_images
from w2w_lib.models.prompts import INSTANCE_PROMPT, encode_prompts
from w2w_lib.models.sampling import generate
from w2w_lib.release.importing import on_base, open_import
from w2w_lib.space.directions import fit_directions
from w2w_lib.space.inversion import invert
from w2w_lib.space.inversion_recipes import RECIPES

LABEL, PEOPLE, STRENGTHS = "Smiling", 2, (-2.0, 0.0, 2.0)  # in standard deviations of the training models
TIMESTEP = 500


class Stopwatch:
    """Seconds of named parts."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[f"{part}_seconds"] = time.perf_counter() - began


def end_to_end(place: Workplace) -> dict:
    """Seconds of every part, and whether edits, inversion and files do what they should."""
    part, out = Stopwatch(), place.folder / "imported"
    with part("open_base"):
        pipeline = opened(place)
    with part("import"):
        import_into(place, synthetic_release(place), out)
        space, labels = open_import(out)
        space = on_base(space, pipeline)
    with part("fit_direction"):
        direction = fit_directions(space, labels[[LABEL]])[LABEL]
    with part("sample_and_edit"):
        people = space.unproject(space.sample(PEOPLE, seed=0))
        steps = torch.stack([direction.step(space, strength) for strength in STRENGTHS])
        edited = (people[:, None] + steps).flatten(0, 1)
    with part("paint"):
        seeds = [seed for seed in range(PEOPLE) for _ in STRENGTHS]
        prompts = [INSTANCE_PROMPT] * len(seeds)
        pictures = generate(pipeline, prompts, seeds, space.layout, edited, sampling=place.sizes.sampling)
    with part("invert"):
        recipe = replace(RECIPES["paper"], steps=place.sizes.inversion_steps)
        found, losses = invert(pipeline, space, encode_images(pipeline, pictures[:1]), recipe, progress=False)
    with part("files"):
        differences = files_elsewhere(place, space.unproject(found)[0])
    low, _, high = (pictures[i :: len(STRENGTHS)].astype(float) for i in range(len(STRENGTHS)))
    return part.seconds | {
        "pictures": len(pictures),
        "grey_levels_between_edits": float(abs(high - low).mean()),
        "mean_loss_of_inversion": float(losses.mean()),
        **differences,
    }


@torch.no_grad()
def files_elsewhere(place: Workplace, weights: Tensor) -> dict:
    """How far the UNet's output, in fp32, is from ours with the adapter that others load from each of our formats.

    As shares of its largest number; what the adapter changes is beside them.
    """
    torch.backends.cudnn.allow_tf32 = False
    pipeline = opened(place, torch.float32)
    layout = layout_of(pipeline)
    text = encode_prompts(pipeline, [INSTANCE_PROMPT] * 2)
    inputs = random_latents(pipeline, 2).to(pipeline.device), torch.tensor(TIMESTEP, device=pipeline.device), text
    bare = pipeline.unet(*inputs).sample
    with apply_adapters(pipeline.unet, layout, weights[None].to(pipeline.device)):
        ours = pipeline.unet(*inputs).sample
    found = {"relative_change_by_adapter": bare}
    for kind in FORMATS:
        with TemporaryDirectory() as folder:
            found[f"relative_difference_{kind}"] = _loaded(pipeline, layout, weights, kind, Path(folder), inputs)
    return {name: float((output - ours).abs().max() / ours.abs().max()) for name, output in found.items()}


def _loaded(
    pipeline: StableDiffusionPipeline, layout: AdapterLayout, weights: Tensor, kind: str, folder: Path, inputs: tuple
) -> Tensor:
    """The UNet's output with the adapter as PEFT or diffusers loads it."""
    if kind == "peft":
        save_adapter(layout, weights, folder, kind)
        model = PeftModel.from_pretrained(pipeline.unet, folder)
        output = model(*inputs).sample
        model.unload()
        return output
    save_adapter(layout, weights, folder / f"{kind}.safetensors", kind)
    pipeline.load_lora_weights(folder, weight_name=f"{kind}.safetensors")
    output = pipeline.unet(*inputs).sample
    pipeline.unload_lora_weights()
    return output
