"""The authors' released space as our own files."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from jaxtyping import Float
from torch import Tensor

from w2w_lib.files.folders import replace_folder
from w2w_lib.files.tables import read_parquet
from w2w_lib.inputs import a_path, instance, some, whole_number
from w2w_lib.lora.layout import AdapterLayout
from w2w_lib.models.fingerprint import fingerprint
from w2w_lib.release import checks
from w2w_lib.release.deviations import component_deviations
from w2w_lib.release.files import (
    ALL_WEIGHTS,
    BASIS,
    COEFFICIENTS,
    LABELS,
    MEAN,
    NON_COMMERCIAL,
    REMEDY,
    STD,
    checksum,
    find_files,
    open_tensor,
    read_layout,
    release_folder,
)
from w2w_lib.release.frames import read_frame
from w2w_lib.space.arguments import CHUNK, digest
from w2w_lib.space.weight_space import STORED, WeightSpace

SPACE, LABELS_TABLE, RECORD = "space.safetensors", "labels.parquet", "source.json"
TENSORS = (MEAN, STD, BASIS, COEFFICIENTS)
SOLVER = "the authors' release: SVD of (weights - mean) / std"
SPARE = 2**26  # bytes of the disk for what is not numbers
FRAME = "a pickled pandas frame of labels -1 and 1, one row for each model"


def import_release(
    folder: str | Path,
    out: str | Path,
    components: int = 1000,
    base: str | Path | StableDiffusionPipeline | None = None,
    show: Callable[[str], None] = print,
    dtype: torch.dtype = torch.float32,
) -> WeightSpace:
    """Write the authors' released space (Dravid et al. 2024) as a folder ``out`` of our files, and open it.

    ``folder`` is the release's, or its name on the Hugging Face hub. ``show`` gets the licence first. No pickle's code
    runs, and each file is checked against the others. The release holds the training coefficients of 1,000 components:
    the standard deviations of further ones are measured on its weights where they are there, else extrapolated.
    Components are stored in ``dtype``, fp32 or bf16, which halves the file and rounds them to 3 digits. ``out`` is
    written whole or not at all: ``space.safetensors`` (mean, std with its signs, the first ``components``, the training
    coefficients; the total variance is the number of parameters, as they were standardised), ``labels.parquet`` (False
    and True by model) and ``source.json`` (sizes and hashes of the files). Without ``base`` the space is that of Stable
    Diffusion 1.5 by structure alone: ``on_base`` gives it a base. FileNotFoundError for missing files; ValueError for
    damaged ones, and those that do not fit.
    """
    components = whole_number("components", components)
    if dtype not in STORED["components"]:
        raise ValueError(f"dtype {dtype!r}: expected one of {', '.join(map(str, STORED['components']))}")
    out = _destination(out)
    source = release_folder(folder, show)
    files = find_files(source)
    layout = read_layout(files, base)
    tensors = {name: open_tensor(files[name]) for name in TENSORS}
    checks.check_shapes(tensors, source, layout.dimension, components)
    models, known = tensors[COEFFICIENTS].shape
    labels = _labels(files[LABELS], models)
    numbers = min(components, known) * models + 2 * layout.dimension
    _room(out, 4 * numbers + dtype.itemsize * components * layout.dimension)
    mean, std = (tensors[name].reshape(-1).clone() for name in (MEAN, STD))
    checks.check_scale(source, mean, std)
    coefficients = tensors[COEFFICIENTS][:, :components].clone(memory_format=torch.contiguous_format)
    checks.check_coefficients(source, coefficients)
    del tensors
    recorded = {name: {"bytes": path.stat().st_size, "sha256": checksum(path)} for name, path in files.items()}
    rows = _first_columns(files[BASIS], components, dtype)
    checks.check_components(source, rows)
    space = WeightSpace(
        layout=layout,
        ids=list(labels.index),
        mean=mean,
        components=rows[:known],
        coefficients=coefficients,
        total_variance=float(max(layout.dimension, coefficients.var(0).sum())),
        rows=digest([recorded[name]["sha256"] for name in sorted(recorded)]),
        solver=SOLVER,
        scale=std,
    )
    compared, how = checks.check_rows(source, space), "of the coefficients"
    if components > known:
        deviations, how = component_deviations(source, space, rows)
        space = replace(space, components=rows, component_std=deviations)
    if compared:
        recorded[ALL_WEIGHTS] = {"bytes": (source / ALL_WEIGHTS).stat().st_size}  # of 26 GB: only its first rows
    record = {
        "release": str(folder),
        "licence": NON_COMMERCIAL,
        "files": recorded,
        "models": models,
        "components": components,
        "numbers of components": str(dtype).removeprefix("torch."),
        "standard deviations": how,
        "negative standard deviations": int((std < 0).sum()),
        "checked": [checks.check_labels(source, space, labels), *compared],
        "not checked": [] if compared else [f"order of rows and sign of std: {ALL_WEIGHTS} is not there"],
    }
    _write(out, space, labels, record)
    del space, rows, coefficients
    return open_import(out)[0]


def open_import(folder: str | Path) -> tuple[WeightSpace, pd.DataFrame]:
    """The space and the labels (False and True, by model) that ``import_release`` wrote; errors as in ``load``."""
    expected, remedy = "a folder that `import_release` wrote", "import the release again"
    folder = a_path(folder, expected)
    labels = read_parquet(folder / LABELS_TABLE, expected, remedy)
    space = WeightSpace.load(folder / SPACE)
    if list(labels.index) != space.ids:
        raise ValueError(f"{folder / LABELS_TABLE}: is of other models than the space; expected {expected}; {remedy}")
    return space, labels


def on_base(space: WeightSpace, pipeline: StableDiffusionPipeline) -> WeightSpace:
    """The space with this base as its own; ValueError where the base has not the modules and shapes of its layout.

    The release was trained on Realistic Vision 5.1: a fine-tuned sibling of it will do, with other pictures.
    """
    instance("space", space, WeightSpace)
    instance("pipeline", pipeline, StableDiffusionPipeline)
    there = space.layout
    own = AdapterLayout.of(pipeline.unet, fingerprint(pipeline), there.targets, there.rank, there.alpha)
    own.check_shapes({factor.key: factor.shape for factor in there.factors})
    return replace(space, layout=own)


def _destination(out: str | Path) -> Path:
    path = a_path(out, "a folder for the space")
    if path.exists() and not (path.is_dir() and ((path / RECORD).is_file() or not any(path.iterdir()))):
        raise ValueError(f"{path}: something else is there; expected an earlier import, or nothing yet; name another")
    return path.absolute()


def _room(out: Path, size: int) -> None:
    """ValueError where the disk has not the room that the space takes."""
    there = next(parent for parent in out.parents if parent.is_dir())
    if (free := shutil.disk_usage(there).free) < size + SPARE:
        found = f"{free / 1e9:.2f} GB free, the space takes {size / 1e9:.2f} GB"
        raise ValueError(f"{out}: {found}; expected more room; make some, name another folder or fewer components")


def _labels(path: Path, models: int) -> pd.DataFrame:
    """Labels as False and True by model; models are named by the frame's index, or by number where it has no names."""
    frame = read_frame(path, FRAME, REMEDY)
    if len(frame) != models:
        raise ValueError(f"{path}: {len(frame)} rows, and coefficients of {models} models; expected {FRAME}; {REMEDY}")
    names = [str(name) for name in frame.columns]
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in frame.columns):
        raise ValueError(f"{path}: its columns are {some(names)}; expected names that differ; {REMEDY}")
    for name in names:
        values = pd.to_numeric(frame[name], errors="coerce")
        if wrong := frame.loc[~values.isin([-1, 1]).to_numpy(), name].tolist():
            raise ValueError(f"{path}: label {name!r} is {wrong[0]!r} in {len(wrong)} rows; expected -1 or 1; {REMEDY}")
    by_number = isinstance(frame.index, pd.RangeIndex)
    ids = [f"model-{row:05d}" if by_number else str(row) for row in frame.index]
    if len(set(ids)) < models:
        raise ValueError(f"{path}: several rows of the same name; expected one for each model; {REMEDY}")
    truths = {name: pd.to_numeric(frame[name]).to_numpy() > 0 for name in names}
    return pd.DataFrame(truths, index=pd.Index(ids, name="id"))


def _first_columns(path: Path, count: int, dtype: torch.dtype) -> Float[Tensor, "pcs d"]:
    """The first columns of V as rows; the file is mapped anew for each part, so that no more than a part is held."""
    whole = open_tensor(path)
    (d, width), by_row = whole.shape, whole.stride(1) == 1
    found = torch.empty(count, d, dtype=dtype)
    step = max(1, CHUNK // (width if by_row else d))
    for start in range(0, d if by_row else count, step):
        del whole  # unmaps what has been read
        whole = open_tensor(path)
        if by_row:
            found[:, start : start + step] = whole[start : start + step, :count].T
        else:
            found[start : start + step] = whole[:, start : min(start + step, count)].T
    return found


def _write(out: Path, space: WeightSpace, labels: pd.DataFrame, record: dict) -> None:
    """The folder, complete, in the place of an earlier import; what a killed import left is removed."""
    partial = out.with_name(f".{out.name}.importing")
    if partial.is_dir():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        space.save(partial / SPACE)
        labels.to_parquet(partial / LABELS_TABLE)
        (partial / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        replace_folder(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
