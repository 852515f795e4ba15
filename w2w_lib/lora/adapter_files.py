"""Adapter files that open elsewhere: PEFT folders, diffusers' LoRA files, and kohya's names (A1111, ComfyUI).

They differ in the names of their tensors and in where alpha is: PEFT keeps it in a configuration beside the file, kohya
as one number for each module, diffusers in the file's metadata, or multiplied into B. All of them are read,
ours and those that these libraries write.
"""

import json
from contextlib import ExitStack
from math import sqrt
from pathlib import Path

import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from jaxtyping import Float
from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from w2w_lib.files.atomic import replacing
from w2w_lib.lora.layout import PEFT_PREFIX, AdapterLayout

FORMATS = ("peft", "diffusers", "kohya")
PEFT_CONFIG, PEFT_FILE = "adapter_config.json", "adapter_model.safetensors"
BASE = "w2w_base"  # in our files' metadata: the fingerprint of the base that the adapter was made on
DIFFUSERS_CONFIG = "lora_adapter_metadata"  # in diffusers' metadata: PEFT's configuration


def save_adapter(
    layout: AdapterLayout, weights: Float[Tensor, " d"], path: str | Path, kind: str = "diffusers"
) -> None:
    """Write one model as a PEFT folder, a diffusers LoRA file or a kohya LoRA file, at ``path``.

    They open with ``PeftModel.from_pretrained(unet, path)``, ``pipeline.load_lora_weights(path)``, and in A1111 and
    ComfyUI. ValueError for another kind, a weights of another layout, NaN or inf; OSError where the disk is full, and
    then what was there before is as it was.
    """
    if kind not in FORMATS:
        raise ValueError(f"adapter format {kind!r}: expected one of {', '.join(FORMATS)}")
    if not torch.isfinite(weights).all():
        raise ValueError(f"{path}: weights holds NaN or infinite numbers: nothing was written")
    path = Path(path)
    factors = {key: value[0].contiguous() for key, value in layout.unflatten(weights.detach().float()[None]).items()}
    if kind == "peft":
        path.mkdir(parents=True, exist_ok=True)
        config = LoraConfig(r=layout.rank, lora_alpha=layout.alpha, target_modules=list(layout.targets), bias="none")
        _write(factors, path / PEFT_FILE, layout.base, config.to_dict())
        return
    of_unet = {f"unet.{key.removeprefix(PEFT_PREFIX)}": value for key, value in factors.items()}
    if kind == "kohya":
        tensors = convert_state_dict_to_kohya(of_unet)
        tensors |= {key: torch.tensor(layout.alpha) for key in tensors if key.endswith(".alpha")}
    else:
        tensors = {key: value * layout.scale if ".lora_B." in key else value for key, value in of_unet.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(tensors, path, layout.base)


def _write(tensors: dict[str, Tensor], file: Path, base: str, config: dict | None = None) -> None:
    """The file, and a configuration beside it: both new, or both as they were; in between there is none."""
    beside = file.with_name(PEFT_CONFIG)
    try:
        with ExitStack() as stack:  # what is entered first is replaced last
            if config is not None:
                stack.enter_context(replacing(beside)).write_text(json.dumps(config, indent=2, default=sorted))
            save_file(tensors, stack.enter_context(replacing(file)), {BASE: base})
            if config is not None:
                beside.unlink(missing_ok=True)
    except (SafetensorError, OSError) as error:
        raise OSError(f"{file}: cannot write the adapter ({error}); make room and save it again") from None


def load_adapter(layout: AdapterLayout, path: str | Path, alpha: float | None = None) -> Float[Tensor, " d"]:
    """Theta of an adapter in any of the three formats, whatever alpha it was made with.

    ``alpha`` stands in for one that a kohya file or a PEFT configuration lacks. FileNotFoundError where there is
    nothing; ValueError for a broken file, other modules or another rank than the layout's, another base, a missing
    alpha, a kind of LoRA that weights cannot hold, NaN or inf.
    """
    path = Path(path)
    file = path / PEFT_FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file}: expected a PEFT adapter folder or a LoRA safetensors file")
    tensors, metadata = _read(file)
    if metadata.get(BASE, layout.base) != layout.base:
        raise ValueError(f"{file}: an adapter of base {metadata[BASE]}, expected one of {layout.base}")
    if any(key.startswith("lora_unet_") for key in tensors):
        factors, scales = _from_kohya(layout, tensors, alpha, file)
    else:
        factors = {_peft_key(key): value for key, value in tensors.items()}
        is_peft = file.name == PEFT_FILE or any(key.startswith(PEFT_PREFIX) for key in tensors)
        if is_peft or DIFFUSERS_CONFIG in metadata:
            scale = _scale(_read_config(file, metadata), alpha, file)
        else:
            scale = 1.0  # as diffusers takes it
        scales = dict.fromkeys(factors, scale)
    ours = {k: v.float() * (scales[k] / layout.scale) if ".lora_B." in k else v.float() for k, v in factors.items()}
    try:
        weights = layout.flatten(ours)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not torch.isfinite(weights).all():
        raise ValueError(f"{file}: holds NaN or infinite numbers")
    return weights


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{file}: not a whole safetensors file ({error})") from None


def _peft_key(key: str) -> str:
    """PEFT's name of a tensor, from PEFT's or one of diffusers' two."""
    bare = key.removeprefix(PEFT_PREFIX).removeprefix("unet.")
    return PEFT_PREFIX + bare.replace(".lora.down.", ".lora_A.").replace(".lora.up.", ".lora_B.")


def _read_config(file: Path, metadata: dict[str, str]) -> dict:
    """PEFT's configuration: in diffusers' metadata, or in a file beside the weights; empty where there is none."""
    beside = file.with_name(PEFT_CONFIG)
    try:
        if DIFFUSERS_CONFIG in metadata:
            return {k.removeprefix("unet."): v for k, v in json.loads(metadata[DIFFUSERS_CONFIG]).items()}
        return json.loads(beside.read_text()) if beside.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{beside}: not a PEFT configuration ({error})") from None


def _scale(config: dict, alpha: float | None, file: Path) -> float:
    """What PEFT multiplies BA with."""
    unknown = [name for name in ("alpha_pattern", "rank_pattern", "use_dora") if config.get(name)]
    if unknown:
        raise ValueError(
            f"{file}: its configuration has {', '.join(unknown)}; expected one rank and alpha for all modules"
        )
    alpha, rank = config.get("lora_alpha") or alpha, config.get("r")
    if not alpha or not rank:
        missing = "lora_alpha" if rank else "r"
        raise ValueError(
            f"{file}: {PEFT_CONFIG} has no {missing}; expected PEFT's configuration beside the file, with r and "
            "lora_alpha (or give alpha=... if you know what it was made with)"
        )
    return alpha / (sqrt(rank) if config.get("use_rslora") else rank)


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
