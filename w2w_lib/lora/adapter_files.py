"""Adapter files that open elsewhere: PEFT folders, diffusers' LoRA files, and kohya's names (A1111, ComfyUI).

They differ in the names of their tensors and in where alpha is: PEFT keeps it in a configuration beside the file, kohya
as one number for each module, diffusers in the file's metadata, or multiplied into B. All of them are read,
ours and those that these libraries write. Names, shapes and types are checked in a file's header, before its numbers
are read.
"""

import json
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from math import sqrt
from pathlib import Path
from typing import Annotated

import torch
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from jaxtyping import Float
from peft import LoraConfig
from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from w2w_lib.files.atomic import destination, make_folder, replacing
from w2w_lib.files.regular import regular_file
from w2w_lib.files.tensors import finite, floating
from w2w_lib.inputs import SHOWN, a_path, described, explain, finite_number, instance, nearest
from w2w_lib.lora.layout import PEFT_PREFIX, AdapterLayout

FORMATS = ("peft", "diffusers", "kohya")
PEFT_CONFIG, PEFT_FILE = "adapter_config.json", "adapter_model.safetensors"
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
BASE = "w2w_base"  # in our files' metadata: the fingerprint of the base that the adapter was made on
DIFFUSERS_CONFIG = "lora_adapter_metadata"  # in diffusers' metadata: PEFT's configuration
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")
FLOATS, WHOLE = ("F16", "BF16", "F32", "F64"), ("I64", "I32", "I16", "I8", "U8")
TEXT_ENCODERS = ("text_encoder", "lora_te", "te1.", "te2.")
KOHYA_PREFIX, KOHYA_ALPHA = "lora_unet_", ".alpha"
OTHER_KINDS = re.compile(r"magnitude_vector|dora_scale|hada_|lokr_|oft_|lora_mid|lora_embedding|\.diff|\.bias$")
LORA_KEY = re.compile(  # with the adapter's name or without, as PEFT, diffusers (two ways) and kohya write it
    r"(?P<module>.+)(?:\.lora_(?P<letter>[AB])(?:\.(?!weight$)[^.]+)?|[._]lora[._](?P<way>down|up))\.weight"
)
EXPECTED = "a LoRA of the UNet as a safetensors file or a PEFT folder"
REMEDY = "give another file"
LARGEST_CONFIG = 2**24  # bytes; PEFT's configurations are of a few kilobytes


class PeftConfig(BaseModel):
    """What a vector of weights can hold of PEFT's configuration: one rank and one alpha for all modules."""

    r: Annotated[int, Field(ge=1, strict=True)]
    lora_alpha: Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
    use_rslora: bool = False

    @property
    def scale(self) -> float:
        """What PEFT multiplies BA with."""
        return self.lora_alpha / (sqrt(self.r) if self.use_rslora else self.r)


def save_adapter(
    layout: AdapterLayout, weights: Float[Tensor, " d"], path: str | Path, kind: str = "diffusers"
) -> None:
    """Write one model as a PEFT folder, a diffusers LoRA file or a kohya LoRA file, at ``path``.

    They open with ``PeftModel.from_pretrained(unet, path)``, ``pipeline.load_lora_weights(path)``, and in A1111 and
    ComfyUI. ValueError for another kind, weights of another layout, NaN or infinite numbers, and where something
    else is at ``path``; OSError where it cannot be written. What was there before is then as it was.
    """
    if kind not in FORMATS:
        raise ValueError(f"adapter format {kind!r}{nearest(str(kind), FORMATS)}")
    instance("layout", layout, AdapterLayout, "the AdapterLayout of the weights")
    path = a_path(path, "a file for the adapter")
    if path.suffix.lower() in PICKLES:
        raise ValueError(f"{path}: is the name of a pickle; expected one that ends in .safetensors, or a folder's")
    one_model = f"({layout.dimension},) numbers, one model of this layout"
    if floating(f"{path}: weights", weights).shape != (layout.dimension,):
        raise ValueError(f"{path}: weights of shape {tuple(weights.shape)}: expected {one_model}")
    factors = {
        key: value[0].contiguous() for key, value in layout.unflatten(weights.detach().cpu().float()[None]).items()
    }
    if kind == "peft":
        config = LoraConfig(r=layout.rank, lora_alpha=layout.alpha, target_modules=list(layout.targets), bias="none")
        _write(factors, path / PEFT_FILE, layout.base, config.to_dict())
        return
    of_unet = {f"unet.{key.removeprefix(PEFT_PREFIX)}": value for key, value in factors.items()}
    if kind == "kohya":
        tensors = convert_state_dict_to_kohya(of_unet)
        tensors |= {key: torch.tensor(layout.alpha) for key in tensors if key.endswith(KOHYA_ALPHA)}
    else:
        tensors = {key: value * layout.scale if ".lora_B." in key else value for key, value in of_unet.items()}
    _write(tensors, path, layout.base)


