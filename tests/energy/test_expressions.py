"""OpenMM's expression language in torch, against OpenMM itself on the Reference platform."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import numpy as np
import openmm
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from openmm_fab.energy.expressions import NONE, Expression
from openmm_fab.energy.tables import tabulated

# Zeros, ones, integers, halves, and points a little off them.
AWKWARD = [-3.0, -2.5, -1.0, -0.999, -0.5, -1e-7, 0.0, 1e-9, 0.3, 0.5, 1.0, 1.0000001, 1.5, 2.0, math.pi, 7.25]
POINTS = [(x, y, 0.7) for x in AWKWARD for y in (-1.5, 0.0, 0.5, 2.0)]
UNARY = (
    *("sqrt", "exp", "log", "sin", "cos", "sec", "csc", "tan", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
    *("erf", "erfc", "abs", "floor", "ceil", "step", "delta", "square", "cube", "recip"),
)


def by_openmm(text: str, points: list, functions: Mapping = NONE) -> tuple[np.ndarray, np.ndarray]:
    """Values (n,) and gradients (n, 3) of an expression in x, y and z."""
    system = openmm.System()
    system.addParticle(1.0)
    force = openmm.CustomCompoundBondForce(1, f"{text}; x=x1; y=y1; z=z1")
    for name, function in functions.items():
        force.addTabulatedFunction(name, copy.deepcopy(function))  # the force frees it in the end
    force.addBond([0])
    system.addForce(force)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    values, gradients = [], []
    for point in points:
        context.setPositions([point])
        state = context.getState(energy=True, forces=True)
        values.append(state.getPotentialEnergy()._value)
        gradients.append(-state.getForces(asNumpy=True)._value[0])
    return np.array(values), np.array(gradients)


def by_torch(text: str, points: list, functions: Mapping = NONE, dtype=torch.float64) -> tuple[np.ndarray, np.ndarray]:
    tables = {name: tabulated(function) for name, function in functions.items()}
    expression = Expression.parse(text, {name: table.dimensions for name, table in tables.items()})
    x = torch.tensor(points, dtype=dtype).requires_grad_()
    u = expression(dict(zip("xyz", x.T, strict=True)), tables).expand(len(points))
    gradient = torch.autograd.grad(u.sum(), x)[0] if u.requires_grad else torch.zeros_like(x)
    return u.detach().numpy(), gradient.numpy()


def agree(text: str, points: list = POINTS, functions: Mapping = NONE, rtol: float = 1e-12, atol: float = 0.0) -> None:
    """Values everywhere, infinite and NaN ones too; gradients where OpenMM's are finite."""
    (expected, slope), (found, gradient) = by_openmm(text, points, functions), by_torch(text, points, functions)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol, err_msg=text)
    finite = np.isfinite(slope)
    assert finite.any()
    np.testing.assert_allclose(gradient[finite], slope[finite], rtol=rtol, atol=atol + 1e-12, err_msg=text)


# --- the language ---


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_argument(name):
    kinks = {"abs": [0.0], "sqrt": [0.0]}  # where ours is 0 by definition, see below
    points = [p for p in POINTS if p[0] not in kinks.get(name, [])]
    agree(f"{name}(x)", points)
    # Through the chain rule; a part of y keeps the sum from being lost where the function is flat.
    agree(f"y^2 + 1.5*{name}(2*x + 0.25)", points, rtol=1e-11)


