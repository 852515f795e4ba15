"""Every place the workbook reads or writes, by name; nothing else in the workbook spells a path."""

import os
import re
from pathlib import Path

from w2w_lib.files.atomic import make_folder

PACKAGE = Path(__file__).resolve().parent.parent
ROOT = Path(os.environ.get("W2W_ROOT") or PACKAGE.parent).resolve()

NOTEBOOKS = ROOT / "notebooks"
PARAMS = ROOT / "params.yaml"
DVC_YAML = ROOT / "dvc.yaml"
DVC_LOCK = ROOT / "dvc.lock"
LOCAL = ROOT / "local.yaml"  # settings of this machine alone, on top of params.yaml; git does not see it
DATA = ROOT / "data"
ATTRIBUTE_CLASSIFIER = DATA / "classifier" / "attributes.safetensors"
OUTPUTS = ROOT / "outputs"
PIPELINE = OUTPUTS / ".pipeline"  # what DVC reads: written from params.yaml and local.yaml
STRIPPED = OUTPUTS / ".stripped"
HERO = ROOT / "docs" / "hero.png"  # the README's first picture
PUBLISHED = ROOT / "published"  # numbers of the published notebooks, and what they come from
ENCODERS = ROOT / "benchmarks" / "encoders.json"  # bases whose text encoders differ, compared
ALTERNATIVES = ROOT / "benchmarks" / "alternatives.json"  # spaces of adapters that were trained in other ways
STYLE = PACKAGE / "workbook" / "w2w.mplstyle"

STAGES = ("base", "people", "finetune", "space", "edit", "invert", "judge", "scale", "domains", "release")
PROFILE = re.compile(r"[a-z0-9][a-z0-9_-]*")
RESERVED = ("item", "key", "profiles", "releases")  # what dvc.yaml calls its own variables


def profile_name(name: str) -> str:
    """A profile's name; ValueError for one that is no plain word, for it becomes part of paths and commands."""
    if not isinstance(name, str) or not PROFILE.fullmatch(name) or name in RESERVED:
        kept = ", ".join(RESERVED)
        raise ValueError(f"no name of a profile: {name!r}; expected small letters, digits, - and _, and none of {kept}")
    return name


def outputs(profile: str, *parts: str) -> Path:
    """`outputs/<profile>/...`, with its parent folder made; ValueError for a path that leaves it."""
    path = OUTPUTS.joinpath(profile_name(profile), *parts)
    if ".." in path.parts or not path.is_relative_to(OUTPUTS / profile):
        raise ValueError(f"{'/'.join(parts)}: expected a path inside {shown(OUTPUTS / profile)}")
    make_folder(path.parent)
    return path


def metrics(profile: str, stage: str) -> Path:
    """Where a stage writes the numbers that `dvc metrics show` prints."""
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r}: expected one of {', '.join(STAGES)}")
    return outputs(profile, "metrics", f"{stage}.json")


def shown(path: Path) -> str:
    """A path as a reader would type it: relative to the repository where it lies in it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
