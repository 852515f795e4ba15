"""The components of a base model: their settings, weights and fit are checked, then they are loaded."""

from copy import deepcopy
from inspect import signature
from math import isfinite, prod
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, SchedulerMixin
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from w2w_lib.files.tensors import finite
from w2w_lib.inputs import described, finite_number, some, whole_number
from w2w_lib.models.base_folder import (
    EXPECTED,
    REMEDY,
    WEIGHTS,
    check_files,
    check_index,
    first_line,
    read_json,
    weights_file,
)
from w2w_lib.models.schedule import as_ddim

# Settings that count layers: each has a tensor at least, which bounds them before anything is built.
DEPTHS = ("layers_per_block", "transformer_layers_per_block", "num_hidden_layers", "refiner_blocks")
# Settings of UNets that want to be told more than a noisy picture, a timestep and a text.
CONDITIONS = (
    "class_embed_type",
    "num_class_embeds",
    "addition_embed_type",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
)
INPAINTING_CHANNELS = 9
MOST_CELLS = 512  # side of the latents: at eight pixels a cell, pictures of 4096
MOST_TIMESTEPS = 10_000
SHORTEST_PROMPT = 3  # tokens: a beginning, a word and an end
SIDE = 8  # StableDiffusionPipeline paints pictures whose sides are multiples of this


def load_parts(folder: Path, variant: str | None = None) -> dict[str, Any]:
    """Unet, vae, text_encoder, tokenizer and scheduler (DDIM) of a base, in fp32 on the CPU.

    Only safetensors and JSON are read, and no code of the folder's runs. Files, settings, the tensors' names and
    shapes, and what must fit one another are checked before the weights are read. FileNotFoundError for a missing
    file, ValueError for anything else that is wrong: one line of what, what was expected, what to do.
    """
    classes = check_index(folder)
    for name in classes:
        check_files(folder / name, variant)
    weights = {name: weights_file(folder / name, variant) for name in WEIGHTS}
    shells = {name: _shell(weights[name], classes[name]) for name in WEIGHTS}
    check_fit(folder, **{name: shell.config for name, shell in shells.items()})
    _try_out(folder, **shells)
    parts = {"tokenizer": _tokenizer(folder / "tokenizer", shells["text_encoder"].config)}
    parts["scheduler"] = _scheduler(folder / "scheduler", classes["scheduler"])
    return parts | {name: _load(weights[name], shell, variant) for name, shell in shells.items()}


def check_fit(folder: Path, unet, vae, text_encoder) -> None:
    """ValueError where the configurations of the components do not fit one another, or the denoising objective."""
    if unet.in_channels == INPAINTING_CHANNELS != vae.latent_channels:
        raise ValueError(f"{folder}: is an inpainting model (a UNet of 9 channels); expected {EXPECTED}; {REMEDY}")
    if wanted := [name for name in CONDITIONS if getattr(unet, name) is not None]:
        raise ValueError(f"{folder}: its UNet wants more than a prompt ({some(wanted)}); expected {EXPECTED}; {REMEDY}")
    widths = (
        unet.cross_attention_dim if isinstance(unet.cross_attention_dim, list | tuple) else [unet.cross_attention_dim]
    )
    pairs = [
        (unet.in_channels, "channels into the UNet", vae.latent_channels, "latent channels of the VAE"),
        (unet.out_channels, "channels out of the UNet", unet.in_channels, "channels into it"),
        (vae.in_channels, "channels into the VAE", 3, "colours of a picture"),
        *((width, "text width of the UNet", text_encoder.hidden_size, "width of the text encoder") for width in widths),
    ]
    for found, what, expected, other in pairs:
        if found != expected:
            raise ValueError(f"{folder}: {found} {what}, {expected} {other}; expected as many; {REMEDY}")
    whole_number(f"{folder}: sample_size of the UNet", unet.sample_size, most=MOST_CELLS)
    if finite_number(f"{folder}: scaling_factor of the VAE", vae.scaling_factor) <= 0:
        raise ValueError(f"{folder}: scaling_factor {vae.scaling_factor} of the VAE; expected a positive number")


