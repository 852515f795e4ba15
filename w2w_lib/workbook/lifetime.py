"""One run, one life: what a run started ends with it, however it ends, and one profile has one run at a time."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import psutil

MARK = "W2W_RUN"  # in the environment of every process that a run started
POLL = 0.5  # seconds between two looks at the programs that a run depends on
STARTERS = {"make", "gmake", "uv", "dvc", "w2w"}
SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "fish"}
ROUNDS = 20  # of looking for processes that were started while others were ended
SETTLE = 0.2  # seconds until a process that is just being started shows its environment


@contextmanager
def ends_together() -> Iterator[None]:
    """Whatever is started in the block ends with it, also where this process or one that started it is killed.

    A guard, a process of its own, watches this process and the make, uv, dvc and shells above it. When one of them is
    gone it ends this process and every process with the run's mark in its environment, and removes the run's temporary
    folder. Within another such block nothing is added: the outer one sees to it.
    """
    if MARK in os.environ:
        yield
        return
    mark, folder = uuid4().hex, tempfile.mkdtemp(prefix="w2w-")
    watched = [str(process.pid) for process in (psutil.Process(), *starters())]
    guard = subprocess.Popen(
        [sys.executable, "-P", __file__, mark, folder, *watched],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # the terminal's interrupt is not for it
    )
    before = {name: os.environ.get(name) for name in (MARK, "TMPDIR")}
    os.environ |= {MARK: mark, "TMPDIR": folder}
    tempfile.tempdir = None  # it is looked up once
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})
        for name in (name for name, value in before.items() if value is None):
            del os.environ[name]
        tempfile.tempdir = None
        end(mark)
        guard.kill()
        guard.wait()
        shutil.rmtree(folder, ignore_errors=True)


def starters() -> list[psutil.Process]:
    """The programs above this one that belong to its run: make, uv, dvc, w2w and the shells between them."""
    above = []
    for process in psutil.Process().parents():
        kind = _kind(process)
        if kind is None:
            break
        above.append((process, kind))
    while above and above[-1][1] == "shell":  # whoever typed the command may log out
        above.pop()
    return [process for process, _ in above]


def end(mark: str) -> None:
    """Kill every process that has this mark in its environment, and what these started, but for this process.

    While Linux loads a program its environment reads as empty: one that was just started is found as another's child,
    or when everything is looked at once more.
    """
    clean = False
    for _ in range(ROUNDS):
        marked = [process for process in psutil.process_iter() if _has(process, mark)]
        if not marked and clean:
            return
        clean = not marked
        family = [*marked, *(child for process in marked for child in _descendants(process))]
        for process in family:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(family, timeout=2)
        time.sleep(SETTLE)


def _kind(process: psutil.Process) -> str | None:
    with suppress(psutil.Error):
        words = process.cmdline()
        names = [Path(word).name for word in words[:3]]  # such as python, -m, dvc
        if (
            names
            and names[0].lstrip("-") in SHELLS
            and any(word.startswith("-") and "c" in word for word in words[1:-1])
        ):
            return "shell"
        if STARTERS & set(names):
            return "program"
    return None


def _has(process: psutil.Process, mark: str) -> bool:
    with suppress(psutil.Error, OSError):
        return process.pid != os.getpid() and process.environ().get(MARK) == mark
    return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return process.children(recursive=True)
    return []


def _alive(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _guard(mark: str, folder: str, owner: str, *others: str) -> None:
    """Wait for one of these processes to go, then end the owner and all that has the mark."""
    with suppress(psutil.NoSuchProcess):
        run = psutil.Process(int(owner))
        with suppress(psutil.NoSuchProcess):
            watched = [run, *(psutil.Process(int(pid)) for pid in others)]
            while all(map(_alive, watched)):
                time.sleep(POLL)
        run.kill()
    end(mark)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _guard(*sys.argv[1:])
