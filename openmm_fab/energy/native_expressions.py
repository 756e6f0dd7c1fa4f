"""C code of a custom force's expression and of its derivatives.

Subexpressions of parameters alone are computed by PyTorch when the code is made, and passed as columns of numbers, one
for each row; the rest becomes statements for one structure, followed by those of reverse-mode differentiation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..tools.errors import OpenMMFabError
from .expression_graph import Node, evaluate
from .expressions import Expression

LARGEST_POWER = 12  # of a whole exponent that is written as products

_VALUES = {
    "+": "{0} + {1}",
    "-": "{0} - {1}",
    "*": "{0} * {1}",
    "/": "{0} * (1.0 / {1})",  # a compiler takes equal reciprocals once
    "^": "pow({0}, {1})",
    "negate": "-{0}",
    "square": "{0} * {0}",
    "cube": "{0} * {0} * {0}",
    "recip": "1.0 / {0}",
    "sec": "1.0 / cos({0})",
    "csc": "1.0 / sin({0})",
    "cot": "1.0 / tan({0})",
    "abs": "fabs({0})",
    "step": "({0} >= 0.0 ? 1.0 : 0.0)",
    "delta": "({0} == 0.0 ? 1.0 : 0.0)",
    "select": "({0} != 0.0 ? {1} : {2})",
    "less": "({0} < {1} ? 1.0 : 0.0)",
    "not less": "({0} >= {1} ? 1.0 : 0.0)",
    "detach": "{0}",
    "gate then": "{1}",
    "gate else": "{1}",
} | {
    name: f"{name}({{0}})"
    for name in "sqrt exp log sin cos tan asin acos atan sinh cosh tanh erf erfc floor ceil".split()
}
_VALUES["atan2"] = "atan2({0}, {1})"

# By operation and argument: the derivative, times A of what comes from above; X, Y the arguments, V the value.
_SLOPES = {
    ("+", 0): "{A}",
    ("+", 1): "{A}",
    ("-", 0): "{A}",
    ("-", 1): "-{A}",
    ("*", 0): "{A} * {Y}",
    ("*", 1): "{A} * {X}",
    ("/", 0): "{A} * (1.0 / {Y})",
    ("/", 1): "-{A} * {V} * (1.0 / {Y})",
    ("^", 0): "{A} * {Y} * pow({X}, {Y} - 1.0)",
    ("^", 1): "{A} * {V} * log({X})",
    ("negate", 0): "-{A}",
    ("sqrt", 0): "({V} > 0.0 ? 0.5 * {A} * (1.0 / {V}) : 0.0)",
    ("exp", 0): "{A} * {V}",
    ("log", 0): "{A} * (1.0 / {X})",
    ("sin", 0): "{A} * cos({X})",
    ("cos", 0): "-{A} * sin({X})",
    ("tan", 0): "{A} * (1.0 + {V} * {V})",
    ("sec", 0): "{A} * {V} * tan({X})",
    ("csc", 0): "-{A} * {V} / tan({X})",
    ("cot", 0): "-{A} * (1.0 + {V} * {V})",
    ("asin", 0): "{A} / sqrt(1.0 - {X} * {X})",
    ("acos", 0): "-{A} / sqrt(1.0 - {X} * {X})",
    ("atan", 0): "{A} / (1.0 + {X} * {X})",
    ("atan2", 0): "{A} * {Y} / ({X} * {X} + {Y} * {Y})",
    ("atan2", 1): "-{A} * {X} / ({X} * {X} + {Y} * {Y})",
    ("sinh", 0): "{A} * cosh({X})",
    ("cosh", 0): "{A} * sinh({X})",
    ("tanh", 0): "{A} * (1.0 - {V} * {V})",
    ("erf", 0): "{A} * 1.1283791670955126 * exp(-{X} * {X})",
    ("erfc", 0): "-{A} * 1.1283791670955126 * exp(-{X} * {X})",
    ("abs", 0): "({X} > 0.0 ? {A} : ({X} < 0.0 ? -{A} : 0.0))",
    ("square", 0): "2.0 * {A} * {X}",
    ("cube", 0): "3.0 * {A} * {X} * {X}",
    ("recip", 0): "-{A} * {V} * {V}",
    ("select", 1): "({X} != 0.0 ? {A} : 0.0)",
    ("select", 2): "({X} != 0.0 ? 0.0 : {A})",
    ("gate then", 1): "({X} != 0.0 ? {A} : 0.0)",
    ("gate else", 1): "({X} != 0.0 ? 0.0 : {A})",
}


class NoNativeCodeError(OpenMMFabError, NotImplementedError):
    """A part of a force that has no C code and is left to PyTorch; the message says which."""


class NativeExpression:
    """C code of an expression in some variables, with derivatives with respect to them.

    Parameters
    ----------
    expression : Expression
    variables : mapping of str to str
        Variables that differ from structure to structure, and how C calls them.
    parameters : mapping of str to array (rows,) or float
        All other variables.
    functions : mapping of str to callable
        The tabulated functions.

    Attributes
    ----------
    columns : list of ndarray, shapes (rows,) or ()
        What depends on parameters alone; C reads them as p[0], p[1], ...

    Raises
    ------
    NoNativeCodeError
        A tabulated function of one of the variables.
    """

    def __init__(
        self,
        expression: Expression,
        variables: Mapping[str, str],
        parameters: Mapping[str, np.ndarray | float],
        functions: Mapping[str, Callable[..., Tensor]],
    ) -> None:
        self._steps, self._variables = expression.steps, dict(variables)
        self.columns: list[np.ndarray] = []
        self._varies = self._reached(lambda step: step.kind == "variable" and step.value in variables)
        values: list[Tensor] = []  # of what does not vary; the others' are never looked at
        for step, varies in zip(self._steps, self._varies, strict=True):
            if varies:
                if step.kind == "table":
                    raise NoNativeCodeError(f"the tabulated function {step.value!r} of what varies")
                values.append(torch.zeros(()))
            elif step.kind == "variable":
                values.append(torch.as_tensor(np.asarray(parameters[str(step.value)], dtype=np.float64)))
            else:
                values.append(evaluate(step, [values[a] for a in step.arguments], functions))
        self._names: dict[int, str] = {}
        users = [step for step, varies in zip(self._steps, self._varies, strict=True) if varies]
        for k in sorted({a for step in users for a in step.arguments} | {len(self._steps) - 1}):
            if self._varies[k]:
                self._names[k] = f"e{k}"
            elif self._steps[k].kind == "number" and k < len(self._steps) - 1:
                self._names[k] = literal(float(self._steps[k].value))
            else:
                self._names[k] = f"p[{len(self.columns)}]"
                self.columns.append(values[k].numpy())

    @property
    def value(self) -> str:
        """C expression of the value, valid after the statements of `forward`."""
        return self._names[len(self._steps) - 1]

    def forward(self) -> list[str]:
        """C statements that compute the value."""
        return [f"const double e{k} = {self._statement(step)};" for k, step in self._varying()]

    def backward(self, above: str = "1.0") -> tuple[list[str], dict[str, str]]:
        """C statements to follow those of `forward`, and the derivatives with respect to the variables, times `above`.

        Variables that the value does not depend on are left out.
        """
        rigid = {"step", "delta", "floor", "ceil", "less", "not less", "detach"}
        moves = self._reached(
            lambda step: step.kind == "variable" and step.value in self._variables,
            lambda step: () if step.value in rigid else step.arguments[1:] if _chooses(step) else step.arguments,
        )
        parts, statements, found = {len(self._steps) - 1: [above]}, [], {}
        for k, step in reversed(list(self._varying())):
            if not moves[k] or k not in parts:
                continue
            slope = f"d{k}"
            statements.append(f"const double {slope} = {' + '.join(parts[k])};")
            if step.kind == "variable":
                found[str(step.value)] = slope
            for place, argument in enumerate(step.arguments):
                if moves[argument] and not (_chooses(step) and place == 0):
                    parts.setdefault(argument, []).append(self._slope(k, step, place, slope))
        return statements, found

    def _varying(self) -> list[tuple[int, Node]]:
        return [(k, step) for k, step in enumerate(self._steps) if self._varies[k]]

    def _reached(
        self, starts: Callable[[Node], bool], along: Callable[[Node], Sequence[int]] = lambda step: step.arguments
    ) -> list[bool]:
        """For every step: does it, or one of its arguments, start?"""
        found: list[bool] = []
        for step in self._steps:
            found.append(starts(step) or any(found[a] for a in along(step)))
        return found

    def _statement(self, step: Node) -> str:
        if step.kind == "variable":
            return self._variables[str(step.value)]
        arguments = [self._names[a] for a in step.arguments]
        exponent = self._whole(step)
        return _VALUES[str(step.value)].format(*arguments) if exponent is None else power(arguments[0], exponent)

    def _slope(self, k: int, step: Node, place: int, above: str) -> str:
        x, *others = (self._names[a] for a in step.arguments)
        exponent = self._whole(step)
        if exponent is not None and place == 0:
            return f"{above} * {literal(float(exponent))} * ({power(x, exponent - 1)})"
        y = others[0] if others else ""
        return _SLOPES[str(step.value), place].format(A=above, X=x, Y=y, V=f"e{k}")

    def _whole(self, step: Node) -> int | None:
        """The exponent of a power, if it is a small whole number."""
        if step.value != "^" or step.kind != "operation" or self._steps[step.arguments[1]].kind != "number":
            return None
        exponent = float(self._steps[step.arguments[1]].value)
        return int(exponent) if exponent == round(exponent) and abs(exponent) <= LARGEST_POWER else None


def _chooses(step: Node) -> bool:
    return step.kind == "operation" and step.value in ("select", "gate then", "gate else")


def literal(number: float) -> str:
    """C literal of a number."""
    if number != number:
        return "NAN"
    if abs(number) == float("inf"):
        return "(-INFINITY)" if number < 0 else "INFINITY"
    return f"({number!r})" if number < 0 else repr(number)


def power(x: str, exponent: int) -> str:
    """C expression for x to a whole power, up to the twelfth by functions in the source's head."""
    if exponent < 0:
        return f"1.0 / ({power(x, -exponent)})"
    return "1.0" if exponent == 0 else x if exponent == 1 else f"power{exponent}({x})"
