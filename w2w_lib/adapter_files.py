"""Adapter files that open elsewhere: PEFT folders, diffusers' LoRA files, and kohya's names (A1111, ComfyUI).

They differ in the names of their tensors and in where alpha is: PEFT keeps it in a configuration beside the file, kohya
as one number for each module, and a diffusers file has it multiplied into B. Any of them is read back into theta.
"""

import json
from pathlib import Path

import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from jaxtyping import Float
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from w2w_lib.layout import PEFT_PREFIX, AdapterLayout

FORMATS = ("peft", "diffusers", "kohya")
PEFT_CONFIG, PEFT_FILE = "adapter_config.json", "adapter_model.safetensors"
BASE = "w2w_base"  # in our files' metadata: the fingerprint of the base that the adapter was made on


def save_adapter(layout: AdapterLayout, theta: Float[Tensor, " d"], path: str | Path, kind: str = "diffusers") -> None:
    """Write one model as a PEFT folder, a diffusers LoRA file or a kohya LoRA file, at ``path``.

    They open with ``PeftModel.from_pretrained(unet, path)``, ``pipeline.load_lora_weights(path)``, and in A1111 and
    ComfyUI. ValueError for another kind, a theta of another layout, NaN or inf.
    """
    if kind not in FORMATS:
        raise ValueError(f"adapter format {kind!r}: expected one of {', '.join(FORMATS)}")
    if not torch.isfinite(theta).all():
        raise ValueError(f"{path}: theta holds NaN or infinite numbers: nothing was written")
    path = Path(path)
    factors = {key: value[0].contiguous() for key, value in layout.unflatten(theta.detach().float()[None]).items()}
    if kind == "peft":
        path.mkdir(parents=True, exist_ok=True)
        config = LoraConfig(r=layout.rank, lora_alpha=layout.alpha, target_modules=list(layout.targets), bias="none")
        config.save_pretrained(str(path))
        save_file(factors, path / PEFT_FILE, {BASE: layout.base})
        return
    of_unet = {f"unet.{key.removeprefix(PEFT_PREFIX)}": value for key, value in factors.items()}
    if kind == "kohya":
        tensors = convert_state_dict_to_kohya(of_unet)
        tensors |= {key: torch.tensor(layout.alpha) for key in tensors if key.endswith(".alpha")}
    else:
        tensors = {key: value * layout.scale if ".lora_B." in key else value for key, value in of_unet.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {BASE: layout.base})


def load_adapter(layout: AdapterLayout, path: str | Path, alpha: float | None = None) -> Float[Tensor, " d"]:
    """Theta of an adapter in any of the three formats, whatever alpha it was made with.

    ``alpha`` stands in for one that a kohya file lacks. FileNotFoundError where there is nothing; ValueError for a
    broken file, other modules or another rank than the layout's, another base, a missing alpha, NaN or inf.
    """
    path = Path(path)
    file = path / PEFT_FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected a PEFT adapter folder or a LoRA safetensors file")
    tensors, metadata = _read(file)
    if metadata.get(BASE, layout.base) != layout.base:
        raise ValueError(f"{file}: an adapter of base {metadata[BASE]}, expected one of {layout.base}")
    if path.is_dir():
        config = json.loads((path / PEFT_CONFIG).read_text())
        factors, scales = tensors, dict.fromkeys(tensors, config["lora_alpha"] / config["r"])
    elif any(key.startswith("lora_unet_") for key in tensors):
        factors, scales = _from_kohya(layout, tensors, alpha, file)
    else:
        factors = {PEFT_PREFIX + key.removeprefix("unet."): value for key, value in tensors.items()}
        scales = dict.fromkeys(factors, 1.0)
    ours = {k: v.float() * (scales[k] / layout.scale) if ".lora_B." in k else v.float() for k, v in factors.items()}
    try:
        theta = layout.flatten(ours)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not torch.isfinite(theta).all():
        raise ValueError(f"{file}: holds NaN or infinite numbers")
    return theta


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{file}: not a whole safetensors file ({error})") from None


def _from_kohya(
    layout: AdapterLayout, tensors: dict[str, Tensor], alpha: float | None, file: Path
) -> tuple[dict[str, Tensor], dict[str, float]]:
    modules = {f"lora_unet_{f.module.replace('.', '_')}": f.module for f in layout.factors}
    factors, scales = {}, {}
    for key, value in tensors.items():
        name, kind = key.split(".", 1)
        if kind == "alpha":
            continue
        own = tensors.get(f"{name}.alpha", None if alpha is None else torch.tensor(alpha))
        if own is None:
            raise ValueError(f"{file}: {name}.alpha is missing; give alpha=... if you know what it was made with")
        letter = {"lora_down.weight": "A", "lora_up.weight": "B"}.get(kind, kind)
        key = f"{PEFT_PREFIX}{modules.get(name, name)}.lora_{letter}.weight"
        factors[key], scales[key] = value, float(own) / layout.rank
    return factors, scales