def _try_out(folder: Path, unet: nn.Module, vae: nn.Module, text_encoder: nn.Module) -> None:
    """ValueError for settings that only show when they are used: the shells paint a picture without numbers."""
    side, name = unet.config.sample_size, "text_encoder"
    try:
        with torch.device("meta"), torch.no_grad():
            tokens = torch.zeros(1, text_encoder.config.max_position_embeddings, dtype=torch.long)
            text = text_encoder(tokens).last_hidden_state
            name = "unet"
            latents = unet(torch.zeros(1, unet.config.in_channels, side, side), 1, text).sample
            name = "vae"
            picture = vae.decode(latents).sample
            vae.encode(picture).latent_dist.mode()
    except Exception as error:  # whatever a library makes of settings that make no sense
        raise ValueError(
            f"{folder / name / 'config.json'}: {first_line(error)}; expected settings that paint a picture; {REMEDY}"
        ) from None
    if picture.shape[-1] % SIDE:
        raise ValueError(
            f"{folder}: sample_size {side} of the UNet, of pictures of {picture.shape[-1]} pixels a side; expected a "
            f"multiple of {SIDE} pixels; {REMEDY}"
        )


def check_finite(folder: Path, name: str, module: nn.Module) -> None:
    """ValueError for weights that are NaN or infinite."""
    for tensor, values in module.state_dict().items():
        if values.is_floating_point() and not finite(values):
            raise ValueError(
                f"{folder / name}: tensor {tensor!r} holds NaN or infinite numbers (as {values.dtype}); expected "
                f"{EXPECTED}; {REMEDY}"
            )


def _shell(weights: Path, cls: type) -> nn.Module:
    """The module that a component's configuration describes, without numbers; the weights file has its tensors."""
    path = weights.with_name("config.json")
    config, found = read_json(path, f"the settings of a {cls.__name__}"), _shapes(weights)
    kind = "quantized weights" if config.get("quantization_config") else config.get("_class_name", cls.__name__)
    if kind != cls.__name__:
        raise ValueError(f"{path}: settings of {kind}; expected those of a {cls.__name__}; {REMEDY}")
    if cls is not CLIPTextModel:  # which checks its settings itself
        _check_types(path, cls, config)
    for name in DEPTHS:
        if (depth := _largest(config.get(name))) > len(found):
            raise ValueError(f"{path}: {name} {depth}, in a file of {len(found)} tensors; expected fewer; {REMEDY}")
    try:
        with torch.device("meta"):
            shell = CLIPTextModel(_text_config(config)) if cls is CLIPTextModel else cls.from_config(config)
    except Exception as error:  # whatever a library makes of settings that make no sense
        raise ValueError(f"{path}: {first_line(error)}; expected settings of a {cls.__name__}; {REMEDY}") from None
    _compare(weights, {name: tuple(t.shape) for name, t in _floating(shell).items()}, found)
    return shell


def _check_types(path: Path, cls: type, config: dict[str, Any]) -> None:
    """ValueError for a text in place of a number or truth value, and for numbers that are NaN or infinite."""
    for name, argument in signature(cls.__init__).parameters.items():
        usual, found = argument.default, config.get(name)
        if isinstance(usual, bool):
            fits, expected = not isinstance(found, str | float), "true or false"
        elif isinstance(usual, int | float) and isfinite(usual):
            endless = isinstance(found, float) and not isfinite(found)
            fits, expected = not (endless or isinstance(found, str | bool)), "a number"
        else:
            continue
        if not fits:
            raise ValueError(f"{path}: {name}: expected {expected}, found {described(found)}; {REMEDY}")


def _largest(setting: Any) -> int:
    if isinstance(setting, list):
        return max(map(_largest, setting), default=0)
    return setting if isinstance(setting, int) else 0


def _text_config(config: dict[str, Any]) -> CLIPTextConfig:
    """The settings of the text encoder alone: others tell transformers to load adapters, kernels or other files."""
    if config.get("model_type") != CLIPTextConfig.model_type:
        raise ValueError(f"model_type {config.get('model_type')!r}, not {CLIPTextConfig.model_type}")
    known = CLIPTextConfig().to_dict()
    settings = {name: value for name, value in config.items() if name in known and not name.startswith("_")}
    return CLIPTextConfig(**settings | {"return_dict": True})


def _floating(module: nn.Module) -> dict[str, torch.Tensor]:
    return {_bare(name): tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}


def _bare(name: str) -> str:
    return name.removeprefix("text_model.")  # which transformers wrote before every name until its version 5


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="pt") as file:
            parts = {name: file.get_slice(name) for name in file.keys()}
            found = {n: tuple(part.get_shape()) for n, part in parts.items() if "F" in part.get_dtype()}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path}: cannot be read ({first_line(error)}); expected a whole safetensors file; fetch or write it again"
        ) from None
    if len(shapes := {_bare(name): shape for name, shape in found.items()}) < len(found):
        twice = next(name for name in found if name != _bare(name) and _bare(name) in found)
        _refuse(path, f"has tensors {_bare(twice)} and {twice}, which are the same one")
    return shapes


