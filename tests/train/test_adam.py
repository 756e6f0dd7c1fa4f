"""Gradient steps are those of torch.optim.Adam, to the bit, and go on from its state."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from openmm_fab.train.adam import Adam


def _parameters() -> list[nn.Parameter]:
    random = torch.Generator().manual_seed(0)
    shapes = [((5, 3), torch.float32), ((), torch.float64), ((7,), torch.float64), ((2, 2), torch.float32)]
    return [nn.Parameter(torch.randn(shape, generator=random, dtype=dtype)) for shape, dtype in shapes]


def _theirs(parameters: list[nn.Parameter], rate: float) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=rate, fused=True)


def _give_gradients(parameters: list[nn.Parameter], k: int) -> None:
    """Of step k; the last parameter has none at first, the second none now and then."""
    for place, parameter in enumerate(parameters):
        random = torch.Generator().manual_seed(100 * k + place)
        gone = (place == 3 and k < 4) or (place == 1 and k % 3 == 0)
        given = 10.0 ** (-place) * torch.randn(parameter.shape, generator=random, dtype=parameter.dtype)
        parameter.grad = None if gone else given


def _steps(optimizer: Adam | torch.optim.Adam, parameters: list[nn.Parameter], first: int, last: int) -> None:
    for k in range(first, last):
        _give_gradients(parameters, k)
        rate = 1e-2 / (1 + k)
        if isinstance(optimizer, Adam):
            optimizer.rate = rate
        else:
            optimizer.param_groups[0]["lr"] = rate
        optimizer.step()


def _assert_same(a: list[nn.Parameter], b: list[nn.Parameter]) -> None:
    for own, other in zip(a, b, strict=True):
        assert torch.equal(own, other)


def test_steps_are_those_of_pytorch() -> None:
    own, other = _parameters(), _parameters()
    _steps(Adam(own, 1e-2), own, 0, 20)
    _steps(_theirs(other, 1e-2), other, 0, 20)
    _assert_same(own, other)
    assert not torch.equal(own[0], _parameters()[0])


@pytest.mark.parametrize("first", ["own", "theirs"])
def test_a_state_goes_on(first: str) -> None:
    parameters = _parameters()
    before = Adam(parameters, 1e-2) if first == "own" else _theirs(parameters, 1e-2)
    _steps(before, parameters, 0, 7)
    after = Adam(parameters, 1e-2)
    after.load_state_dict(before.state_dict())
    _steps(after, parameters, 7, 12)
    whole = _parameters()
    _steps(_theirs(whole, 1e-2), whole, 0, 12)
    _assert_same(parameters, whole)


def test_a_state_is_a_copy_once_it_is_loaded() -> None:
    parameters = _parameters()
    optimizer = Adam(parameters, 1e-2)
    _steps(optimizer, parameters, 0, 5)
    state = optimizer.state_dict()
    other = Adam(_parameters(), 1e-2)
    other.load_state_dict(state)
    kept = state["state"][0]["exp_avg"].clone()
    _steps(other, other.parameters, 5, 6)
    assert torch.equal(state["state"][0]["exp_avg"], kept)


def test_a_state_of_other_parameters_is_refused() -> None:
    parameters = _parameters()
    optimizer = Adam(parameters, 1e-2)
    _steps(optimizer, parameters, 0, 5)
    for others in (parameters[:-1], [nn.Parameter(torch.zeros(3)), *parameters[1:]]):
        with pytest.raises((RuntimeError, IndexError)):
            Adam(others, 1e-2).load_state_dict(optimizer.state_dict())


def test_training_does_not_load_the_compiler() -> None:
    code = """if True:
        import sys
        import torch
        from openmm_fab.flow.coupling import CouplingFlow
        from openmm_fab.flow.settings import FlowSettings
        from openmm_fab.target import Gaussian
        from openmm_fab.train.settings import Budget, TrainSettings
        from openmm_fab.train.trainer import Trainer

        flow = CouplingFlow(torch.zeros(2, dtype=torch.bool), FlowSettings(layers=2, hidden=4, bins=4))
        settings = TrainSettings(batch=16, updates=2, buffer_min=2, buffer_max=4)
        trainer = Trainer(flow, Gaussian(torch.zeros(2), torch.ones(2)), Budget(iterations=2), settings=settings)
        assert len(list(trainer)) == 2
        trainer.load_state_dict(trainer.state_dict())
        print("torch._dynamo" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
