"""A value with the gradient of another one."""

from __future__ import annotations

import torch

from openmm_fab.tools.gradients import with_gradient_of


def test_the_value_stays_and_gradients_add_up():
    x = torch.tensor([1.3, -0.7, 1e8], requires_grad=True)
    value = x.square()
    found = with_gradient_of(value, 5 * x)
    assert torch.equal(found, value)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(gradient, 2 * x.detach() + 5)


def test_a_constant_gets_the_gradient_of_the_surrogate():
    x = torch.tensor([0.4, 2.0], requires_grad=True)
    found = with_gradient_of(torch.tensor([3.0, -1.0]), (x * torch.tensor([7.0, 9.0])).flip(0))
    assert found.tolist() == [3.0, -1.0]
    (gradient,) = torch.autograd.grad(found[0], x)
    assert gradient.tolist() == [0.0, 9.0]
