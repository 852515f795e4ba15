"""Every place the workbook reads or writes, by name; nothing else in the project spells a path."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
ROOT = Path(os.environ.get("W2W_ROOT") or PACKAGE.parent).resolve()

NOTEBOOKS = ROOT / "notebooks"
PARAMS = ROOT / "params.yaml"
DATA = ROOT / "data"
ATTRIBUTE_CLASSIFIER = DATA / "classifier" / "attributes.safetensors"
OUTPUTS = ROOT / "outputs"
STRIPPED = OUTPUTS / ".stripped"
HERO = ROOT / "docs" / "hero.png"  # the README's first picture
STYLE = PACKAGE / "workbook" / "w2w.mplstyle"


def outputs(profile: str, *parts: str) -> Path:
    """`outputs/<profile>/...`, with its parent folder made."""
    path = OUTPUTS.joinpath(profile, *parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def metrics(profile: str, stage: str) -> Path:
    """Where a stage writes the numbers that `dvc metrics show` prints."""
    return outputs(profile, "metrics", f"{stage}.json")


def shown(path: Path) -> str:
    """A path as a reader would type it: relative to the repository where it lies in it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