@pytest.mark.parametrize(
    "text",
    [
        *("min(x, y)", "max(x, y)", "min(2*x, 3)", "max(0, y)", "atan2(x - 9, y - 3)", "atan2(y - 3, x + 20)"),
        *("select(x, y, z)", "select(x - 1, 1/(x - 1), y)", "select(step(x), sqrt(x), -x*y)", "select(0, x, y)"),
        *(
            "x^2",
            "x^3",
            "x^-3",
            "x^-1",
            "x^0",
            "x^1",
            "x^7",
            "(x + 10)^0.5",
            "(x + 10)^-1.25",
            "(x+10)^y",
            "2^x",
            "x^12",
        ),
    ],
)
def test_functions_of_several_arguments_and_powers(text):
    agree(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "-x^2",
            "2^-x",
            "2^-x^2",
            "-x*y",
            "-x^2*y",
            "2*-y",
            "2--y",
            "--x",
            "2 - -x^3",
            "x*-y^2*z",
            "2^-x*y",
            "-2^2+x",
        ),
        *("a/b/c; a=x; b=z; c=3", "x - y - z", "x - y + z", "x/z*y", "x*y/z", "x - y*z", "(x - y)*z", "z^2^3 + x"),
        *("(z^2)^3 + x", "2*z^2^y", "x/z^2", "1e-3*x", "1E+2*x + .5", "5.*x+1.5e1", " x\t+\n y ", "x+(((y)))"),
        # later definitions are used by earlier ones; of two with the same name the first counts
        *(
            "a; a=b*x; b=y+1",
            "a*b; a=2*b; b=x",
            "a; ; a=x; ",
            "a+x; a=2; a=3",
            "x+q; q=r; r=s; s=y",
            "sin_x; sin_x=sin(x)",
        ),
        "4*e*((s/r)^12-(s/r)^6); r=sqrt(x^2+y^2+z^2)+0.1; s=0.3; e=sqrt(e1*e2); e1=0.5; e2=z",
        # what Lepton simplifies has the value of the simple form
        *("y + 0*log(x)", "y + 0/x", "y + x/x", "y + (log(x) - log(x))", "y + 0^x", "y + 1^x", "y + log(x)^0"),
    ],
)
def test_grammar(text):
    agree(text)


def test_constants_are_folded():
    expression = Expression.parse("a*x + sqrt(b)*y; a=2*sin(0)+1/4; b=max(9, 2)^2")
    assert expression.variables == {"x", "y"}
    numbers = [s.value for s in expression.steps if s.kind == "number"]
    assert sorted(numbers) == [0.25, 9.0]
    constant = Expression.parse("2 - 3^2")
    assert constant({}).item() == -7.0 and constant({}).dtype == torch.float64
    assert math.isinf(Expression.parse("x + 1/0")({"x": 1.0}).item())


def test_what_is_needed():
    expression = Expression.parse("a*f(r, b) + r; a=2*c", {"f": 2, "g": 1})
    assert expression.variables == {"r", "b", "c"}
    assert expression.functions == {"f"}


def test_equal_subexpressions_are_evaluated_once():
    calls = []

    def f(x):
        calls.append(1)
        return x

    expression = Expression.parse("a + a*b + f(x+1); b=a; a=f(x+1)", {"f": 1})
    assert expression({"x": torch.tensor(2.0)}, {"f": f}).item() == 3 + 9 + 3
    assert len(calls) == 1


def test_a_sum_of_thousands_of_terms():
    text = "+".join(f"x^{i % 5}" for i in range(3000)) + "; x=y"
    y = torch.tensor(0.5, dtype=torch.float64)
    assert Expression.parse(text)({"y": y}).item() == pytest.approx(600 * 1.9375)


# --- torch ---


def test_shapes_types_and_numbers():
    expression = Expression.parse("k*(r - r0)^2 + max(r, 1)*step(r)")
    r = torch.rand(5, 3, dtype=torch.float32)
    out = expression({"k": torch.ones(3), "r": r, "r0": 0.1})
    assert out.shape == (5, 3) and out.dtype == torch.float32
    # A number keeps all its digits, and a tensor of integers is a number.
    one = torch.tensor([1.0], dtype=torch.float64)
    assert Expression.parse("x*a^n")({"x": one, "a": 0.1, "n": torch.tensor([3])}).item() == pytest.approx(
        1e-3, rel=1e-15
    )
    # torch's square root may be off by the last bit.
    assert Expression.parse("sqrt(a)")({"a": 2}).item() == pytest.approx(math.sqrt(2), rel=1e-15)


