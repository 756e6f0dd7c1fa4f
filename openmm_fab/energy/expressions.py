"""OpenMM's custom-force expressions in torch: "4*eps*((s/r)^12-(s/r)^6); s=0.5*(s1+s2); eps=sqrt(eps1*eps2)".

The grammar, the functions and the order in which definitions see each other are those of Lepton, OpenMM's library
of expressions. An expression is parsed once, into a list of steps in which equal subexpressions are one step; a call
walks that list. Python's `eval` is nowhere near, and the walk does not depend on the data: torch.compile unrolls it.

    sum      ->  product (("+" | "-") product)*             definition  ->  name "=" sum
    product  ->  factor (("*" | "/") factor)*               expression  ->  sum (";" definition)*
    factor   ->  "-" factor | operand ("^" factor)?         -x^2 = -(x^2);  2^-x and x^y^z = x^(y^z) are allowed
    operand  ->  number | name | name "(" sum ("," sum)* ")" | "(" sum ")"
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from .geometry import root

NONE: Mapping = MappingProxyType({})


@dataclass(frozen=True)
class Expression:
    """Parsed expression of variables and tabulated functions; made by `Expression.parse`.

    Attributes
    ----------
    text : str
        As it was given to `parse`.
    variables : frozenset of str
        Names that need a value. A name whose definition is used, or that drops out (0*x), needs none.
    functions : frozenset of str
        The tabulated functions that are used.
    steps : tuple of Node
        What a call walks: arguments are positions in this list, and the last one is the result.
    """

    text: str
    variables: frozenset[str]
    functions: frozenset[str]
    steps: tuple[Node, ...] = field(repr=False)

    @classmethod
    def parse(cls, text: str, functions: Mapping[str, int] = NONE) -> Expression:
        """Parse an expression.

        Parameters
        ----------
        text : str
            In OpenMM's language. A definition may use those that stand after it.
        functions : mapping of str to int
            Names of tabulated functions and their numbers of arguments; they go before built-in ones.

        Raises
        ------
        ValueError
            For a syntax error, an unknown function, or a wrong number of arguments.
        """
        graph = _Graph()
        root = _guard_branches(graph, _Parser(text, functions, graph).parse())
        order = graph.order(root)
        position = {node: i for i, node in enumerate(order)}
        steps = [graph.nodes[node] for node in order]
        return cls(
            text,
            frozenset(str(s.value) for s in steps if s.kind == "variable"),
            frozenset(str(s.value) for s in steps if s.kind == "table"),
            tuple(Node(s.kind, s.value, tuple(position[a] for a in s.arguments)) for s in steps),
        )

    def __call__(
        self, values: Mapping[str, Tensor | float], functions: Mapping[str, Callable[..., Tensor]] = NONE
    ) -> Tensor:
        """Evaluate the expression elementwise.

        The derivatives of sqrt and abs at 0 are 0. What `select`, min and max do not take has no gradient, whatever is
        infinite or NaN in it.

        Parameters
        ----------
        values : mapping of str to tensor or float
            A value for each of `variables`, of shapes that broadcast; further names are ignored.
        functions : mapping of str to callable
            The tabulated functions (see `energy.tables.tabulated`).

        Returns
        -------
        tensor of the common shape of those variables that the expression uses, so () for a constant

        Raises
        ------
        ValueError
            If a variable or a function is missing.
        """
        self._check("values for", "variable", values)
        self._check("functions", "table", functions)
        given = [values[str(s.value)] for s in self.steps if s.kind == "variable"]
        tensors = [v for v in given if isinstance(v, Tensor) and v.is_floating_point()]
        # Numbers take the type of the tensor with the most dimensions, which decides in torch's own promotion, too.
        like = torch.empty((), dtype=torch.float64) if not tensors else tensors[0]
        for value in tensors:
            like = value if value.dim() > like.dim() else like

        def tensor(value: Tensor | float) -> Tensor:
            if isinstance(value, Tensor):
                return value if value.is_floating_point() else value.to(like.dtype)
            return torch.full((), value, dtype=like.dtype, device=like.device)

        results: list[Tensor | float] = []
        for step in self.steps:
            arguments = [results[a] for a in step.arguments]
            if step.kind == "number":
                results.append(step.value)  # type: ignore[arg-type]
            elif step.kind == "variable":
                results.append(tensor(values[str(step.value)]))
            elif step.kind == "table":
                results.append(functions[str(step.value)](*map(tensor, arguments)))
            elif step.value in _OPERATORS:  # these take plain numbers as they are
                results.append(_OPERATORS[str(step.value)](*arguments))
            else:
                results.append(_FUNCTIONS[str(step.value)][1](*map(tensor, arguments)))
        return tensor(results[-1])

    def _check(self, what: str, kind: str, given: Mapping) -> None:
        missing = [str(s.value) for s in self.steps if s.kind == kind and s.value not in given]
        if missing:
            raise ValueError(
                f"Expected {what} {sorted(missing)} in the expression {self.text!r}; got {sorted(given) or 'none'}."
            )


def evaluate(step: Node, arguments: Sequence[Tensor], functions: Mapping[str, Callable[..., Tensor]]) -> Tensor:
    """Value of one step: a number, an operation, or a tabulated function of tensors."""
    if step.kind == "number":
        return torch.tensor(step.value, dtype=torch.float64)
    if step.kind == "table":
        return functions[str(step.value)](*arguments)
    return (_OPERATORS.get(str(step.value)) or _FUNCTIONS[str(step.value)][1])(*arguments)


# --- operations ---


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


_OPERATORS: dict[str, Callable] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": operator.pow,
    "negate": operator.neg,
}
_TIGHTNESS = {"+": 1, "-": 1, "*": 2, "/": 2, "^": 4}
_TIGHTNESS_OF_SIGN = 3

_FUNCTIONS: dict[str, tuple[int, Callable[..., Tensor]]] = {
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
_ARGUMENTS = {name: count for name, (count, _) in _FUNCTIONS.items() if name not in _AUXILIARY} | {"min": 2, "max": 2}

# --- the graph ---


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


class _Graph:
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
            function = _OPERATORS.get(name) or _FUNCTIONS[name][1]
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


def _guard_branches(graph: _Graph, root: int) -> int:
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


# --- the parser ---


@dataclass(frozen=True)
class _Token:
    kind: str  # "number", "name", "sign" or "end"
    text: str
    start: int


# As in Lepton, a name is whatever is neither a number nor a sign.
_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<sign>[-+*/^(),;=])|(?P<name>[^\s()+\-*/^,;=]+)"
)


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str, functions: Mapping[str, int], graph: _Graph):
        self.text, self.functions, self.graph = text, functions, graph
        self.known: dict[str, int] = {}  # definitions so far

    def parse(self) -> int:
        found = [_Token(str(m.lastgroup), m.group(), m.start()) for m in _TOKEN.finditer(self.text)]
        parts: list[list[_Token]] = [[]]
        for token in found:
            if token.text == ";":
                parts[-1].append(_Token("end", ";", token.start))
                parts.append([])
            else:
                parts[-1].append(token)
        parts[-1].append(_Token("end", "the end", len(self.text)))
        # From the last one on, so that a definition finds those that stand after it.
        for part in reversed(parts[1:]):
            if part[0].kind != "end":
                self._read(part)
                name = self._expect("name", "a definition, name=...")
                self._expect("=", "'='")
                self.known[name.text] = self._whole()
        self._read(parts[0])
        return self._whole()

    def _read(self, tokens: list[_Token]) -> None:
        self.tokens, self.at = tokens, 0

    def _whole(self) -> int:
        node = self._sum()
        self._expect("end", "an operator or the end")
        return node

    def _sum(self, tightness: int = 0) -> int:
        """Operands joined by operators that bind at least as tightly."""
        left = self._operand()
        while _TIGHTNESS.get(self._next.text, -1) >= tightness:
            name = self._take().text
            right = self._sum(_TIGHTNESS[name] + (name != "^"))  # only ^ groups from the right
            left = self.graph.operation(name, left, right)
        return left

    def _operand(self) -> int:
        token = self._take()
        if token.kind == "number":
            return self.graph.number(float(token.text))
        if token.text == "-":
            return self.graph.operation("negate", self._sum(_TIGHTNESS_OF_SIGN))
        if token.text == "(":
            node = self._sum()
            self._expect(")", "')'")
            return node
        if token.kind != "name":
            raise self._error("a number, a name, '-' or '('", token)
        if self._next.text == "(":
            return self._call(token)
        if token.text in self.known:
            return self.known[token.text]
        return self.graph.add(Node("variable", token.text))

    def _call(self, name: _Token) -> int:
        self._take()
        arguments = [self._sum()]
        while self._next.text == ",":
            self._take()
            arguments.append(self._sum())
        self._expect(")", "',' or ')'")
        if name.text in self.functions:
            count = self.functions[name.text]
        elif name.text in _ARGUMENTS:
            count = _ARGUMENTS[name.text]
        else:
            raise self._error(f"a function out of {sorted({*_ARGUMENTS, *self.functions})}", name)
        if len(arguments) != count:
            raise self._error(f"{count} argument(s) of {name.text}", name, f"{len(arguments)}")
        if name.text in self.functions:
            return self.graph.add(Node("table", name.text, tuple(arguments)))
        return self.graph.operation(name.text, *arguments)

    @property
    def _next(self) -> _Token:
        return self.tokens[self.at]

    def _take(self) -> _Token:
        token = self._next
        self.at += token.kind != "end"
        return token

    def _expect(self, wanted: str, description: str) -> _Token:
        if wanted not in (self._next.kind, self._next.text):
            raise self._error(description, self._next)
        return self._take()

    def _error(self, expected: str, token: _Token, got: str | None = None) -> ValueError:
        place = f"at character {token.start + 1} of the expression {self.text!r}"
        return ValueError(f"Expected {expected} {place}; got {got or repr(token.text)}.")
