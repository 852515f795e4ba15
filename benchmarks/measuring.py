"""What every benchmark measures with: the rate of a large matrix product, operations, seconds and memory."""

import gc
import resource
import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

GEMM_SIZE, GEMM_REPEATS, GEMM_TIMES = {"cpu": 2048, "cuda": 8192}, 10, 5


def gemm_rate(device: str, dtype: torch.dtype) -> float:
    """Operations per second of a large matrix product: the best of several measurements, as others may disturb one."""
    size, seconds = GEMM_SIZE[device], []
    a = torch.randn(size, size, dtype=dtype, device=device)
    for _ in range(GEMM_TIMES):
        began = time.perf_counter()
        for _ in range(GEMM_REPEATS):
            result = a @ a
        result.sum().item()
        seconds.append((time.perf_counter() - began) / GEMM_REPEATS)
    return 2 * size**3 / min(seconds)


def flops_of(call: Callable[[], object]) -> int:
    """Floating-point operations of a call, counted by PyTorch."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds of a call, with what it leaves running on a GPU."""
    synchronize()
    began = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - began


def synchronize() -> None:
    """Wait until a GPU, if there is one, is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def forget_peak_memory(device: str) -> None:
    """Let the peak of a GPU's memory begin here; that of a process on a CPU began when it did."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_memory(device: str) -> int:
    """Most bytes allocated on a GPU since ``forget_peak_memory``, or held by this process on a CPU."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else peak_rss()


def peak_rss() -> int:
    """Most bytes of main memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in kilobytes
