"""What a folder of the authors' release holds, and the doors of its files: nothing in them is ever run."""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from zipfile import ZIP_STORED, BadZipFile, ZipFile, is_zipfile

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from huggingface_hub import snapshot_download
from pydantic import ValidationError
from torch import Tensor

from w2w_lib.files.regular import regular_file
from w2w_lib.inputs import a_path, described, explain, instance
from w2w_lib.lora.adapter_files import LARGEST_CONFIG, PEFT_CONFIG, PeftConfig
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.base import open_base
from w2w_lib.models.fingerprint import fingerprint

MEAN, STD, BASIS = "mean.pt", "std.pt", "V.pt"
COEFFICIENTS, DIMENSIONS, LABELS = "proj_1000pc.pt", "weight_dimensions.pt", "identity_df.pt"
FILES = (MEAN, STD, BASIS, COEFFICIENTS, DIMENSIONS, LABELS, PEFT_CONFIG)
ALL_WEIGHTS = "weights_datasets/identities/all_weights.pt"
PLACES = ("", "files", "weights_datasets")  # folders of the release in which a file may lie
LICENCES = ("LICENSE*", "LICENCE*", "README*")
RELEASED_ON = "stablediffusionapi/realistic-vision-v51"  # the name of the release's base, where none is given
TEXT_WIDTH = 768  # of Stable Diffusion 1.5's text encoder; the rest of its UNet is diffusers' default
HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")
LINES = 60  # of a licence that are shown
NON_COMMERCIAL = "The authors' release is for non-commercial use only: so is a space that is made of it."

EXPECTED = "the folder of the authors' weights2weights release, or its name on the Hugging Face hub"
REMEDY = "download it again"


def release_folder(folder: str | Path, show: Callable[[str], None]) -> Path:
    """The release's folder, its licence shown: of a hub name, only the files that an import reads are downloaded.

    FileNotFoundError where there is none, or the hub does not give it.
    """
    path = a_path(folder, EXPECTED)
    if os.path.isdir(path):
        show(licence(path))
        return path
    if isinstance(folder, Path) or os.path.lexists(path) or not HUB_NAME.fullmatch(folder):
        found = "is no folder" if os.path.lexists(path) else "no such folder"
        raise FileNotFoundError(f"{path}: {found}; expected {EXPECTED}; name one")
    show(licence(_download(folder, [*LICENCES])))
    return _download(folder, [os.path.join(place, name) for place in PLACES for name in FILES])


