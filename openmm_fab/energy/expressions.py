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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from .expression_graph import FUNCTIONS, OPERATORS, Graph, Node, guard_branches
from .expression_parser import Parser

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
        """Parse an algebraic expression of OpenMM's custom forces.

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
        graph = Graph()
        root = guard_branches(graph, Parser(text, functions, graph).parse())
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
            elif step.value in OPERATORS:  # these take plain numbers as they are
                results.append(OPERATORS[str(step.value)](*arguments))
            else:
                results.append(FUNCTIONS[str(step.value)][1](*map(tensor, arguments)))
        return tensor(results[-1])

    def _check(self, what: str, kind: str, given: Mapping) -> None:
        missing = [str(s.value) for s in self.steps if s.kind == kind and s.value not in given]
        if missing:
            raise ValueError(
                f"Expected {what} {sorted(missing)} in the expression {self.text!r}; got {sorted(given) or 'none'}."
            )
