"""Folders that are replaced whole."""

import os
import shutil
from pathlib import Path


def replace_folder(new: str | Path, old: str | Path) -> None:
    """Put the folder ``new`` in the place of ``old``, which is removed; ``old`` stays where that fails.

    ``new`` may lie on another disk: it is copied beside ``old`` first, so that all that is left are two renames. A
    process that is killed between these leaves the old folder aside: ``restore_folder`` puts it back. ValueError where
    ``new`` is no folder or one lies in the other; FileNotFoundError where there is no ``new``.
    """
    new, old = Path(new), Path(old)
    if not new.exists():
        raise FileNotFoundError(f"{new}: no such folder; expected what is to replace {old}; nothing was changed")
    if not new.is_dir() or new.is_symlink():
        raise ValueError(f"{new}: is no folder; expected what is to replace {old}; nothing was changed")
    inner, outer = new.resolve(), old.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise ValueError(f"{new} and {old}: one lies in the other; expected two folders; nothing was changed")
    restore_folder(old)
    old.parent.mkdir(parents=True, exist_ok=True)
    ready, aside = new, _aside(old)
    if new.stat().st_dev != old.parent.stat().st_dev:
        ready = _arriving(old)
        shutil.copytree(new, ready, symlinks=True)
    try:
        if os.path.lexists(old):
            os.rename(old, aside)
        os.rename(ready, old)
    except BaseException:
        restore_folder(old)
        raise
    _remove(aside)
    _remove(new)


def restore_folder(old: str | Path) -> None:
    """Put back the folder that a killed ``replace_folder`` left aside, and remove copies that it no longer needs."""
    old = Path(old)
    aside = _aside(old)
    if os.path.lexists(aside) and not os.path.lexists(old):
        os.rename(aside, old)
    _remove(aside)
    _remove(_arriving(old))


def _aside(old: Path) -> Path:
    return old.with_name(f".{old.name}.replaced")


def _arriving(old: Path) -> Path:
    return old.with_name(f".{old.name}.arriving")


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