def _compare(path: Path, wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> None:
    for name in sorted(wanted.keys() & found.keys()):
        if wanted[name] != found[name]:
            _refuse(path, f"tensor {name!r} has shape {found[name]}, not {wanted[name]} as config.json says")
    if sum(map(prod, wanted.values())) != sum(map(prod, found.values())):
        # As many numbers under other names may be the names of an older version, which the libraries know.
        _refuse_names(path, wanted.keys() - found.keys(), found.keys() - wanted.keys())


def _refuse_names(path: Path, missing, unknown) -> None:
    if missing:
        _refuse(path, f"has no tensor {some(sorted(missing), 1)}")
    if unknown:
        _refuse(path, f"has an unknown tensor {some(sorted(unknown), 1)}")


def _refuse(path: Path, what: str) -> None:
    raise ValueError(f"{path}: {what}; expected the weights of config.json beside it; fetch or write them again")


def _load(path: Path, shell: nn.Module, variant: str | None) -> nn.Module:
    folder, cls = path.parent, type(shell)
    variant = None if path.name == WEIGHTS[folder.name] else variant
    settings = {"torch_dtype": torch.float32, "use_safetensors": True, "low_cpu_mem_usage": False}
    try:
        if cls is CLIPTextModel:
            module, info = cls.from_pretrained(
                None, config=shell.config, state_dict=load_file(path), dtype=torch.float32, output_loading_info=True
            )
        else:
            module, info = cls.from_pretrained(folder, variant=variant, output_loading_info=True, **settings)
    except Exception as error:  # whatever a library makes of weights that do not fit
        raise ValueError(f"{path}: {first_line(error)}; expected weights of a {cls.__name__}; {REMEDY}") from None
    unknown = [name for name in info["unexpected_keys"] if not name.endswith("position_ids")]  # a constant, once saved
    _refuse_names(path, info["missing_keys"], unknown)
    if info["mismatched_keys"]:
        _refuse(path, f"tensors of other shapes ({first_line(sorted(info['mismatched_keys'])[0])})")
    return module.float()  # numbers of several types keep them


def _tokenizer(folder: Path, text_encoder: CLIPTextConfig) -> CLIPTokenizer:
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder)
    except Exception as error:  # the libraries raise bare exceptions
        raise ValueError(f"{folder}: {first_line(error)}; expected the files of a CLIPTokenizer; {REMEDY}") from None
    reads = text_encoder.max_position_embeddings  # as many tokens
    longest = whole_number(f"{folder}: model_max_length", tokenizer.model_max_length, SHORTEST_PROMPT, reads)
    tokenizer.model_max_length = longest
    if (sides := {tokenizer.padding_side, tokenizer.truncation_side}) != {"right"}:
        raise ValueError(
            f"{folder}: pads and cuts prompts on the {some(sorted(sides))}; expected right alone; {REMEDY}"
        )
    if (last := max(tokenizer.get_vocab().values(), default=-1)) >= text_encoder.vocab_size:
        raise ValueError(f"{folder}: a token of number {last}; expected fewer than {text_encoder.vocab_size}; {REMEDY}")
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise ValueError(f"{folder}: no token that pads or ends a prompt; expected both in tokenizer_config.json")
    try:
        tokens = tokenizer(["person", ""], padding="max_length", max_length=longest, truncation=True)
        lengths = {len(ids) for ids in [*tokens.input_ids, *tokens.attention_mask]}
    except Exception as error:  # as above
        raise ValueError(f"{folder}: {first_line(error)}; expected the files of a CLIPTokenizer; {REMEDY}") from None
    if lengths != {longest}:
        raise ValueError(f"{folder}: prompts of {some(sorted(lengths))} tokens; expected {longest}; {REMEDY}")
    return tokenizer


def _scheduler(folder: Path, cls: type[SchedulerMixin]) -> DDIMScheduler:
    path = folder / "scheduler_config.json"
    config = read_json(path, "the settings of a scheduler")
    whole_number(f"{path}: num_train_timesteps", config.get("num_train_timesteps", 1), most=MOST_TIMESTEPS)
    _check_types(path, cls, config)
    try:
        scheduler = as_ddim(cls.from_config(config))
        trial, numbers = deepcopy(scheduler), torch.ones(1, 1, 1, 1)
        trial.set_timesteps(1)
        if not finite(trial.step(numbers, trial.timesteps[0], numbers).prev_sample):
            raise ValueError("makes NaN or infinite numbers of finite ones")
        return scheduler
    except Exception as error:  # whatever a library makes of settings that make no sense
        raise ValueError(f"{path}: {first_line(error)}; expected settings of a {cls.__name__}; {REMEDY}") from None
