"""Seconds and bytes of calls whose cost is known."""

import time

import pytest
import torch
from torch import nn

from w2w_lib.evaluation.cost import backward_bytes, timed


def test_seconds_are_those_of_the_call():
    found = timed(lambda seconds, said: time.sleep(seconds) or said, 0.05, said="done")
    assert found.result == "done" and found.seconds == pytest.approx(0.05, abs=0.1) and found.seconds >= 0.05


def test_bytes_are_what_autograd_keeps_without_the_frozen_weights():
    frozen = nn.Linear(100, 100, bias=False).requires_grad_(False)
    inputs = torch.randn(7, 100, requires_grad=True)
    assert backward_bytes(frozen, lambda: frozen(inputs).sum().backward()) == 0  # its weights alone
    assert backward_bytes(frozen, lambda x: frozen(x).square().sum().backward(), inputs) == 4 * 7 * 100