def _write(tensors: dict[str, Tensor], file: Path, base: str, config: dict | None = None) -> None:
    """The file, and a configuration beside it: both new, or both as they were; in between there is none."""
    if not all(map(finite, tensors.values())):
        raise ValueError(
            f"{file}: the weights hold NaN or infinite numbers, in fp32 and at this alpha: nothing was written; "
            "expected finite ones"
        )
    beside = destination(file).with_name(PEFT_CONFIG)
    make_folder(file.parent)
    try:
        with ExitStack() as stack:  # what is entered first is replaced last
            if config is not None:
                stack.enter_context(replacing(beside)).write_text(json.dumps(config, indent=2, default=sorted))
            save_file(tensors, stack.enter_context(replacing(file)), {BASE: base})
            if config is not None:
                beside.unlink(missing_ok=True)
    except (SafetensorError, OSError) as error:
        raise OSError(
            f"{file}: cannot write the adapter ({error}); make room or give a folder that may be written"
        ) from None


def load_adapter(layout: AdapterLayout, path: str | Path, alpha: float | None = None) -> Float[Tensor, " d"]:
    """Weights of an adapter in any of the three formats, whatever alpha it was made with.

    ``alpha`` stands in for one that a kohya file or a PEFT configuration lacks. FileNotFoundError where there is
    nothing; ValueError for what is no whole safetensors file, other modules or another rank than the layout's, another
    base, a missing alpha, adapters of the text encoder, a kind of adapter that is no plain LoRA, NaN or infinite
    numbers.
    """
    instance("layout", layout, AdapterLayout, "the AdapterLayout that the weights are to have")
    if alpha is not None and finite_number("alpha", alpha) <= 0:
        raise ValueError(f"alpha: expected a number above 0, found {alpha!r}")
    file = regular_file(_file_of(a_path(path, EXPECTED)), EXPECTED, REMEDY)
    try:
        with safe_open(file, framework="np") as header:  # PyTorch would ask for the memory of the whole file
            metadata = header.metadata() or {}
            keys, alphas = _checked_names(layout, header, metadata)
        with safe_open(file, framework="pt") as opened:
            return _read(layout, opened, keys, _scales(layout, opened, keys, alphas, alpha, file, metadata))
    except SafetensorError as error:
        raise ValueError(f"{file}: is no whole safetensors file ({error}); expected {EXPECTED}; {REMEDY}") from None
    except ValueError as error:  # the file's own names may be of several lines
        raise ValueError(f"{file}: {' '.join(str(error).splitlines())}") from None


