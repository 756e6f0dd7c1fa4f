"""Mutation testing: small faults are put into the code, one at a time; does a test notice?

Of a group of modules so many mutants are drawn at random; 0 takes all. Faults stand inside functions: another operator,
comparison, constant or function of the same kind, a condition turned round, a statement left out. Texts, types,
defaults and what is raised are left alone. Of the group's quick tests those are run that reach the line, and take less
than four seconds of CPU time.

The tests are collected once. Each mutant is a forked process in which the code of one function is exchanged.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from .records import ROOT
from .runner import Skip

# Names of modules, and of the tests that are to notice: wherever they lie in the package, and in tests/.
GROUPS = {
    "coordinates": ("placement zmatrix internal", "coordinates zmatrix bijections constraints summary"),
    "splines": ("splines", "splines flow bijections"),
    "ais": ("annealing kernels", "ais kernels hmc"),
    "training": ("objectives buffer pathwise", "objectives buffer pathwise"),
    "weights": ("weights", "weights"),
    "free_energy": (
        "estimators differences profiles",
        "free_energy free_energy_differences free_energy_estimators",
    ),
}
SLOWER = 10  # times the CPU time that a test takes without a fault, and 5 s more, end it: the fault is noticed
LIMIT = 600  # s of wall time for one mutant
LONGEST = 4.0  # s of CPU time; longer tests are left out
SWAPS = "Add Sub,Mult Div,FloorDiv Mult,Mod Mult,Pow Mult,MatMult Add,BitAnd BitOr,Lt LtE,Gt GtE,Eq NotEq,Is IsNot,In NotIn,And Or"  # noqa: E501 # fmt: skip
NAMES = "min max,amin amax,minimum maximum,sin cos,all any,floor ceil,exp log,sum mean,ones zeros"
SKIPPED = ast.Raise | ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom


def swapped(pairs: str, name: str) -> str:
    """The other one of a pair, or the name itself."""
    split = [pair.split() for pair in pairs.split(",")]
    return (dict(split) | {b: a for a, b in reversed(split)} | dict(split)).get(name, name)


def change_of(node: ast.AST) -> Callable[[], str] | None:
    """What changes the node in place and says how; None if nothing does."""

    def put(attribute: str, value: object, words: str) -> Callable[[], str]:
        return lambda: setattr(node, attribute, value) or words  # type: ignore[func-returns-value]

    match node:
        case ast.BinOp() | ast.AugAssign() | ast.BoolOp() | ast.Compare():
            kind = type(node.ops[0] if isinstance(node, ast.Compare) else node.op).__name__
            other = swapped(SWAPS, kind)
            new = getattr(ast, other)()
            if isinstance(node, ast.Compare):
                return put("ops", [new, *node.ops[1:]], f"{kind} -> {other}")
            return put("op", new, f"{kind} -> {other}") if other != kind else None
        case ast.UnaryOp(op=ast.USub()):
            return put("op", ast.UAdd(), "no sign")
        case ast.UnaryOp(op=ast.Not()):
            return put("operand", ast.UnaryOp(ast.Not(), node.operand), "no not")
        case ast.Constant(value=bool() | int() | float()):
            value = not node.value if isinstance(node.value, bool) else node.value + 1
            return put("value", value, f"{node.value} -> {value}")
        case ast.Attribute() if swapped(NAMES, node.attr) != node.attr:
            return put("attr", swapped(NAMES, node.attr), f"{node.attr} -> {swapped(NAMES, node.attr)}")
        case ast.Name(id="min" | "max" | "any" | "all"):
            return put("id", swapped(NAMES, node.id), f"{node.id} -> {swapped(NAMES, node.id)}")
        case ast.If() | ast.IfExp() | ast.While():
            return put("test", ast.UnaryOp(ast.Not(), node.test), "condition turned round")
        case ast.Expr(value=ast.Constant() | ast.Yield()):
            return None
        case ast.Break() | ast.Continue() | ast.Expr():
            return put("__class__", ast.Pass, "left out")
    return None


def inner(node: ast.AST) -> Iterator[ast.AST]:
    """What may be changed below a node, in order."""
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list", "args") or isinstance(node, ast.Call):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not isinstance(child, SKIPPED):
                    yield child
                    yield from inner(child)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Those of the module and of its classes, without what prints them."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node)
        elif isinstance(node, ast.FunctionDef) and node.name not in ("__repr__", "__str__"):
            yield node


class Mutant:
    """One node of one function of a file, changed."""

    def __init__(self, file: Path, function: int, at: int) -> None:
        self.file, tree = str(file), ast.parse(file.read_text())
        self.definition = list(functions(tree))[function]
        node = list(inner(self.definition))[at]
        head = node.test if isinstance(node, ast.If | ast.While) else node
        self.lines = set(range(head.lineno, head.end_lineno + 1))  # type: ignore[attr-defined]
        change = change_of(node)
        assert change is not None
        self.name = f"{file.relative_to(ROOT)}:{min(self.lines)} {self.definition.name}: {change()}"
        self.code = compile(ast.fix_missing_locations(tree), self.file, "exec")

    @staticmethod
    def places(file: Path) -> list[tuple[Path, int, int]]:
        found = enumerate(functions(ast.parse(file.read_text())))
        return [(file, k, at) for k, f in found for at, node in enumerate(inner(f)) if change_of(copy.deepcopy(node))]

    def put_in(self) -> None:
        """Exchange the code of the function, wherever it is known already."""
        first = min([self.definition.lineno, *(d.lineno for d in self.definition.decorator_list)])
        place = (self.file, self.definition.name, first)
        (new,) = (code for code in constants(self.code) if where(code) == place)
        known = [f for f in gc.get_objects() if isinstance(f, FunctionType) and where(f.__code__) == place]
        assert known, self.name
        for f in known:
            f.__code__ = new


def where(code: CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_name, code.co_firstlineno


def constants(code: CodeType) -> Iterator[CodeType]:
    for value in code.co_consts:
        if isinstance(value, CodeType):
            yield value
            yield from constants(value)


def forked(work: Callable[[], object]) -> object:
    """What `work` returns in a process of its own, by JSON; None if it died."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1), os.dup2(silence, 2)
        with os.fdopen(write, "wb") as pipe:
            pipe.write(json.dumps(work()).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer) if answer else None