@pytest.mark.parametrize(
    ("text", "gradient"),
    [
        ("select(x, 1/x, 3)", 0.0),
        ("select(x, log(x), 3*x)", 3.0),
        ("select(step(-x), 2*x, sqrt(x)/x)", 2.0),
        ("select(x, d, 5*x); d=1/e; e=x^2", 5.0),  # definitions used nowhere else are in the branch
        ("select(x, d, 0) + select(x, 2*d, x); d=1/x", 1.0),
        ("select(1 - x, select(x, x^-2, 7*x), log(x))", 7.0),
        ("select(1 - x, 2*x, select(x, x^-2, 7*x))", 2.0),
        ("select(step(d), d, 4*x); d=-1/x^2 - sqrt(x)", 4.0),  # here the condition has the singularity, too
        ("select(log(x) - 1, select(sqrt(x), 1/x, x), 3*x) + 0*x", 1.0),
        ("0*acos(1/x) + select(x, acos(1/x), x)", 1.0),
        ("sqrt(x^2)", 0.0),
        ("sqrt(x)", 0.0),
        ("max(0, x)*x", 0.0),
        ("min(x^-12, 2*x + 5)", 2.0),
        ("max(2, -1/r)*r; r=sqrt(x)", 0.0),
        ("abs(x)", 0.0),
        ("step(x)*x", 1.0),
    ],
)
def test_a_branch_not_taken_does_not_poison_the_gradient(text, gradient):
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    u = Expression.parse(text)({"x": x})
    assert torch.isfinite(u).all()
    assert torch.autograd.grad(u.sum(), x)[0].tolist() == [gradient, gradient]


def test_a_gradient_through_what_both_branches_and_others_use():
    """Gates stop only what is not taken: the same numbers as OpenMM, away from singularities."""
    agree("select(step(x-1), a*d, b/d) + c; c=select(y, a, d); b=a+d; a=exp(y); d=2+sin(x*z)")
    agree("select(step(x), select(step(y), x*y, y^3), select(step(x+1), d, d^2)); d=x-y*z")


def test_second_derivatives():
    x = torch.tensor([0.3, -0.7, 1.9], dtype=torch.float64, requires_grad=True)
    f = Expression.parse("select(step(x), exp(-x^2/s), x^3)*cos(x); s=2")
    assert torch.autograd.gradgradcheck(lambda x: f({"x": x}), x)


