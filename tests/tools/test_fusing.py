"""Fused functions and their derivatives: the same numbers, and one graph each."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from openmm_fab.tools.fusing import FusedMap


def function(z: Tensor) -> list[Tensor]:
    return [z.sin() * z.flip(0), z.square().sum(0)]


def test_each_is_compiled_once(monkeypatch) -> None:
    """Whether z requires a gradient or not, in inference mode, and from autograd's side."""
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    fused, z = FusedMap(function, 3, 4, "The test"), torch.randn(3, 10, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        at = [z.clone().requires_grad_() for _ in range(2)]
        for of in (fused(at[0]), function(at[1])):
            (of[0].sum() + 2 * of[1].sum()).backward()
        torch.testing.assert_close(at[0].grad, at[1].grad)
        with torch.no_grad():
            torch.testing.assert_close(fused(z), tuple(function(z)))
        with torch.inference_mode():
            torch.testing.assert_close(fused(z), tuple(function(z)))
        fused(z)
    assert counter.frame_count == 2  # the function and its derivative