class Loop:
    """In place of pytest's: one forked run of all tests that notes who reaches which line, then one a mutant."""

    def __init__(self, files: list[Path], sample: int, seed: int) -> None:
        self.files = {str(file) for file in files}
        places = [place for file in files for place in Mutant.places(file)]
        drawn = random.Random(seed).sample(places, min(sample or len(places), len(places)))
        self.drawn, self.score = sorted(drawn), {"mutants": len(places), "tried": len(drawn), "killed": 0}
        self.survivors: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        traced = forked(lambda: [self.trace(item) for item in session.items])
        assert isinstance(traced, list)
        for place in self.drawn:
            mutant = Mutant(*place)
            reach = [k for k, (lines, t) in enumerate(traced) if t < LONGEST and mutant.lines & set(lines[mutant.file])]
            reach.sort(key=lambda k: traced[k][1])
            items = [(session.items[k], traced[k][1]) for k in reach]
            survived = not items or forked(lambda: self.passes(mutant, items))  # noqa: B023
            self.score["killed"] += not survived
            if survived:
                self.survivors.append(f"{mutant.name}{'' if items else ' (no test comes here)'}")
                print("survived:", self.survivors[-1], flush=True)
        return True

    def trace(self, item: pytest.Item) -> tuple[dict[str, list[int]], float]:
        """The lines of the files that a test and its fixtures reach; and its CPU time, s."""
        lines: dict[str, set[int]] = {name: set() for name in self.files}

        def enter(frame: FrameType, event: str, arg: object) -> Callable | None:
            if frame.f_code.co_filename not in lines:
                return None
            lines[frame.f_code.co_filename].add(frame.f_lineno)
            return enter

        started = time.process_time()
        sys.settrace(enter)
        reports = runtestprotocol(item, log=False, nextitem=None)
        sys.settrace(None)
        if any(report.failed for report in reports):
            os._exit(1)  # nothing to learn from a test that fails without any fault
        return {name: sorted(found) for name, found in lines.items()}, time.process_time() - started

    @staticmethod
    def passes(mutant: Mutant, items: list[tuple[pytest.Item, float]]) -> bool:
        signal.alarm(LIMIT)
        try:
            mutant.put_in()
        except ValueError:  # other variables of a closure: no such function
            return False
        following = [*(item for item, _ in items[1:]), None]
        for (item, seconds), after in zip(items, following, strict=True):
            signal.setitimer(signal.ITIMER_PROF, 5 + SLOWER * seconds)
            if any(report.failed for report in runtestprotocol(item, log=False, nextitem=after)):
                return False
        return True


def one(folder: Path, name: str) -> Path:
    """The only file of this name below a folder."""
    found = sorted(folder.rglob(name))
    if len(found) != 1:
        raise SystemExit(f"Expected one {name} in {folder}; got {[str(path) for path in found]}. GROUPS names it.")
    return found[0]


def files_of(group: str) -> tuple[list[Path], list[Path]]:
    """The modules of a group, and its tests."""
    modules, tests = (names.split() for names in GROUPS[group])
    files = [one(ROOT / "openmm_fab", f"{module}.py") for module in modules]
    return files, [one(ROOT / "tests", f"test_{test}.py") for test in tests]


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("group", nargs="?", choices=GROUPS, default="weights")
    parser.add_argument("--sample", type=int, default=60, help="mutants, three if quick")
    parser.add_argument("--seed", type=int, default=0)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    if not hasattr(os, "fork"):
        raise Skip("this system has no fork.")
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    files, tests = files_of(options.group)
    loop = Loop(files, 3 if options.quick else options.sample, options.seed)
    pytest.main(["-q", "-s", "-m", "not slow", "-p", "no:cacheprovider", "-W", "ignore", *map(str, tests)], [loop])
    modules = [str(file.relative_to(ROOT / "openmm_fab").with_suffix("")) for file in files]
    return {"group": options.group, "modules": modules, **loop.score, "survivors": loop.survivors}


def section_name(figures: dict[str, Any]) -> str:
    return f"mutation_{figures['group']}"


def title(figures: dict[str, Any]) -> str:
    return f"Faults that tests notice: {', '.join(figures['modules'])}"


def table(figures: dict[str, Any]) -> str:
    body = f"{figures['mutants']} possible faults, {figures['tried']} tried, {figures['killed']} noticed."
    return "\n".join([body, "", *(f"- `{survivor}`" for survivor in figures["survivors"])])
