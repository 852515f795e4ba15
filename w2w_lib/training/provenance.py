"""What decides a row of weights: settings, starting vector, precision and the code that trains."""

import ast
import hashlib
import json
import platform
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from w2w_lib.inputs import instance
from w2w_lib.lora.layout import AdapterLayout

# Everything between latents and weights. What opens the base is in the base's fingerprint.
SOURCES = (
    "models/denoising.py",
    "models/schedule.py",
    "models/prompts.py",
    "models/precision.py",
    "models/recipe.py",
    "lora/recipe.py",
    "lora/layout.py",
    "lora/batched.py",
    "lora/initialisation.py",
    "training/prompt_table.py",
    "training/recipe.py",
    "training/loop.py",
)
LIBRARIES = ("torch", "diffusers", "transformers", "peft", "numpy")


class Header(BaseModel):
    """What all rows of a weights dataset have in common, as ``header.json`` holds it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layout: dict[str, Any]
    recipe: dict[str, Any]
    initial: str  # SHA-256 of the numbers in initial.safetensors
    dtype: str  # that the UNet computes in
    code: str  # training_code()
    made_with: dict[str, str]  # information: never compared

    @classmethod
    def of(cls, layout: AdapterLayout, recipe: dict, initial: Float[Tensor, " d"], dtype: torch.dtype) -> "Header":
        """The header of rows that are made here and now; ValueError for a recipe or precision that is none."""
        instance("layout", layout, AdapterLayout)
        instance("recipe", recipe, dict)
        instance("dtype", dtype, torch.dtype)
        if not dtype.is_floating_point:
            raise ValueError(f"dtype: expected one of floating-point numbers, found {dtype}")
        try:
            text = json.dumps(recipe, allow_nan=False, ensure_ascii=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"recipe: expected finite numbers, texts, lists and dictionaries ({error})") from None
        return cls(
            layout=json.loads(layout.to_json()),
            recipe=json.loads(text),
            initial=checksum(initial),
            dtype=str(dtype).removeprefix("torch."),
            code=training_code(),
            made_with=versions(),
        )

    def digest(self) -> str:
        """SHA-256 of all that decides a row."""
        deciding = self.model_dump(exclude={"made_with"})
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def checksum(vector: Float[Tensor, " d"], about: str = "") -> str:
    """SHA-256 of a vector's numbers in fp32, after some text."""
    return hashlib.sha256(about.encode() + vector.float().contiguous().numpy().tobytes()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of the libraries that train, and the machine."""
    return {name: version(name) for name in LIBRARIES} | {
        "python": platform.python_version(),
        "machine": platform.platform(),
    }


@cache
def training_code() -> str:
    """SHA-256 of the code between latents and weights; comments, docstrings and texts of errors do not count.

    It is read once in a process, as the code itself is.
    """
    trees = [_Deciding().visit(ast.parse(files("w2w_lib").joinpath(name).read_bytes())) for name in SOURCES]
    return hashlib.sha256("\n".join(map(_written, trees)).encode()).hexdigest()


class _Deciding(ast.NodeTransformer):
    """Leaves out what cannot change a row."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.Raise()


def _written(node: Any) -> str:
    """A syntax tree as text. Empty fields are left out: ``ast.dump`` shows more of them with every Python."""
    if isinstance(node, list):
        return f"[{','.join(map(_written, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [f"{name}={_written(value)}" for name, value in ast.iter_fields(node) if value not in (None, [])]
    return f"{type(node).__name__}({','.join(fields)})"
