"""Text of an expression in OpenMM's language -> its steps; the grammar stands in `expressions`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .expression_graph import ARGUMENTS, Graph, Node

_TIGHTNESS = {"+": 1, "-": 1, "*": 2, "/": 2, "^": 4}


_TIGHTNESS_OF_SIGN = 3


@dataclass(frozen=True)
class _Token:
    kind: str  # "number", "name", "sign" or "end"
    text: str
    start: int


# As in Lepton, a name is whatever is neither a number nor a sign.
_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)|(?P<sign>[-+*/^(),;=])|(?P<name>[^\s()+\-*/^,;=]+)"
)


class Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str, functions: Mapping[str, int], graph: Graph):
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
        elif name.text in ARGUMENTS:
            count = ARGUMENTS[name.text]
        else:
            raise self._error(f"a function out of {sorted({*ARGUMENTS, *self.functions})}", name)
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
