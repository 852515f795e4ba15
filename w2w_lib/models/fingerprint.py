"""What a base model is, as sixteen digits."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers import SchedulerMixin, StableDiffusionPipeline
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from w2w_lib.inputs import with_parts

DIGITS = 16
# What transformers writes into a configuration that says nothing of the model.
BOOKKEEPING = ("architectures", "dtype", "torch_dtype", "transformers_version")

_hashed: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()  # by component: its state then, and its hash


def fingerprint(pipeline: StableDiffusionPipeline) -> str:
    """Sixteen hexadecimal digits that identify a base model by what decides its pictures, wherever it lies.

    Hashed are the public settings of UNet, text encoder and VAE that differ from their class's defaults, and their
    weights; the tokenizer's vocabulary, merges, special tokens and length; the scheduler's prediction type and betas.
    Folder, device, library versions, scheduler class and attention processors do not matter, nor does the precision a
    base is opened in: weights are rounded to bfloat16 before anything else rounds them. A float16 *copy* of a float32
    base is another base, as its weights are others even after that rounding. The hash of each component is kept until
    its tensors are replaced or written to.
    """
    with_parts(pipeline, "unet", "text_encoder", "vae", "tokenizer", "scheduler")
    modules = {"unet": pipeline.unet, "text_encoder": pipeline.text_encoder, "vae": pipeline.vae}
    parts = {name: [type(module).__name__, _settings(module), _weights(module)] for name, module in modules.items()}
    parts |= {"tokenizer": _vocabulary(pipeline.tokenizer), "scheduler": _noise(pipeline.scheduler)}
    return _sha256(parts)[:DIGITS]


def _settings(module: nn.Module) -> dict[str, Any]:
    """The settings that are not the default: a setting that an older or newer library lacks has the default there."""
    config = module.config
    if isinstance(config, PretrainedConfig):
        there, usual = config.to_dict(), type(config)().to_dict()
    else:
        there = config
        usual = {name: argument.default for name, argument in signature(type(module).__init__).parameters.items()}
    public = [name for name in there if name in usual and not name.startswith("_") and name not in BOOKKEEPING]
    return {name: _plain(there[name]) for name in public if _plain(there[name]) != _plain(usual[name])}


@contextmanager
def rounded(module: nn.Module) -> Iterator[None]:
    """Within the block a module's weights become less precise: what is hashed of it stays what it was."""
    before = _weights(module)
    yield
    _hashed[module] = _state(_floating(module)), before


def _floating(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()}


def _state(tensors: dict[str, Tensor]) -> list[tuple[int, int]]:
    return [(tensor.data_ptr(), tensor._version) for tensor in tensors.values()]


def _weights(module: nn.Module) -> str:
    tensors = _floating(module)
    state = _state(tensors)
    if (known := _hashed.get(module)) and known[0] == state:
        return known[1]
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        # transformers wrote "text_model." before each name until its version 5
        digest.update(json.dumps([name.removeprefix("text_model."), *tensor.shape]).encode())
        rounded = tensor.detach().to(torch.bfloat16, memory_format=torch.contiguous_format).cpu()
        digest.update(rounded.view(torch.int16).numpy())
    _hashed[module] = state, digest.hexdigest()
    return digest.hexdigest()


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    state = len(tokenizer), tokenizer.model_max_length
    if (known := _hashed.get(tokenizer)) and known[0] == state:
        return known[1]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"].get("merges", [])
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id]
    _hashed[tokenizer] = state, _sha256([tokenizer.get_vocab(), pairs, special, tokenizer.model_max_length])
    return _hashed[tokenizer][1]


def _noise(scheduler: SchedulerMixin) -> dict[str, Any]:
    config = scheduler.config
    if "beta_start" not in config:
        raise ValueError(f"scheduler {type(scheduler).__name__} has no betas; expected that of a base of `open_base`")
    by_rule = [config[name] for name in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")]
    trained = config.get("trained_betas")
    return {
        "prediction_type": config.get("prediction_type", "epsilon"),
        "betas": _plain(by_rule if trained is None else trained),
        "zero_snr": bool(config.get("rescale_betas_zero_snr", False)),
    }


def _plain(value: Any) -> Any:
    """The same JSON for what means the same: sets in order, tuples as lists, 1.0 as 1."""
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value), key=str)
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
