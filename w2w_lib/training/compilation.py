"""torch.compile with a cache that nobody else can write to."""

import os
from pathlib import Path

import torch
from torch import nn

CACHE = "TORCHINDUCTOR_CACHE_DIR"
ADVICE = f"set {CACHE} to a folder that only you can write to, or do not compile"


def compiled(module: nn.Module) -> nn.Module:
    """``torch.compile`` for batches of one size; what it makes is cached in ``private_cache()``.

    PyTorch loads compiled code from its cache, which lies by default in the shared temporary folder, where another
    user of the machine could put a file of their own. A cache that the user chose is left as it is.
    """
    if CACHE not in os.environ:
        os.environ[CACHE] = str(private_cache())
    return torch.compile(module, dynamic=False)


def private_cache() -> Path:
    """A folder for compiled code, made if there is none; ValueError if it is not ours or open to others."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute()
    folder = home / "w2w_torchinductor"
    try:
        home.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise ValueError(f"{folder}: cannot keep compiled code there ({error.strerror}); {ADVICE}") from None
    if os.name != "nt" and (found.st_uid != os.getuid() or found.st_mode & 0o077):
        raise ValueError(f"{folder}: expected a folder that is yours alone (mode 0700), to run code from; {ADVICE}")
    return folder
