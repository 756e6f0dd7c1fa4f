"""Steps of an expression: operations and functions of OpenMM's language on tensors, and the graph that they make.

Equal subexpressions are one step, operations on numbers alone are done at once, and branches that a `select` does not
take are kept from the gradient.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .geometry import root


def evaluate(step: Node, arguments: Sequence[Tensor], functions: Mapping[str, Callable[..., Tensor]]) -> Tensor:
    """Value of one step: a number, an operation, or a tabulated function of tensors."""
    if step.kind == "number":
        return torch.tensor(step.value, dtype=torch.float64)
    if step.kind == "table":
        return functions[str(step.value)](*arguments)
    return (OPERATORS.get(str(step.value)) or FUNCTIONS[str(step.value)][1])(*arguments)


def _step(x: Tensor) -> Tensor:
    return (x >= 0).to(x.dtype)


def _delta(x: Tensor) -> Tensor:
    return (x == 0).to(x.dtype)


def _select(condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition != 0, a, b)


def _gate_then(condition: Tensor, x: Tensor) -> Tensor:
    """x; its gradient passes only where the condition holds. Backwards, `where` turns even a NaN into 0."""
    return torch.where(condition != 0, x, x.detach()) if x.requires_grad else x


def _gate_else(condition: Tensor, x: Tensor) -> Tensor:
    return torch.where(condition != 0, x.detach(), x) if x.requires_grad else x


OPERATORS: dict[str, Callable] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": operator.pow,
    "negate": operator.neg,
}


FUNCTIONS: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "sqrt": (1, root),
    "exp": (1, torch.exp),
    "log": (1, torch.log),
    "sin": (1, torch.sin),
    "cos": (1, torch.cos),
    "sec": (1, lambda x: 1 / torch.cos(x)),
    "csc": (1, lambda x: 1 / torch.sin(x)),
    "tan": (1, torch.tan),
    "cot": (1, lambda x: 1 / torch.tan(x)),
    "asin": (1, torch.asin),
    "acos": (1, torch.acos),
    "atan": (1, torch.atan),
    "atan2": (2, torch.atan2),
    "sinh": (1, torch.sinh),
    "cosh": (1, torch.cosh),
    "tanh": (1, torch.tanh),
    "erf": (1, torch.erf),
    "erfc": (1, torch.erfc),
    "abs": (1, torch.abs),
    "floor": (1, torch.floor),
    "ceil": (1, torch.ceil),
    "step": (1, _step),
    "delta": (1, _delta),
    "select": (3, _select),
    "square": (1, torch.square),
    "cube": (1, lambda x: x * x * x),
    "recip": (1, torch.reciprocal),
    "less": (2, lambda a, b: (a < b).to(a.dtype)),
    "not less": (2, lambda a, b: (a >= b).to(a.dtype)),
    "detach": (1, torch.detach),
    "gate then": (2, _gate_then),
    "gate else": (2, _gate_else),
}


_AUXILIARY = {"less", "not less", "detach", "gate then", "gate else"}  # ours, not in the language


_CONDITIONS = {"min": "less", "max": "not less"}  # min(a, b) = select(a < b, a, b)


ARGUMENTS = {name: count for name, (count, _) in FUNCTIONS.items() if name not in _AUXILIARY} | {"min": 2, "max": 2}


@dataclass(frozen=True)
class Node:
    """One step of an expression. kind: "number", "variable", "table" (a tabulated function) or "operation"; value:
    which one."""

    kind: str
    value: float | str
    arguments: tuple[int, ...] = ()

    @property
    def is_select(self) -> bool:
        return self.kind == "operation" and self.value == "select"


class Graph:
    """Nodes, each of them once; arguments are positions in `nodes`."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._positions: dict[Node, int] = {}

    def add(self, node: Node) -> int:
        if node not in self._positions:
            self._positions[node] = len(self.nodes)
            self.nodes.append(node)
        return self._positions[node]

    def number(self, value: float) -> int:
        return self.add(Node("number", value))

    def operation(self, name: str, *arguments: int) -> int:
        """Add an operation, or what it comes to: a number, one of its arguments, another operation."""
        if name in _CONDITIONS:
            return self.operation("select", self.operation(_CONDITIONS[name], *arguments), *arguments)
        numbers = [self.nodes[a].value if self.nodes[a].kind == "number" else None for a in arguments]
        if None not in numbers:
            function = OPERATORS.get(name) or FUNCTIONS[name][1]
            result = function(*(torch.tensor(v, dtype=torch.float64, device="cpu") for v in numbers))
            return self.number(float(result))
        # Lepton simplifies these, too: it is what they are worth where the rest of them is infinite or NaN.
        if (name == "*" and 0.0 in numbers) or (name in "/^" and numbers[0] == 0.0):
            return self.number(0.0)
        if name == "^" and numbers[1] == 0.0:
            return self.number(1.0)
        if name == "^" and numbers[1] == 0.5:
            return self.operation("sqrt", arguments[0])
        if name in "-/" and arguments[0] == arguments[1]:
            return self.number(0.0 if name == "-" else 1.0)
        if name == "select" and numbers[0] is not None:
            return arguments[1] if numbers[0] != 0.0 else arguments[2]
        return self.add(Node("operation", name, arguments))

    def order(self, root: int) -> list[int]:
        """What the root needs, arguments before their users, and each argument's own needs before the next one's."""
        order: list[int] = []
        seen: set[int] = set()
        stack = [(root, False)]
        while stack:  # no recursion: a sum of a thousand terms is a thousand deep
            index, complete = stack.pop()
            if complete:
                order.append(index)
            elif index not in seen:
                seen.add(index)
                stack.append((index, True))
                stack.extend((a, False) for a in reversed(self.nodes[index].arguments))
        return order