def _download(name: str, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # of HTTP, of names, of machines without a network
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FileNotFoundError(
            f"{name}: no such folder, and the Hugging Face hub does not give it ({reason}); expected {EXPECTED}; "
            "download it elsewhere and name its folder"
        ) from None


def licence(folder: Path) -> str:
    """The release's own licence and description as printable text, and that it is non-commercial."""
    texts = []
    for path in sorted({path for pattern in LICENCES for path in folder.glob(pattern) if path.is_file()}):
        with path.open(encoding="utf-8", errors="replace") as file:
            lines = file.read(LARGEST_CONFIG).splitlines()
        shown = ["".join(c for c in line if c.isprintable() or c == "\t") for line in lines[:LINES]]
        more = [f"... ({len(lines) - LINES} more lines in {path})"] if len(lines) > LINES else []
        texts += [f"--- {path.name} of the release ---", *shown, *more]
    return "\n".join([*texts, NON_COMMERCIAL])


def find_files(folder: Path) -> dict[str, Path]:
    """Where each of the release's files lies, by name; FileNotFoundError for the first that is not there."""
    found = {}
    for name in FILES:
        there = [path for place in PLACES if os.path.lexists(path := folder / place / name)]
        found[name] = regular_file(there[0] if there else folder / name, f"{name} of the release", REMEDY)
    return found


def open_tensor(path: Path) -> Tensor:
    """A tensor of fp32 numbers, memory-mapped: only its description has been read.

    ValueError for a file that is truncated, a pickle with code, and anything but one such tensor.
    """
    found = _loaded(path)
    if type(found) is not Tensor or found.dtype != torch.float32 or found.layout != torch.strided or found.is_meta:
        what = f"a tensor of {found.dtype}" if isinstance(found, Tensor) else described(found)
        raise _refused(path, f"holds {what}", "one tensor of torch.float32")
    last = sum((size - 1) * stride for size, stride in zip(found.shape, found.stride(), strict=True))
    held = found.untyped_storage().nbytes() // found.element_size()
    if not 0 < found.numel() <= held or found.storage_offset() + last >= held:
        raise _refused(path, f"has not the numbers of its shape {tuple(found.shape)}", "each number once")
    return found


def read_layout(files: Mapping[str, Path], base: str | Path | StableDiffusionPipeline | None) -> AdapterLayout:
    """The layout of the release's weight vectors on a base: by default, Stable Diffusion 1.5 by its structure alone.

    ValueError where the files' keys, their order or shapes are not those of the base's ``release`` layout.
    """
    keys, config = _dimensions(files[DIMENSIONS]), _config(files[PEFT_CONFIG])
    unet, name = _structure(base)
    layout = AdapterLayout.of(unet, name, "release", config.r, config.lora_alpha)
    path, expected = files[DIMENSIONS], [factor.key for factor in layout.factors]
    try:
        layout.check_shapes(keys)
    except ValueError as error:
        raise ValueError(f"{path}: {error} of this base; give the base that the release was made on") from None
    for found, wanted in zip(keys, expected, strict=True):
        if found != wanted:
            raise _refused(path, f"its keys are in another order, {found} in the place of {wanted}", "sorted keys")
    return layout


def _structure(base: str | Path | StableDiffusionPipeline | None) -> tuple[torch.nn.Module, str]:
    if base is None:
        with torch.device("meta"):
            return UNet2DConditionModel(cross_attention_dim=TEXT_WIDTH), RELEASED_ON
    pipeline = open_base(base) if isinstance(base, str | Path) else base
    instance("base", pipeline, StableDiffusionPipeline, "a base that `open_base` opened, its folder or its hub name")
    return pipeline.unet, fingerprint(pipeline)


def _dimensions(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes by PEFT key, in the file's order."""
    found, shapes = _loaded(path), {}
    expected = "{key: [[count], shape]}"
    if not isinstance(found, dict) or not found:
        raise _refused(path, f"holds {described(found)}", expected)
    for key, entry in found.items():
        counts, shape = entry if isinstance(entry, list | tuple) and len(entry) == 2 else (None, None)
        plain = isinstance(key, str) and isinstance(shape, list | tuple) and all(type(n) is int for n in shape)
        if not plain or list(counts or []) != [math.prod(shape)]:
            raise _refused(path, f"has {described(entry)} for {described(key)}", expected)
        shapes[key] = tuple(shape)
    return shapes


def _config(path: Path) -> PeftConfig:
    expected = "PEFT's configuration as JSON, with r and lora_alpha"
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ValueError("too many bytes")
        found = json.loads(path.read_text(encoding="utf-8"))
        return PeftConfig.model_validate({name: found[name] for name in ("r", "lora_alpha")})
    except ValidationError as error:
        raise _refused(path, explain(error, PEFT_CONFIG), expected) from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refused(path, f"is no configuration ({type(error).__name__})", expected) from None


def _loaded(path: Path):
    """What a file of ``torch.save`` describes, by PyTorch's restricted unpickler, its numbers still on the disk."""
    expected = "a whole file that torch.save wrote, of tensors and shapes alone"
    if not is_zipfile(path):
        raise _refused(path, "is truncated, or no such file", expected)
    try:
        with ZipFile(path) as archive:
            if any(entry.compress_type != ZIP_STORED for entry in archive.infolist()):
                raise BadZipFile("compressed")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # of the archive, of the restricted unpickler, of what is missing
        reason = " ".join(str(error).split())
        names = re.search(r"GLOBAL ([\w.]+)", reason)
        what = f"it names {names[1]}: nothing was run" if names else reason[:120] or type(error).__name__
        raise _refused(path, f"cannot be read as plain tensors ({what})", expected) from None


def checksum(path: Path) -> str:
    """SHA-256 of a file, read in chunks; ValueError for an archive whose parts are not what was written."""
    if is_zipfile(path):
        with ZipFile(path) as archive:
            try:
                damaged = archive.testzip()
            except (BadZipFile, OSError, EOFError) as error:
                damaged = str(error)
            if damaged:
                raise _refused(path, f"is damaged ({damaged})", "the file as it was published")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refused(path: Path, what: str, expected: str) -> ValueError:
    return ValueError(f"{path}: {what}; expected {expected}; {REMEDY}")
