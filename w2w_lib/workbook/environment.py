"""`environment.yml` for conda users, written from `uv.lock` so that both name the same versions."""

import os
import subprocess

from packaging.requirements import Requirement

from w2w_lib.workbook import paths

APART = "facenet-pytorch"
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.14"}
PLATFORMS = [
    {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
    {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
]
HEADER = """\
# Written by `make environment.yml` from uv.lock: the same versions, for conda users. Two commands:
#
#   conda env create -f environment.yml && conda activate w2w
#   pip install --no-deps {apart} -e .
#
# {name} 2.6 declares limits (torch<2.3, numpy<2, Pillow<10.3) that the workbook does not need. uv
# overrides them (pyproject.toml); pip can only pass over them, and not for one line of a list: hence two.
name: w2w
channels: [conda-forge]
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def render() -> str:
    """The text of `environment.yml`: every package of the lock at its version, development tools included."""
    options = "export --frozen --quiet --no-hashes --no-emit-project --no-annotate --no-header".split()
    uv = os.environ.get("UV", "uv")  # `uv run` says where it is; it need not be on the path
    try:
        export = subprocess.run([uv, *options], cwd=paths.ROOT, check=True, capture_output=True, text=True)
    except OSError as error:
        raise ValueError(f"{uv!r} cannot be run ({error.strerror}): expected uv, which `make` installs") from None
    except subprocess.CalledProcessError as error:
        raise ValueError(f"uv.lock: uv cannot read it ({' '.join(error.stderr.split())}); `git restore` it") from None
    pins = [pin for line in export.stdout.splitlines() if (pin := _for_python(Requirement(line)))]
    (apart,) = [pin for pin in pins if pin.startswith(APART)]
    listed = "".join(f"      - {pin}\n" for pin in pins if pin != apart)
    return HEADER.format(apart=apart, name=APART) + listed


def _for_python(line: Requirement) -> str | None:
    # conda fixes the Python, so its conditions are settled here; a condition on the platform stays
    pin = f"{line.name}=={next(iter(line.specifier)).version}"
    holds = [line.marker is None or line.marker.evaluate(PYTHON | platform) for platform in PLATFORMS]
    return pin if all(holds) else f"{pin} ; {line.marker}" if any(holds) else None