def test_compiled():
    """One graph: nothing in a call depends on the data."""
    table = tabulated(openmm.Continuous1DFunction([0.0, 1.0, 0.5, 0.0], 0.0, 2.0))
    expression = Expression.parse("k*f(r) + select(step(r - c), sqrt(r - c), min(r, 0.5))^2; c=0.4", {"f": 1})

    def energy(r, k):
        return expression({"r": r, "k": k}, {"f": table})

    r = torch.linspace(0.1, 1.9, 7, dtype=torch.float64, requires_grad=True)
    results = []
    # aot_eager traces backwards as well, without a C++ compiler
    for function in (energy, torch.compile(energy, fullgraph=True, backend="aot_eager")):
        u = function(r, 1.5)
        results.append(torch.stack([u.detach(), torch.autograd.grad(u.sum(), r)[0]]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-13, atol=1e-14)


# --- tabulated functions ---

SHAPES = [(6,), (4, 7), (4, 3, 5)]
BOUNDS = [(-1.0, 2.0), (0.0, 1.5), (-0.5, 0.75)]
NAMES = [f"{kind}{n}D" for kind in ("Continuous", "Periodic", "Discrete") for n in (1, 2, 3)]


def make(name: str) -> openmm.TabulatedFunction:
    n = int(name[-2])
    shape = SHAPES[n - 1]
    grid = np.random.default_rng(n).normal(size=shape)
    if name.startswith("Periodic"):
        for axis in range(n):
            grid = np.concatenate([grid, grid.take([0], axis)], axis)
    kind = "Discrete" if name.startswith("Discrete") else "Continuous"
    sizes = grid.shape if n > 1 else ()
    arguments = [*sizes, grid.ravel(order="F").tolist()]
    if kind == "Continuous":
        arguments += [*np.ravel(BOUNDS[:n]).tolist(), name.startswith("Periodic")]
    return getattr(openmm, f"{kind}{n}DFunction")(*arguments)


@pytest.mark.parametrize("name", NAMES)
def test_tabulated_functions(name):
    function = make(name)
    n = int(name[-2])
    spread = np.random.default_rng(7)
    if name.startswith("Discrete"):
        points = spread.uniform(-2, 8, size=(60, 3)).tolist() + [[0.5, 1.5, 2.5], [2.5, 0.5, 1.5], [-0.5, -0.5, 0.0]]
    else:
        low, high = np.transpose(BOUNDS)
        points = (
            spread.uniform(low - 0.3, high + 0.3, size=(60, 3)).tolist()
            + spread.uniform(low, high, size=(60, 3)).tolist()
        )
        points += [low.tolist(), high.tolist(), ((low + high) / 2).tolist(), (low + [1.0, 0.25, 0.25]).tolist()]
        points += [[9.0, 0.5, 0.0], [0.0, 0.5, -20.0]]
    arguments = ", ".join("xyz"[:n])
    agree(f"2*f({arguments})*z", points, {"f": function}, atol=1e-11)


def test_a_tabulated_function_as_a_force_hands_it_out():
    force = openmm.CustomCompoundBondForce(1, "f(x1, y1)")
    force.addTabulatedFunction("f", make("Continuous2D"))
    table = tabulated(force.getTabulatedFunction(0))
    x, y = torch.tensor([[0.1], [0.2]]), torch.tensor([0.3, 0.4, 0.5])
    assert table(x, y).shape == (2, 3) and table(x, y).dtype == torch.float32
    assert table.dimensions == 2


@pytest.mark.parametrize("n", [2, 3])
def test_splines_through_few_points(n):
    agree(
        "f(x)", [(x, 0, 0) for x in (-0.1, 0.0, 0.3, 0.9, 1.0)], {"f": openmm.Continuous1DFunction([1, 4, 2][:n], 0, 1)}
    )


def test_tables_take_nan_and_infinity():
    table = tabulated(make("Continuous1D"))
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e300], dtype=torch.float64, requires_grad=True)
    value = table(x)
    assert value.isnan().tolist() == [True, False, False, False]
    assert value[1:].tolist() == [0.0, 0.0, 0.0]
    assert torch.autograd.grad(value.sum(), x)[0][1:].tolist() == [0.0, 0.0, 0.0]
    assert tabulated(make("Periodic1D"))(x)[:3].isnan().all()
    assert tabulated(make("Discrete1D"))(x).shape == (4,)


# --- random expressions ---

# Inside their domains: where an argument is NaN, OpenMM's min and max and their derivatives disagree with each other.
WITHIN = {
    **{"sqrt": "sqrt(1 + square({}))", "log": "log(2 + square({}))", "asin": "asin(tanh({})/2)"},
    "acos": "acos(sin({})*0.9)",
}
FUNCTIONS = [WITHIN.get(name, name + "({})") for name in UNARY if name not in ("delta", "floor", "ceil", "step")]


