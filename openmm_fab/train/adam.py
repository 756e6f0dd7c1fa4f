"""Adam (Kingma and Ba 2015, arXiv 1412.6980, algorithm 1) on PyTorch's fused kernel.

The same numbers as `torch.optim.Adam(..., fused=True)`, whose first use imports the compiler: a second of every start.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

BETAS = 0.9, 0.999
EPSILON = 1e-8
KEPT = ("exp_avg", "exp_avg_sq", "step")  # of a parameter: running means of its gradient and the square, and steps


class Adam:
    """Adam optimiser of a list of parameters.

    Parameters
    ----------
    parameters : iterable of nn.Parameter
        Real; those without a gradient stay as they are.
    rate : float
        The learning rate; may be changed between steps.

    Attributes
    ----------
    factors : dict of nn.Parameter to float
        On the rate, of parameters that have one other than 1; may be changed between steps.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float) -> None:
        self.parameters, self.rate = list(parameters), rate
        self.factors: dict[nn.Parameter, float] = {}
        self._state: dict[int, dict[str, Tensor]] = {}  # by the parameter's place; from its first gradient on

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Make one step along the present gradients."""
        alike: dict[tuple[torch.device, torch.dtype, float], list[tuple[Tensor, ...]]] = {}
        for k, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            if k not in self._state:
                self._state[k] = {name: torch.zeros_like(parameter) for name in KEPT[:2]}
                self._state[k]["step"] = torch.zeros((), device=parameter.device)
            tensors = (parameter, parameter.grad, *(self._state[k][name] for name in KEPT))
            key = parameter.device, parameter.dtype, self.factors.get(parameter, 1.0)
            alike.setdefault(key, []).append(tensors)
        for (_, _, factor), rows in alike.items():
            parameters, gradients, means, squares, steps = map(list, zip(*rows, strict=True))
            torch._foreach_add_(steps, 1)
            torch._fused_adam_(
                *(parameters, gradients, means, squares, [], steps),
                lr=self.rate * factor,
                beta1=BETAS[0],
                beta2=BETAS[1],
                weight_decay=0.0,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )

    def state_dict(self) -> dict[str, Any]:
        """State that the next step depends on, under PyTorch's names: learning rate and moments by parameter."""
        places = list(range(len(self.parameters)))
        return {
            "state": {k: dict(self._state[k]) for k in sorted(self._state)},
            "param_groups": [{"lr": self.rate, "params": places}],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of `state_dict` or of `torch.optim.Adam`.

        Raises
        ------
        RuntimeError
            It is of other parameters.
        """
        (group,), found = state["param_groups"], {}
        for k, kept in state["state"].items():
            own = self.parameters[k]
            if any(kept[name].shape != own.shape for name in KEPT[:2]):
                raise RuntimeError(f"Expected means of shape {tuple(own.shape)}; got {tuple(kept['exp_avg'].shape)}.")
            found[k] = {name: kept[name].to(own, copy=True) for name in KEPT[:2]}
            found[k]["step"] = kept["step"].to(own.device, torch.float32, copy=True)
        if len(group["params"]) != len(self.parameters):
            raise RuntimeError(f"Expected {len(self.parameters)} parameters; got {len(group['params'])}.")
        self.rate, self._state = group["lr"], found
