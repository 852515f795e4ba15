"""What a step of training costs: seconds, and the memory that its backward pass needs."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Cost(NamedTuple):
    """What a call returned and how long it took."""

    result: Any
    seconds: float


def timed(function: Callable[..., Any], *args: Any, **named: Any) -> Cost:
    """Call a function and measure its seconds, on a GPU until all of its work is done."""
    start = time.perf_counter()
    result = function(*args, **named)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Cost(result, time.perf_counter() - start)


def backward_bytes(frozen: nn.Module, function: Callable[..., Any], *args: Any, **named: Any) -> int:
    """Bytes that a call keeps for its backward passes, each tensor counted once, without a frozen module's weights.

    Call it with a single step: tensors that one step frees and the next one makes anew may count twice.
    """
    weights = {p.untyped_storage().data_ptr() for p in frozen.parameters()}
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        function(*args, **named)
    return sum(size for pointer, size in saved.items() if pointer not in weights)