def texts(*names: str) -> st.SearchStrategy[str]:
    leaves = st.sampled_from(names)
    numbers = st.sampled_from(["0.5", "2", "1e-1", "3"])
    operators = st.sampled_from(["+", "-", "*", "/", " - ", "*-"])

    def extend(child: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        # Without parentheses, too: then it is the grammar that decides what belongs together.
        infix = st.builds("{}{}{}".format, child | numbers, operators, child) | st.builds(
            "{}/{}".format, child, numbers
        )
        return st.one_of(
            infix,
            st.builds("({})".format, infix),
            st.builds("-{}".format, child),
            st.builds(str.format, st.sampled_from(FUNCTIONS), child),
            st.builds("{}({}, {})".format, st.sampled_from(["min", "max", "atan2"]), child, child | numbers),
            st.builds("select(step({}), {}, {})".format, leaves, child | numbers, child),
            st.builds("{}^{}".format, leaves, st.sampled_from(["2", "3", "-2"])),
            st.builds("{}^{}".format, numbers, st.sampled_from(["2", "-x", "y^2", "(x*y)"])),
            st.builds("({})^{}".format, child, st.sampled_from(["2", "3", "-2"])),
        )

    return st.recursive(leaves, extend, max_leaves=8)


RANDOM_POINTS = np.random.default_rng(5).uniform(-2, 2, size=(8, 3)).tolist()


@settings(max_examples=200, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(texts("x", "y", "z", "a", "b"), texts("x", "y", "b"), texts("x", "y", "z"))
def test_random_expressions(main, a, b):
    text = f"{main}; a={a}; b={b}"
    # Lepton simplifies for ever where a constant is NaN, as it can be in derivatives after x - x = 0.
    numbers = [s.value for s in Expression.parse(text).steps if s.kind == "number"]
    assume(np.isfinite(numbers).all() and 0.0 not in numbers)
    expected, found = by_openmm(text, RANDOM_POINTS), by_torch(text, RANDOM_POINTS)
    rough = by_torch(text, RANDOM_POINTS, dtype=torch.float32)
    with np.errstate(all="ignore"):
        for e, f, r in zip(expected, found, rough, strict=True):
            # Where single precision is good to 1e-3, no rounding error has grown more than 10^4-fold.
            sound = np.isfinite(e) & ~(abs(r - f) > 1e-3 * abs(f))
            np.testing.assert_allclose(f[sound], e[sound], rtol=1e-9, atol=1e-13, err_msg=text)


# --- errors ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "x + foo(x)",
            r"Expected a function out of \[.*'acos'.*'table'.*\] at character 5 of .*'x \+ foo\(x\)'; got 'foo'",
        ),
        ("min(x)", r"Expected 2 argument\(s\) of min at character 1 .*; got 1"),
        ("x + table(x, y, x)", r"Expected 2 argument\(s\) of table at character 5 .*; got 3"),
        ("x +", r"Expected a number, a name, '-' or '\(' at character 4 .*; got 'the end'"),
        ("+x", r"at character 1 .*; got '\+'"),
        ("", r"at character 1 .*; got 'the end'"),
        ("(x + 2", r"Expected '\)' at character 7"),
        ("exp(x", r"Expected ',' or '\)' at character 6"),
        ("exp()", r"at character 5 .*; got '\)'"),
        ("x)", r"Expected an operator or the end at character 2 .*; got '\)'"),
        ("2x", r"Expected an operator or the end at character 2 .*; got 'x'"),
        ("1..2", r"at character 3 .*; got '.2'"),
        ("x = 2", r"Expected an operator or the end at character 3 .*; got '='"),
        ("x; 2", r"Expected a definition, name=\.\.\. at character 4 .*; got '2'"),
        ("x; y", r"Expected '=' at character 5"),
        ("x; y = ", r"at character 8"),
        ("exp(x; y=2)", r"at character 11 .*; got '\)'"),
        ("x ** 2", r"at character 4 .*; got '\*'"),
        ("x; unused=)", r"at character 11"),
    ],
)
def test_syntax_errors(text, message):
    with pytest.raises(ValueError, match=message):
        Expression.parse(text, {"table": 2})


def test_names_without_a_value():
    # A definition is not seen by those that stand after it: this b is a variable.
    expression = Expression.parse("a + f(r); b=2; a=b", {"f": 1})
    with pytest.raises(ValueError, match=r"Expected values for \['b'\] in the expression 'a \+ f.*'; got \['r'\]"):
        expression({"r": 1.0}, {"f": torch.sin})
    with pytest.raises(ValueError, match=r"Expected functions \['f'\] in .*; got none"):
        expression({"r": 1.0, "b": 1.0})
    # Nothing of Python is to be had.
    with pytest.raises(ValueError, match=r"Expected values for \['__import__'\]"):
        Expression.parse("__import__")({})


def test_other_tables_are_refused():
    with pytest.raises(TypeError, match=r"Expected a tabulated function out of \['Continuous1DFunction'.*; got dict"):
        tabulated({})