def _file_of(path: Path) -> Path:
    if path.suffix.lower() in PICKLES:
        raise ValueError(
            f"{path}: is a pickle, which may run code when it is opened; expected {EXPECTED}; convert it with the "
            "program that made it"
        )
    if not os.path.isdir(path):
        return path
    places = [path / part / name for part in ("", "unet") for name in (PEFT_FILE, DIFFUSERS_FILE)]
    if not (there := [place for place in places if os.path.lexists(place)]):
        raise FileNotFoundError(
            f"{path}: a folder without {PEFT_FILE} or {DIFFUSERS_FILE}; expected {EXPECTED}; {REMEDY}"
        )
    return there[0]


def _checked_names(
    layout: AdapterLayout, header: safe_open, metadata: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The file's names of the factors by PEFT key, and of kohya's alphas by module; ValueError for another adapter."""
    if metadata.get(BASE, layout.base) != layout.base:
        own = metadata[BASE][:SHOWN]
        raise ValueError(f"an adapter of base {own}, expected one of {layout.base}; open the base that it was made on")
    keys, alphas = _sorted_out(layout, header)
    layout.check_shapes({key: tuple(header.get_slice(name).get_shape()) for key, name in keys.items()})
    if unknown := sorted(alphas.keys() - {factor.module for factor in layout.factors}):
        raise ValueError(f"{alphas[unknown[0]]} is of a module that is not in the layout")
    return keys, alphas


def _read(
    layout: AdapterLayout, opened: safe_open, keys: Mapping[str, str], scales: Mapping[str, float]
) -> Float[Tensor, " d"]:
    factors = {}
    for factor in layout.factors:
        tensor = opened.get_tensor(keys[factor.key]).float()
        if not finite(tensor):
            raise ValueError(
                f"tensor {keys[factor.key]!r} holds NaN or infinite numbers; expected finite ones; {REMEDY}"
            )
        factors[factor.key] = tensor if factor.is_down else tensor * (scales[factor.module] / layout.scale)
    weights = layout.flatten(factors)
    if not finite(weights):
        raise ValueError("the weights are infinite at this layout's alpha; expected finite ones; use another alpha")
    return weights


def _scales(layout, opened, keys, alphas, alpha: float | None, file: Path, metadata) -> dict[str, float]:
    """By module, what its BA is multiplied with in the file's format."""
    names = keys.values()
    if any(name.startswith(KOHYA_PREFIX) for name in names):
        return _kohya_scales(layout, opened, alphas, alpha)
    is_peft = file.name == PEFT_FILE or any(name.startswith(PEFT_PREFIX) for name in names)
    scale = 1.0  # of a diffusers file without a configuration
    if is_peft or DIFFUSERS_CONFIG in metadata:
        scale = _peft_scale(layout, *_config_text(file, metadata), alpha)
    return {factor.module: scale for factor in layout.factors}


def _sorted_out(layout: AdapterLayout, opened: safe_open) -> tuple[dict[str, str], dict[str, str]]:
    kohya_modules = {factor.module.replace(".", "_"): factor.module for factor in layout.factors}
    keys, alphas, names = {}, {}, sorted(opened.keys())
    if not names:
        raise ValueError(f"has no tensors; expected {EXPECTED}; {REMEDY}")
    for name in names:
        if name.startswith(TEXT_ENCODERS):
            raise ValueError(
                f"tensor {name!r} is of the text encoder: weights hold adapters of the UNet alone; expected a file "
                "without it"
            )
        if OTHER_KINDS.search(name):
            raise ValueError(f"tensor {name!r} is of another kind of adapter; expected a plain LoRA, B times A")
        is_kohya, is_alpha = name.startswith(KOHYA_PREFIX), name.endswith(KOHYA_ALPHA)
        types = FLOATS + WHOLE if is_alpha else FLOATS
        if (found := opened.get_slice(name).get_dtype()) not in types:
            raise ValueError(f"tensor {name!r} is of type {found}; expected one of {', '.join(types)}")
        if is_kohya and is_alpha:
            module = name.removeprefix(KOHYA_PREFIX).removesuffix(KOHYA_ALPHA)
            alphas[kohya_modules.get(module, module)] = name
            continue
        key = _peft_key(name, kohya_modules)
        if key in keys:
            raise ValueError(f"tensors {keys[key]!r} and {name!r} are the same factor; expected a single adapter")
        keys[key] = name
    return keys, alphas


def _peft_key(name: str, kohya_modules: Mapping[str, str]) -> str:
    """PEFT's name of a tensor; a name that is of none of the formats stays as it is."""
    found = LORA_KEY.fullmatch(name)
    if not found:
        return name
    module, letter = found["module"], found["letter"] or {"down": "A", "up": "B"}[found["way"]]
    if module.startswith(KOHYA_PREFIX):
        module = module.removeprefix(KOHYA_PREFIX)
        module = kohya_modules.get(module, module)
    return f"{PEFT_PREFIX}{module.removeprefix(PEFT_PREFIX).removeprefix('unet.')}.lora_{letter}.weight"


def _kohya_scales(
    layout: AdapterLayout, opened: safe_open, alphas: Mapping[str, str], alpha: float | None
) -> dict[str, float]:
    modules, scales = {factor.module for factor in layout.factors}, {}
    if alpha is None and (without := sorted(modules - alphas.keys())):
        name = f"{KOHYA_PREFIX}{without[0].replace('.', '_')}{KOHYA_ALPHA}"
        more = f" (and {len(without) - 1} more)" if len(without) > 1 else ""
        raise ValueError(f"{name} is missing{more}; give alpha=... if you know what it was made with")
    for module in modules:
        own = opened.get_tensor(alphas[module]) if module in alphas else torch.tensor(alpha)
        if own.numel() != 1 or not 0 < float(own) < float("inf"):
            raise ValueError(f"{alphas[module]}: expected a single number above 0, found {described(own.tolist())}")
        scales[module] = float(own) / layout.rank
    return scales


def _config_text(file: Path, metadata: Mapping[str, str]) -> tuple[str, str]:
    """Where PEFT's configuration is, and its text: in diffusers' metadata, or in a file beside the weights."""
    if DIFFUSERS_CONFIG in metadata:
        return f"metadata {DIFFUSERS_CONFIG}", metadata[DIFFUSERS_CONFIG]
    remedy = "put PEFT's configuration beside the file"
    beside = regular_file(file.with_name(PEFT_CONFIG), "PEFT's configuration, with r and lora_alpha", remedy)
    if (size := beside.stat().st_size) > LARGEST_CONFIG:
        raise ValueError(f"{PEFT_CONFIG} has {size} bytes; expected at most {LARGEST_CONFIG}; {remedy}")
    return PEFT_CONFIG, beside.read_text(encoding="utf-8", errors="replace")


def _peft_scale(layout: AdapterLayout, where: str, text: str, alpha: float | None) -> float:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON ({error}); expected PEFT's configuration") from None
    if not isinstance(config, dict):
        raise ValueError(f"{where} is no dictionary; expected PEFT's configuration, with r and lora_alpha")
    config = {name.removeprefix("unet."): value for name, value in config.items()}
    if config.get("peft_type", "LORA") != "LORA":
        raise ValueError(f"{where} has peft_type {config['peft_type']!r}; expected LORA")
    if others := [name for name in ("alpha_pattern", "rank_pattern", "use_dora", "lora_bias") if config.get(name)]:
        raise ValueError(
            f"{where} has {', '.join(others)}; expected one rank and alpha for all modules, and a plain LoRA"
        )
    if config.get("lora_alpha") is None and alpha is not None:
        config["lora_alpha"] = alpha
    try:
        found = PeftConfig.model_validate({name: value for name, value in config.items() if value is not None})
    except ValidationError as error:
        raise ValueError(f"{explain(error, where)} (give alpha=... if you know what lora_alpha was)") from None
    if found.r != layout.rank:
        raise ValueError(f"{where} has r {found.r}; expected the layout's rank {layout.rank}")
    return found.scale