_Path = tuple[tuple[int, bool], ...]


def guard_branches(graph: Graph, root: int) -> int:
    """Keep the branch that a `select` does not take from poisoning the gradient; returns the new root.

    torch.where hands a gradient of 0 to the branch not taken, and where something in it has an infinite derivative 0
    becomes NaN. So what enters a branch from outside passes a gate, which stops the gradient where the branch is not
    taken. A node is in a branch if all its users are: `path` lists the branches, as (condition, taken if it holds).
    Variables are outside. Conditions have no gradient: they are computed apart, from detached variables.
    """
    order = graph.order(root)
    if not any(graph.nodes[index].is_select for index in order):
        return root
    detached: dict[int, int] = {}
    for index in order:
        node = graph.nodes[index]
        if node.kind == "variable":
            detached[index] = graph.add(Node("operation", "detach", (index,)))
        else:
            detached[index] = graph.add(Node(node.kind, node.value, tuple(detached[a] for a in node.arguments)))
    paths: dict[int, _Path] = {root: ()}
    for index in reversed(order):  # users first
        if index in paths:  # else it serves conditions only
            for argument, branch in _used(graph.nodes[index]):
                path = paths[index] + branch if graph.nodes[argument].kind != "variable" else ()
                paths[argument] = _common(paths.get(argument, path), path)
    rebuilt: dict[int, int] = {}
    for index in order:
        if index not in paths:
            continue
        node = graph.nodes[index]
        arguments = [detached[node.arguments[0]]] if node.is_select else []
        for argument, _ in _used(node):
            gated = rebuilt[argument]
            if graph.nodes[argument].kind != "number":
                for condition, taken in paths[index][len(paths[argument]) :]:
                    gate = "gate then" if taken else "gate else"
                    gated = graph.add(Node("operation", gate, (detached[condition], gated)))
            arguments.append(gated)
        rebuilt[index] = graph.add(Node(node.kind, node.value, tuple(arguments)))
    return rebuilt[root]


def _used(node: Node) -> list[tuple[int, _Path]]:
    """The arguments that have a gradient, and the branch in which each of them is."""
    if not node.is_select:
        return [(argument, ()) for argument in node.arguments]
    condition, a, b = node.arguments
    return [(a, ((condition, True),)), (b, ((condition, False),))]


def _common(a: _Path, b: _Path) -> _Path:
    same = 0
    while same < min(len(a), len(b)) and a[same] == b[same]:
        same += 1
    return a[:same]
