"""What a base model's folder must contain: its index and its files, before anything is loaded."""

import json
from pathlib import Path
from typing import Any

import diffusers
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from w2w_lib.files.regular import regular_file
from w2w_lib.inputs import some
from w2w_lib.pocket.codec import PatchCodec

EXPECTED = "a base model: a folder that StableDiffusionPipeline.save_pretrained wrote"
REMEDY = "give such a folder, or the name of such a model on the Hugging Face hub"
# The only classes that are ever made of what a folder names, and the modules that it may name for them.
CLASSES = {
    "unet": {"UNet2DConditionModel": UNet2DConditionModel},
    "vae": {"AutoencoderKL": AutoencoderKL, "PatchCodec": PatchCodec},
    "text_encoder": {"CLIPTextModel": CLIPTextModel},
    "tokenizer": {"CLIPTokenizer": CLIPTokenizer, "CLIPTokenizerFast": CLIPTokenizer},
}
MODULES = ("diffusers", "transformers", PatchCodec.__module__, "w2w_lib.codec")  # the last: PatchCodec's former one
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))  # files, one set of which holds the vocabulary
SETTINGS = (  # the files of a base beside its weights
    "model_index.json",
    "scheduler/scheduler_config.json",
    *(f"{part}/config.json" for part in WEIGHTS),
    *(f"tokenizer/{name}" for files in TOKENIZERS for name in files),
    *(f"tokenizer/{name}" for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")),
)
READ = (".json", ".txt", ".safetensors")  # endings of the files that are opened


def needed(variant: str | None = None) -> list[str]:
    """The files of a base on the hub: without a variant the plain weights, else the variant's."""
    return [*SETTINGS, *(f"{part}/{_named(weights, variant)}" for part, weights in WEIGHTS.items())]


def weights_file(folder: Path, variant: str | None) -> Path:
    """The weights of a component: the variant's where they are there, as diffusers names them, else the plain ones."""
    of_variant = folder / _named(WEIGHTS[folder.name], variant)
    return of_variant if of_variant.exists() else folder / WEIGHTS[folder.name]


def _named(weights: str, variant: str | None) -> str:
    return weights if variant is None else weights.replace(".safetensors", f".{variant}.safetensors")


def check_index(folder: Path) -> dict[str, type]:
    """The class of each component that ``model_index.json`` names; ValueError for other classes, none is imported."""
    path = folder / "model_index.json"
    index = read_json(path, EXPECTED)
    if index.get("_class_name") != "StableDiffusionPipeline":
        raise ValueError(f"{path}: of class {index.get('_class_name')!r}; expected StableDiffusionPipeline; {REMEDY}")
    return {name: _class_of(path, name, index.get(name)) for name in (*CLASSES, "scheduler")}


def _class_of(path: Path, name: str, entry: Any) -> type:
    module, cls = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
    if name == "scheduler":
        found = getattr(diffusers, cls, None) if module == "diffusers" and isinstance(cls, str) else None
        found = found if isinstance(found, type) and issubclass(found, SchedulerMixin) else None
        expected = "a scheduler of diffusers"
    else:
        found = CLASSES[name].get(cls) if module in MODULES and isinstance(cls, str) else None
        expected = " or ".join(CLASSES[name])
    if found is None:
        raise ValueError(f"{path}: its {name} is {entry!r}; expected {expected}; {REMEDY}")
    return found


def check_files(folder: Path, variant: str | None = None) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; expected {EXPECTED}; {REMEDY}")
    for path in sorted(folder.iterdir()):
        if path.suffix in READ and not path.name.startswith("."):
            regular_file(path, "a file of a base model", REMEDY)
    if folder.name in WEIGHTS:
        _check_weights_file(weights_file(folder, variant))
    elif folder.name == "tokenizer" and not any(
        all((folder / name).exists() for name in files) for files in TOKENIZERS
    ):
        raise FileNotFoundError(
            f"{folder}: no vocabulary; expected tokenizer.json, or vocab.json and merges.txt; {REMEDY}"
        )


def _check_weights_file(path: Path) -> None:
    folder, name = path.parent, path.name
    if path.with_name(f"{name}.index.json").exists():
        raise ValueError(
            f"{folder}: weights in several files; expected one, {name}; save them with a larger max_shard_size"
        )
    if not path.exists() and (others := sorted(other.name for other in folder.glob("*model*.*") if other.name != name)):
        raise FileNotFoundError(
            f"{folder}: weights as {some(others)}; expected {name}, as pickled files may run code; name a variant "
            '(variant="fp16"), or open the model where you trust it and save it with '
            "save_pretrained(safe_serialization=True)"
        )
    regular_file(path, "the weights of a base model", REMEDY)


def read_json(path: Path, expected: str) -> dict[str, Any]:
    regular_file(path, expected, REMEDY)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is no JSON ({first_line(error)}); expected {expected}; {REMEDY}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: is a {type(found).__name__}; expected a JSON object; {REMEDY}")
    return found


def first_line(error: Any) -> str:
    """The first line of an error, or what it is."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
