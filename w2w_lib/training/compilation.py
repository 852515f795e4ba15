"""torch.compile with caches that nobody else can write to."""

import os
from pathlib import Path

import torch
from torch import nn

CACHE = "TORCHINDUCTOR_CACHE_DIR"


def compiled(module: nn.Module, recorded: bool = False) -> nn.Module:
    """``torch.compile`` for batches of one size; what it makes is kept in a private folder of the user's cache.

    ``recorded`` as CUDA graphs, a GPU's kernels start all at once: faster where each has little to do.

    PyTorch runs what it finds in its caches, by default in a folder of the shared temporary one, which another user of
    the machine could have made before us. A cache that the user chose is left as it is. ValueError where a folder is
    not ours alone.
    """
    from torch._inductor.runtime.runtime_utils import default_cache_dir  # imports the compiler

    shared = private(Path(default_cache_dir()))  # compiled headers are there, wherever the rest is
    if os.environ.get(CACHE, str(shared)) == str(shared):  # PyTorch sets it to its default when it is imported
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        os.environ[CACHE] = str(private(Path(home).absolute() / "w2w_torchinductor"))
    return torch.compile(module, dynamic=False, mode="reduce-overhead" if recorded else None)


def private(folder: Path) -> Path:
    """A folder to run code from, made if there is none, and closed to others (PyTorch makes its own as the umask says).

    ValueError if somebody else owns it, or everybody could write to it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot keep compiled code there ({error.strerror}); set TMPDIR and XDG_CACHE_HOME to folders "
            "that can be written to, or do not compile"
        ) from None
    if os.name != "nt" and (found.st_uid != os.getuid() or found.st_mode & 0o002):
        raise ValueError(
            f"{folder}: somebody else owns it or everybody can write to it, expected a folder of your own to run code "
            "from; remove it, or do not compile"
        )
    folder.chmod(0o700)
    return folder
