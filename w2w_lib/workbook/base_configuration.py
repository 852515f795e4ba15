"""What the configuration of a base model says without the model being opened."""

import os
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from w2w_lib.files.regular import regular_file
from w2w_lib.inputs import problem

CONFIGS = ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")


def pixels_and_timesteps(folder: Path) -> tuple[int, int] | None:
    """Width of the base's pictures (pixels) and its number of timesteps, from its configuration alone."""
    files = [folder / name for name in CONFIGS]
    if not all(map(os.path.exists, files)):  # False for a name that no file can have
        return None
    unet, vae, scheduler = map(_config, files)
    try:
        pixels = unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
        return pixels, scheduler["num_train_timesteps"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder}: its configuration does not say the size of pictures ({error})") from None


def _config(file: Path) -> dict:
    regular_file(file, "the configuration of a base model", "save the base again")
    try:
        return TypeAdapter(dict[str, Any]).validate_json(file.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{file}: {problem(error.errors()[0])}; expected the configuration of a base model") from None
