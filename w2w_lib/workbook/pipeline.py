"""The notebooks as a pipeline of DVC: what it reads, running what changed, and another base model."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from w2w_lib.files.atomic import write_if_changed
from w2w_lib.files.folders import replace_folder, restore_folder
from w2w_lib.workbook import modules, paths, profiles, runner, settings

if TYPE_CHECKING:
    from w2w_lib.workbook.sections import BaseTraining

BASE_NOTEBOOK = "00_base.ipynb"
GRACE = 30  # seconds for an interrupted notebook to end
YES, NO = ("1", "yes", "true"), ("", "0", "no", "false")


def prepare() -> list[Path]:
    """Bring what DVC compares up to date, touching only what differs; return the files that changed.

    DVC depends on a listing of each notebook's code cells (`outputs/.stripped/*.py`), so neither outputs nor prose nor
    a save in Jupyter changes a stage; on the hashes of the library's modules that this code reaches (`*.modules`); on a
    listing of each profile's own pictures of people, if it has any, and of its release; and on the settings of
    params.yaml and local.yaml together (`outputs/.pipeline`).
    """
    codes = {path: runner.code(runner.read(path)) for path in runner.notebooks()}
    listings = {runner.listing(path): code for path, code in codes.items()}
    listings |= {
        runner.listing(path).with_suffix(runner.MODULES): modules.listing(code) for path, code in codes.items()
    }
    listings |= {paths.STRIPPED / f"{profile}.people": text for profile, text in profiles.sources().items()}
    listings |= {paths.STRIPPED / f"{profile}.release": text for profile, text in profiles.release_sources().items()}
    changed = [path for path, text in listings.items() if write_if_changed(text, path)]
    for orphan in set(paths.STRIPPED.glob("[!.]*")) - set(listings):
        orphan.unlink()
    return changed + profiles.write_pipeline_files()


def reproduce(profile: str, base: str | None = None, release: str | None = None) -> int:
    """Run every notebook of a profile whose inputs changed; return DVC's exit status."""
    with runner.one_run(profile):
        profiles.require_device(profile)  # and what does not fit in the settings is said before a base is downloaded
        profiles.enrol(profile, base, release)
        settings.load(profile)  # and on that base
        profiles.require_judges(profile)
        prepare()
        return _dvc("repro", "--glob", f"*@{profile}")


def measure_base(profile: str) -> str:
    """Run notebook 00 on a profile's base model as it is, or go on training it; return the cost, in words."""
    with runner.one_run(profile):
        restore_folder(paths.ROOT / _trained(profile).out)
        prepare()
        return runner.run(paths.NOTEBOOKS / BASE_NOTEBOOK, profile)


def renew_base(profile: str) -> str:
    """Train another base and classifier and measure them; only then do they replace those there are.

    An interrupted training goes on where it was. Returns the cost, in words.
    """
    new = paths.OUTPUTS / "base_training" / "new"
    with runner.one_run(profile):
        training = _trained(profile)
        restore_folder(paths.ROOT / training.out)
        _check_places(training, new)
        prepare()
        cost = runner.run(paths.NOTEBOOKS / BASE_NOTEBOOK, profile, anew=paths.shown(new))
        classifier = paths.ROOT / training.classifier.file
        replace_folder(new / "base", paths.ROOT / training.out)
        classifier.parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / "classifier.safetensors", classifier)
        shutil.rmtree(new)  # what is left is the work of a training that is finished
        runner.stamp(paths.NOTEBOOKS / BASE_NOTEBOOK, profile)  # what was measured lies elsewhere now
        return cost


def answer(text: str) -> bool:
    """Yes or no, as typed; ValueError for anything else."""
    if text.strip().lower() in YES + NO:
        return text.strip().lower() in YES
    raise ValueError(f"ANEW={text!r}: expected 1 (train another base) or 0 (measure the one there is)")


def _check_places(training: "BaseTraining", new: Path) -> None:
    """ValueError, before hours of training, where its result cannot or should not replace what is there."""
    out, file = paths.ROOT / training.out, paths.ROOT / training.classifier.file
    if out.is_relative_to(new) or new.is_relative_to(out):
        raise ValueError(f"base.training.out is {training.out}, where the new base is trained; expected another folder")
    if os.path.lexists(out) and not (out / profiles.INDEX).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(
            f"base.training.out is {training.out}, which holds something else than a base model and would be replaced "
            "whole; expected the folder of a base model, or none"
        )
    if file.is_dir():
        raise ValueError(f"base.training.classifier.file is {training.classifier.file}, a folder; expected a file")


def _trained(profile: str) -> "BaseTraining":
    training = settings.load(profile).base.training
    if training is None:
        raise ValueError(f"profile {profile!r} trains no base: expected one with base.training in params.yaml")
    return training


def _dvc(*words: str) -> int:
    """Run DVC with the programs of this environment and no shell between; return its exit status."""
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    process = subprocess.Popen([sys.executable, "-m", "dvc", *words], cwd=paths.ROOT, env=os.environ | {"PATH": search})
    try:
        return process.wait()
    except KeyboardInterrupt:
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)  # the terminal has interrupted DVC and the notebook too
        raise
