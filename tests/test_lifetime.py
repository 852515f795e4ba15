"""What a run started ends with it, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from w2w_lib.workbook import lifetime

SCRIPT = """
import subprocess, sys, time
from w2w_lib.workbook import lifetime
with lifetime.ends_together():
    helper = "import subprocess, sys, time, tempfile; tempfile.mkstemp(); " \\
        "print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid, tempfile.gettempdir(), flush=True); " \\
        "time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", helper], stdin=subprocess.DEVNULL, start_new_session=True)
    print(process.pid, flush=True)
    sys.stdin.readline()
"""


def started(process) -> tuple[list[psutil.Process], Path]:
    """The two processes that a run started, and its temporary folder."""
    lines = sorted((process.stdout.readline().split() for _ in range(2)), key=len)
    return [psutil.Process(int(line[0])) for line in lines], Path(lines[1][1])


def gone(processes: list[psutil.Process], within: float = 20) -> bool:
    return not psutil.wait_procs(processes, timeout=within)[1]


def vanishes(folder: Path, within: float = 10) -> bool:
    until = time.monotonic() + within
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.05)
    return not folder.exists()


def start(*command: str) -> subprocess.Popen:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.slow
@pytest.mark.parametrize("how", [None, signal.SIGTERM, signal.SIGKILL])
def test_a_run_takes_along_what_it_started(how):
    with start(sys.executable, "-c", SCRIPT) as run:
        processes, folder = started(run)
        if how is None:
            run.stdin.close()  # it comes to its end
        else:
            os.kill(run.pid, how)
        assert gone(processes) and vanishes(folder)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["dvc", "make"])
def test_a_run_ends_with_the_program_that_started_it(tmp_path, program):
    (tmp_path / "run.py").write_text(SCRIPT)
    starter = tmp_path / program
    starter.write_text(f'#!/bin/sh\n/bin/sh -c "{sys.executable} {tmp_path}/run.py; exit 1"\nexit 1\n')
    starter.chmod(0o755)
    with start(str(starter)) as process:
        processes, folder = started(process)
        run = processes[0].parent()
        time.sleep(1)  # the guard looks at the starter
        os.kill(process.pid, signal.SIGKILL)
        assert gone([run, *processes]) and vanishes(folder)


@pytest.mark.slow
def test_a_shell_that_typed_the_command_may_end(tmp_path):
    (tmp_path / "run.py").write_text(SCRIPT)
    with start("/bin/sh", "-c", f"exec 3<&0; {sys.executable} {tmp_path}/run.py <&3 & sleep 60; exit") as shell:
        processes, _ = started(shell)
        run = processes[0].parent()
        time.sleep(1)
        os.kill(shell.pid, signal.SIGKILL)
        assert not gone([run], within=1.5)
        run.kill()
        assert gone(processes)


@pytest.mark.slow
def test_a_program_without_an_environment_ends_with_the_one_that_started_it():
    script = SCRIPT.replace("start_new_session=True).pid", "start_new_session=True, env={}).pid")
    with start(sys.executable, "-c", script) as run:
        processes, _ = started(run)
        assert processes[1].environ() == {}
        run.stdin.close()
        assert gone(processes)


def test_a_run_within_a_run_is_part_of_it(monkeypatch):
    monkeypatch.setenv(lifetime.MARK, "outer")
    before = dict(os.environ)
    with lifetime.ends_together():
        assert dict(os.environ) == before


def test_the_environment_is_as_before(monkeypatch):
    monkeypatch.delenv(lifetime.MARK, raising=False)
    before = dict(os.environ)
    with lifetime.ends_together():
        assert os.environ["TMPDIR"] != before.get("TMPDIR") and Path(os.environ["TMPDIR"]).is_dir()
    assert dict(os.environ) == before
