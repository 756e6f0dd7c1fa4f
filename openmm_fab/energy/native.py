"""The translated energy and its gradient as C code, compiled once for a set of forces rather than for a molecule.

Every term is a loop over its rows (bonds, angles, torsions, pairs of atoms) that processes LANES structures side by
side. Atoms and parameters are data of the call: the source depends only on which forces and expressions a System has,
so all molecules of a force field share one library. Terms without C code are left to PyTorch and listed by
`NativeEnergy`.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..tools.native import LANES, in_threads, library, work_space
from .bonded import CMAPTorsions, HarmonicAngles, HarmonicBonds, PeriodicTorsions, RBTorsions
from .custom import CustomAngles, CustomBonds, CustomNonbonded, CustomTorsions
from .expressions import Expression
from .geometry import Gather, find_pairs
from .implicit import GBSAOBC, CustomGB
from .native_expressions import LARGEST_POWER, NativeExpression, NoNativeCodeError
from .nonbonded import Nonbonded
from .potential import Potential
from .terms import Term

MOST_PERIODIC = 6  # of a torsion's terms

Columns = Sequence[np.ndarray]


class NativeEnergy:
    """u and du/dx of a batch, float64 on the CPU, for those terms of a potential that have C code.

    Parameters
    ----------
    potential : Potential
    parameters : mapping of str to float
        Values of all global parameters.
    kT : float, kJ/mol
    n_atoms : int

    Attributes
    ----------
    left : list of Term
        What has no C, in the order of the potential's terms.
    reasons : list of str
        Why not.

    Raises
    ------
    NotCompiledError
        There is no C compiler.
    """

    def __init__(self, potential: Potential, parameters: Mapping[str, float], kT: float, n_atoms: int) -> None:
        source = _Source(potential, parameters, n_atoms)
        self.left, self.reasons = source.left, source.reasons
        self._n_atoms, self._scale = n_atoms, 1.0 / kT
        self._text, self._integers, self._numbers, self._work = source.finished()
        self._energy()  # compiles, or raises

    def _energy(self) -> Callable[..., None]:
        """C function of the library, looked up again in a copy or in another process."""
        arguments = [*[ctypes.c_void_p] * 6, *[ctypes.c_int64] * 2, ctypes.c_double]
        return cast("Callable[..., None]", library(self._text, {"energy": arguments}).energy)

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """u (batch,) and du/dx (batch, n_atoms, 3) of x (batch, n_atoms, 3), nm, float64."""
        x = x.detach().contiguous()
        u, gradient, energy = x.new_empty(len(x)), torch.empty_like(x), self._energy()

        def piece(start: int, stop: int) -> None:
            work = work_space(self._work)
            pointers = (self._integers, self._numbers, work, x, u, gradient)
            energy(*(t.data_ptr() for t in pointers), start, stop, self._scale)

        in_threads(piece, len(x))
        return u, gradient


class _Source:
    """C of the terms, one loop after the other, and the data that they read.

    A call gets I (integers: first where everything is, then tables of atoms), D (numbers: tables of parameters) and W
    (work space). Within a block of LANES structures X and G (3 n_atoms, LANES) are positions and gradient, E the
    energies, R and Q (pairs, LANES) the distances of pairs and the energy's slopes by them, which become forces at the
    end.
    """

    def __init__(self, potential: Potential, parameters: Mapping[str, float], n_atoms: int) -> None:
        self.parameters, self.n_atoms = parameters, n_atoms
        self.pairs = np.column_stack([potential.pairs.i.numpy(), potential.pairs.j.numpy()])
        self._lines: list[str] = []
        self._head: list[tuple[str, int]] = []
        self._integers: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []
        self._work: list[int] = []
        self.left: list[Term] = []
        self.reasons: list[str] = []
        self._sizes = {"N_ATOMS": self._of("size", n_atoms), "N_PAIRS": self._of("size", len(self.pairs))}
        for name, rows in (("X", 3 * n_atoms), ("G", 3 * n_atoms), ("R", len(self.pairs)), ("Q", len(self.pairs))):
            self._sizes[f"AT_{name}"] = self._space(rows)
        self._sizes["AT_ATOMS"] = self._table_of_integers(self.pairs)
        writers: dict[type, Callable[[_Source, Term], None]] = {
            HarmonicBonds: _harmonic_bonds,
            HarmonicAngles: _harmonic_angles,
            PeriodicTorsions: _periodic_torsions,
            RBTorsions: _rb_torsions,
            CMAPTorsions: _cmap_torsions,
            Nonbonded: _nonbonded,
            CustomBonds: _custom_rows,
            CustomAngles: _custom_rows,
            CustomTorsions: _custom_rows,
            CustomNonbonded: _custom_nonbonded,
            GBSAOBC: _gbsa_obc,
            CustomGB: _custom_gb,
        }
        for term in cast(Iterable[Term], potential.terms):
            before = len(self._lines)
            try:
                if type(term) not in writers:
                    raise NoNativeCodeError("not written in C")
                writers[type(term)](self, term)
            except NoNativeCodeError as error:
                del self._lines[before:]
                self.left.append(term)
                self.reasons.append(f"{type(term).__name__}: {error}")

    def finished(self) -> tuple[str, Tensor, Tensor, int]:
        """The source, I, D, and how many numbers a call needs to work in."""
        starts = {
            "integers": np.cumsum([len(self._head), *map(len, self._integers)]),
            "numbers": np.cumsum([0, *map(len, self._numbers)]),
            "space": np.cumsum([0, *(rows * LANES for rows in self._work)]),
        }
        head = [which if kind == "size" else int(starts[kind][which]) for kind, which in self._head]
        integers = np.concatenate([np.array(head, dtype=np.int64), *self._integers])
        numbers = np.concatenate([np.zeros(0), *self._numbers])
        text = "\n".join([HEAD, BLOCK, *self._lines, FORCES, CALL])
        for name, value in self._sizes.items():
            text = text.replace(name, value)
        return text, torch.from_numpy(integers), torch.from_numpy(numbers), int(starts["space"][-1])

    # --- data: each returns where it is, in C ---

    def _of(self, kind: str, which: int) -> str:
        self._head.append((kind, which))
        return f"I[{len(self._head) - 1}]"

    def _table_of_integers(self, table: np.ndarray) -> str:
        self._integers.append(np.ascontiguousarray(table, dtype=np.int64).ravel())
        return self._of("integers", len(self._integers) - 1)

    def _table_of_numbers(self, columns: Columns, rows: int) -> str:
        whole = [np.broadcast_to(np.asarray(column, dtype=np.float64).reshape(-1), (rows,)) for column in columns]
        self._numbers.append(np.stack(whole, axis=1).ravel() if whole else np.zeros(0))
        return self._of("numbers", len(self._numbers) - 1)

    def _space(self, rows: int) -> str:
        """Room for (rows, LANES)."""
        self._work.append(rows)
        return self._of("space", len(self._work) - 1)

    # --- loops ---

    def write(self, *lines: str) -> None:
        self._lines += lines

    def over_rows(self, atoms: np.ndarray, columns: Columns, *inside: str) -> None:
        """A loop over rows, each with some atoms a, b, c, ... (positions xa, gradient ga) and parameters p."""
        rows, k = atoms.shape
        at, numbers, n = self._table_of_integers(atoms), self._table_of_numbers(columns, rows), self._of("size", rows)
        self.write(f"  for (integer t = 0; t < {n}; t++) {{", f"    const integer *atom = I + {at} + {k} * t;")
        self.write(f"    const double *restrict p = D + {numbers} + {len(columns)} * t;")
        for m, letter in enumerate("abcdefgh"[:k]):
            self.write(f"    const double *restrict x{letter} = X + 3 * L * atom[{m}];")
            self.write(f"    double *restrict g{letter} = G + 3 * L * atom[{m}];")
        self.write("    EACH {", *inside, "    }", "  }")

    def over_pairs(self, rows: np.ndarray, atoms: np.ndarray, columns: Columns, *inside: str, values: int = 0) -> None:
        """A loop over pairs of the frame by their rows: r, q[l] the slope by r, parameters p; of each computed value k
        v<k>i[l], v<k>j[l] at both atoms, and the slopes s<k>i[l], s<k>j[l]."""
        at = self._table_of_integers(np.column_stack([rows, atoms]))
        numbers, n = self._table_of_numbers(columns, len(rows)), self._of("size", len(rows))
        self.write(f"  for (integer t = 0; t < {n}; t++) {{", f"    const integer *row = I + {at} + 3 * t;")
        self.write(f"    const double *restrict p = D + {numbers} + {len(columns)} * t;")
        self.write("    const double *restrict rr = R + L * row[0]; double *restrict q = Q + L * row[0];")
        for k in range(values):
            for place, atom in (("i", "row[1]"), ("j", "row[2]")):
                self.write(f"    const double *restrict v{k}{place} = V{k} + L * {atom};")
                self.write(f"    double *restrict s{k}{place} = S{k} + L * {atom};")
        self.write("    EACH {", "      const double r = rr[l];", *inside, "    }", "  }")

    def over_atoms(self, columns: Columns, *inside: str) -> None:
        """A loop over atoms a: parameters p."""
        numbers = self._table_of_numbers(columns, self.n_atoms)
        self.write("  for (integer a = 0; a < N_ATOMS; a++) {")
        self.write(f"    const double *restrict p = D + {numbers} + {len(columns)} * a;")
        self.write("    EACH {", *inside, "    }", "  }")

    def sum_over_others(self, value: str, slope: str, rows: np.ndarray, e: NativeExpression) -> Callable[[], None]:
        """A value (n_atoms, LANES) of each atom: the sum of an expression of r over all other atoms, the first atom's
        stand together in `rows`. Returns what writes the way back, from the slopes by the value to those by r."""
        backward, slopes = e.backward()
        at, by_r = self._table_of_integers(rows), self._space(len(rows))
        numbers = self._table_of_numbers(e.columns, len(rows))
        others = "    for (integer t = a * (N_ATOMS - 1); t < (a + 1) * (N_ATOMS - 1); t++) {"
        self.write("  for (integer a = 0; a < N_ATOMS; a++) {", "    double sum[L] = {0};", others)
        self.write(f"      const double *restrict p = D + {numbers} + {len(e.columns)} * t;")
        self.write(
            f"      const double *restrict rr = R + L * I[{at} + t]; double *restrict by_r = W + {by_r} + L * t;"
        )
        self.write("      EACH {", "      const double r = rr[l];", *e.forward(), f"sum[l] += {e.value};", *backward)
        self.write(f"by_r[l] = {slopes.get('r', '0.0')};", "      }", "    }")
        self.write(f"    EACH {value}[a * L + l] = sum[l];", "  }")
        return partial(
            self.write,
            f"  for (integer a = 0; a < N_ATOMS; a++) {{ const double *restrict own = {slope} + a * L;",
            others,
            f"      double *restrict q = Q + L * I[{at} + t]; const double *restrict by_r = W + {by_r} + L * t;",
            "      EACH q[l] += own[l] * by_r[l];",
            "    }",
            "  }",
        )


# --- terms ---


def _column(term: Term, field: str) -> np.ndarray:
    return term.value(field).numpy()[:, 0]


def _atoms(gather: Gather) -> np.ndarray:
    """(rows, k) of a term's atoms."""
    return gather.index.view(gather.shape).numpy().T


def _harmonic_bonds(source: _Source, term: Term) -> None:
    columns = [_column(term, "length"), _column(term, "k")]
    energy = "const double off = r - p[0], by_r = p[1] * off; E[l] += 0.5 * by_r * off;"
    source.over_rows(_atoms(cast(HarmonicBonds, term).atoms), columns, DISTANCE, energy, BY_DISTANCE)


def _harmonic_angles(source: _Source, term: Term) -> None:
    columns = [_column(term, "theta"), _column(term, "k")]
    energy = "const double off = theta - p[0], slope = p[1] * off; E[l] += 0.5 * slope * off;"
    source.over_rows(_atoms(cast(HarmonicAngles, term).atoms), columns, ANGLE, energy, BY_ANGLE)


def _periodic_torsions(source: _Source, term: Term) -> None:
    """All terms of one torsion as a Fourier series, by its cosine and sine alone."""
    term = cast(PeriodicTorsions, term)
    periodicity = term.periodicity.numpy()[:, 0]
    if not np.isin(periodicity, np.arange(MOST_PERIODIC + 1)).all():
        raise NoNativeCodeError(f"a periodicity beyond {MOST_PERIODIC}")
    atoms, torsion, k = _atoms(term.atoms), term.angle.index.numpy(), _column(term, "k")
    cosines, sines = np.zeros((2, MOST_PERIODIC + 1, len(atoms)))
    np.add.at(cosines, (periodicity.astype(int), torsion), k * np.cos(_column(term, "phase")))
    np.add.at(sines, (periodicity.astype(int), torsion), k * np.sin(_column(term, "phase")))
    np.add.at(cosines[0], torsion, k)
    lines = ["double c = cosine, s = sine, e = p[0] + p[1] * c + p[2] * s, slope = p[2] * c - p[1] * s;"]
    for n in range(2, MOST_PERIODIC + 1):
        a, b = f"p[{2 * n - 1}]", f"p[{2 * n}]"
        lines.append("{ const double next = c * cosine - s * sine; s = s * cosine + c * sine; c = next; }")
        lines.append(f"e += {a} * c + {b} * s; slope += {n}.0 * ({b} * c - {a} * s);")
    columns = [cosines[0], *(part[n] for n in range(1, MOST_PERIODIC + 1) for part in (cosines, sines))]
    source.over_rows(atoms, columns, TORSION, *lines, "E[l] += e;", BY_TORSION)


def _rb_torsions(source: _Source, term: Term) -> None:
    columns = [_column(term, f"c{n}") for n in range(6)]
    energy = """const double x = -cosine;
      E[l] += p[0] + x * (p[1] + x * (p[2] + x * (p[3] + x * (p[4] + x * p[5]))));
      const double slope = sine * (p[1] + x * (2.0 * p[2] + x * (3.0 * p[3] + x * (4.0 * p[4] + x * 5.0 * p[5]))));"""
    source.over_rows(_atoms(cast(RBTorsions, term).atoms), columns, TORSION, energy, BY_TORSION)


def _cmap_torsions(source: _Source, term: Term) -> None:
    for surface, gather in zip(cast(CMAPTorsions, term).maps, cast(CMAPTorsions, term).torsions, strict=True):
        table = cast(Tensor, surface.table)  # (cells, 4, 4), powers of both coordinates in a cell, highest first
        size = round(len(table) ** 0.5)
        at, n = source._table_of_numbers([table.numpy().ravel()], table.numel()), source._of("size", size)
        second = ("e", "f", "g", "h")
        lines = [
            TORSION,
            "const double angle = atan2(sine, cosine);",
            _renamed(TORSION, second),
            "const double angle2 = atan2(sine2, cosine2);",
            f"const double cells = {n}, per = cells * 0.15915494309189535;",
            "double u = angle * per, w = angle2 * per; u += u < 0.0 ? cells : 0.0; w += w < 0.0 ? cells : 0.0;",
            "double i = floor(u), j = floor(w);",
            "i = i >= 0.0 && i < cells ? i : 0.0; j = j >= 0.0 && j < cells ? j : 0.0; u -= i; w -= j;",
            f"const double *c = D + {at} + 16 * ((integer)i * (integer)cells + (integer)j);",
            "double e = 0.0, by_u = 0.0, by_w = 0.0;",
            """for (int k = 0; k < 4; k++) {
        const double *d = c + 4 * k;
        const double value = ((d[0] * w + d[1]) * w + d[2]) * w + d[3], rise = (3.0 * d[0] * w + 2.0 * d[1]) * w + d[2];
        by_u = by_u * u + e; e = e * u + value; by_w = by_w * u + rise;
      }""",
            "e += 0.0 * (sine + sine2); E[l] += e;",  # NaN where there is no torsion
            "const double slope = per * by_u, slope2 = per * by_w;",
            BY_TORSION,
            _renamed(BY_TORSION, second),
        ]
        source.over_rows(_atoms(cast(Gather, gather)), [], *lines)


def _renamed(lines: str, letters: Sequence[str]) -> str:
    """The lines for a second torsion of the same row: its own atoms, and its own names for all that is computed."""
    names = {"slope", *re.findall(r"(\w+) =", TORSION + BY_TORSION)}
    lines = re.sub(rf"\b({'|'.join(sorted(names))})\b", r"\g<1>2", lines)
    atoms = dict(zip("abcd", letters, strict=True))
    return re.sub(r"\b([xg])([abcd])\[", lambda found: f"{found[1]}{atoms[found[2]]}[", lines)


def _custom_rows(source: _Source, term: Term) -> None:
    term = cast(CustomBonds, term)
    name = {CustomBonds: "r", CustomAngles: "theta", CustomTorsions: "theta"}[type(term)]
    values = {n: _column(term, n) for n in term.names} | {n: source.parameters[n] for n in term.globals}
    e = NativeExpression(term.expression.expression, {name: name}, values, dict(term.expression.tables.items()))
    backward, slopes = e.backward()
    by = "by_r" if name == "r" else "slope"
    lines = [*e.forward(), f"E[l] += {e.value};", *backward, f"const double {by} = {slopes.get(name, '0.0')};"]
    before, after = {
        CustomBonds: (DISTANCE, BY_DISTANCE),
        CustomAngles: (ANGLE, BY_ANGLE),
        CustomTorsions: (f"{TORSION}\nconst double theta = atan2(sine, cosine);", BY_TORSION),
    }[type(term)]
    source.over_rows(_atoms(term.atoms), e.columns, before, *lines, after)


def _nonbonded(source: _Source, term: Term) -> None:
    term = cast(Nonbonded, term)
    values = term.combined()
    if term.cutoff is not None or not values:
        raise NoNativeCodeError("a cutoff" if values else "parameter offsets")
    charge, sigma2, epsilon = (values[name].numpy()[:, 0] for name in ("charge", "sigma2", "epsilon"))
    rows = np.flatnonzero((charge != 0.0) | (epsilon != 0.0))
    columns = [charge[rows], sigma2[rows], epsilon[rows]]
    lines = """const double inverse = 1.0 / r, s = p[1] * inverse * inverse, s6 = s * s * s;
      const double coulomb = p[0] * inverse, attraction = p[2] * s6;
      E[l] += coulomb + attraction * (s6 - 1.0);
      q[l] -= inverse * (coulomb + attraction * (12.0 * s6 - 6.0));"""
    source.over_pairs(rows, source.pairs[rows], columns, lines)


def _custom_nonbonded(source: _Source, term: Term) -> None:
    term = cast(CustomNonbonded, term)
    if term.cutoff is not None or term.computed:
        raise NoNativeCodeError("a cutoff" if term.cutoff is not None else "computed values")
    values: dict[str, np.ndarray | float] = {n: source.parameters[n] for n in term.globals}
    for name in term.fields:
        values |= {f"{name}{k + 1}": _column(term, name)[term.ordered[:, k]] for k in (0, 1)}
    e = NativeExpression(term.expression.expression, {"r": "r"}, values, dict(term.expression.tables.items()))
    backward, slopes = e.backward()
    lines = [*e.forward(), f"E[l] += {e.value};", *backward, f"q[l] += {slopes.get('r', '0.0')};"]
    source.over_pairs(find_pairs(term.ordered, source.pairs), term.ordered, e.columns, *lines)


def _gbsa_obc(source: _Source, term: Term) -> None:
    """GBSAOBCForce as expressions of OpenMM's language, by the formulas of `GBSAOBC`."""
    term = cast(GBSAOBC, term)
    born = (
        "select(step(r+sr2-or1), 1/L-1/U+0.25*(r-sr2^2/r)*(1/U^2-1/L^2)+0.5*log(L/U)/r"
        "+select(step(sr2-r-or1), 2*(1/or1-1/L), 0), 0); U=r+sr2; L=max(or1, abs(r-sr2));"
        f"or1=radius1-{term.OFFSET}; sr2=scale2*(radius2-{term.OFFSET})"
    )
    polynomial = f"psi*({term.ALPHA}+psi*({term.GAMMA}*psi-{term.BETA}))"
    radius = f"1/(1/or-tanh({polynomial})/radius); psi=0.5*or*I; or=radius-{term.OFFSET}"
    single = f"0.5*factor*charge^2/B+surface*(radius+{term.PROBE})^2*(radius/B)^6"
    pair = "factor*charge1*charge2/sqrt(r^2+B1*B2*exp(-0.25*r^2/(B1*B2)))"
    values = [("I", Expression.parse(born), True), ("B", Expression.parse(radius), False)]
    terms = [(Expression.parse(single), None), (Expression.parse(pair), source.pairs)]
    fields = {name: _column(term, name) for name in ("charge", "radius", "scale")}
    shared = {"factor": term.factor, "surface": term.surface}
    _generalised_born(source, term.cutoff, values, terms, fields, shared, {})


def _custom_gb(source: _Source, term: Term) -> None:
    term = cast(CustomGB, term)
    single, with_exclusions = 0, 1  # kinds of OpenMM's
    present = term.pair_present.numpy()[:, 0]
    if term.has_exclusions and any(kind == with_exclusions for _, _, kind in term.values_of):
        raise NoNativeCodeError("exclusions of a computed value")
    functions = {name: table for e in (*term.values, *term.terms) for name, table in e.tables.items()}
    every = source.pairs  # all pairs, as the term asks for
    values = [
        (name, e.expression, kind != single)
        for (name, _, kind), e in zip(term.values_of, cast(Iterable, term.values), strict=True)
    ]
    terms = [
        (e.expression, None if kind == single else every[present] if kind == with_exclusions else every)
        for (_, kind), e in zip(term.terms_of, cast(Iterable, term.terms), strict=True)
    ]
    fields = {name: _column(term, name) for name in term.fields}
    shared = {name: source.parameters[name] for name in term.globals}
    _generalised_born(source, term.cutoff, values, terms, fields, shared, functions)


def _generalised_born(
    source: _Source,
    cutoff: float | None,
    values: Sequence[tuple[str, Expression, bool]],
    terms: Sequence[tuple[Expression, np.ndarray | None]],
    fields: Mapping[str, np.ndarray],
    shared: Mapping[str, float],
    functions: Mapping[str, Callable[..., Tensor]],
) -> None:
    """Values computed one after the other, then terms of the energy, then the slopes of the values backwards.

    Parameters
    ----------
    values : sequence of (name, expression, whether it is a sum over all other atoms)
    terms : sequence of (expression, pairs (m, 2) of atoms that it is summed over; None: over single atoms)
    fields : mapping of str to (n_atoms,)
    shared : mapping of str to float
        Global parameters.
    functions : mapping of str to callable
        Tabulated functions.
    """
    if cutoff is not None:
        raise NoNativeCodeError("a cutoff")
    n = source.n_atoms
    i, j = np.nonzero(~np.eye(n, dtype=bool))  # every atom with every other one, the first atom's together
    rows = find_pairs(np.column_stack([i, j]), source.pairs)
    for k in range(len(values)):
        for name in "VS":
            source.write(f"  double *restrict {name}{k} = W + {source._space(n)};")
        source.write(f"  memset(S{k}, 0, sizeof(double) * L * N_ATOMS);")
    of_single: dict[str, np.ndarray | float] = {**fields, **shared}
    backwards: list[Callable[[], None]] = []
    for k, (_, expression, is_sum) in enumerate(values):
        earlier = {name: f"V{m}[a * L + l]" for m, (name, _, _) in enumerate(values[:k])}
        if is_sum and k:
            raise NoNativeCodeError("a computed value over pairs that follows another one")
        if is_sum:
            ends = {f"{name}{m}": column[at] for name, column in fields.items() for m, at in ((1, i), (2, j))}
            e = NativeExpression(expression, {"r": "r"}, {**ends, **shared}, functions)
            backwards.append(source.sum_over_others(f"V{k}", f"S{k}", rows, e))
        else:
            e = NativeExpression(expression, earlier, of_single, functions)
            source.over_atoms(e.columns, *e.forward(), f"V{k}[a * L + l] = {e.value};")
            backward, slopes = e.backward(f"S{k}[a * L + l]")
            inside = [*e.forward(), *backward, *_add_slopes(slopes, earlier)]
            backwards.append(partial(source.over_atoms, e.columns, *inside))
    of_atom = {name: f"V{m}[a * L + l]" for m, (name, _, _) in enumerate(values)}
    for expression, pairs in terms:
        if pairs is None:
            e = NativeExpression(expression, of_atom, of_single, functions)
            backward, slopes = e.backward()
            added = [f"E[l] += {e.value};", *backward, *_add_slopes(slopes, of_atom)]
            source.over_atoms(e.columns, *e.forward(), *added)
            continue
        of_pair = {
            f"{name}{n}": f"v{m}{end}[l]" for m, (name, _, _) in enumerate(values) for n, end in ((1, "i"), (2, "j"))
        }
        ends = {f"{name}{m + 1}": column[pairs[:, m]] for name, column in fields.items() for m in (0, 1)}
        e = NativeExpression(expression, {"r": "r", **of_pair}, {**ends, **shared}, functions)
        backward, slopes = e.backward()
        added = [f"E[l] += {e.value};", *backward, *_add_slopes(slopes, {"r": "q[l]", **of_pair})]
        source.over_pairs(find_pairs(pairs, source.pairs), pairs, e.columns, *e.forward(), *added, values=len(values))
    for write in reversed(backwards):
        write()


def _add_slopes(slopes: Mapping[str, str], places: Mapping[str, str]) -> list[str]:
    """Statements that add slopes by computed values to where they are gathered: S and s beside the values' V and v."""
    beside = {name: place.replace("V", "S", 1).replace("v", "s", 1) for name, place in places.items()}
    return [f"{beside[name]} += {slope};" for name, slope in slopes.items()]


# --- C ---

_PRODUCTS = {2: "x * x"} | {
    n: f"power{n - 1}(x) * x" if n % 2 else f"power{n // 2}(x * x)" for n in range(3, LARGEST_POWER + 1)
}
_POWERS = "\n".join(f"static inline double power{n}(double x) {{ return {text}; }}" for n, text in _PRODUCTS.items())
_FUNCTIONS_OF_ONE = "exp log sin cos tan asin acos atan sinh cosh tanh erf erfc"
_VECTORISED = "\n".join(f"SIMD extern double {name}(double);" for name in _FUNCTIONS_OF_ONE.split())

HEAD = f"""#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef VECTOR_MATH
#define SIMD __attribute__((simd("notinbranch")))
{_VECTORISED}
SIMD extern double pow(double, double);
SIMD extern double atan2(double, double);
#endif
#define L LANES
#define EACH _Pragma("GCC ivdep") for (int l = 0; l < L; l++)
typedef int64_t integer;
{_POWERS}
"""

BLOCK = """static void block(const integer *restrict I, const double *restrict D, double *restrict W,
    const double *restrict X, double *restrict G, double *restrict R, double *restrict Q, double *restrict E) {
  for (integer t = 0; t < N_PAIRS; t++) {
    const double *restrict a = X + 3 * L * I[AT_ATOMS + 2 * t], *restrict b = X + 3 * L * I[AT_ATOMS + 2 * t + 1];
    double *restrict r = R + L * t;
    EACH {
      const double x = a[l] - b[l], y = a[L + l] - b[L + l], z = a[2 * L + l] - b[2 * L + l];
      r[l] = sqrt(x * x + y * y + z * z);
    }
  }"""

FORCES = """  for (integer t = 0; t < N_PAIRS; t++) {
    const integer i = 3 * L * I[AT_ATOMS + 2 * t], j = 3 * L * I[AT_ATOMS + 2 * t + 1];
    const double *restrict a = X + i, *restrict b = X + j, *restrict r = R + L * t, *restrict q = Q + L * t;
    double *restrict ga = G + i, *restrict gb = G + j;
    EACH {
      const double s = q[l] * (1.0 / r[l]);
      const double x = s * (a[l] - b[l]), y = s * (a[L + l] - b[L + l]), z = s * (a[2 * L + l] - b[2 * L + l]);
      ga[l] += x; ga[L + l] += y; ga[2 * L + l] += z;
      gb[l] -= x; gb[L + l] -= y; gb[2 * L + l] -= z;
    }
  }
}
"""

CALL = """void energy(const integer *I, const double *D, double *W, const double *x, double *u, double *gradient,
    integer start, integer stop, double scale) {
  double *X = W + AT_X, *G = W + AT_G, *R = W + AT_R, *Q = W + AT_Q;
  const integer size = 3 * N_ATOMS;
  for (integer first = start; first < stop; first += L) {
    const integer here = stop - first < L ? stop - first : L; /* the last structures are filled up with a copy */
    double E[L] = {0};
    for (int l = 0; l < L; l++) {
      const double *from = x + (first + (l < here ? l : 0)) * size;
      for (integer k = 0; k < size; k++) X[k * L + l] = from[k];
    }
    memset(G, 0, sizeof(double) * L * size);
    memset(Q, 0, sizeof(double) * L * N_PAIRS);
    block(I, D, W, X, G, R, Q, E);
    for (int l = 0; l < here; l++) {
      double *to = gradient + (first + l) * size;
      for (integer k = 0; k < size; k++) to[k] = scale * G[k * L + l];
      u[first + l] = scale * E[l];
    }
  }
}
"""

DISTANCE = """      const double ux = xa[l] - xb[l], uy = xa[L + l] - xb[L + l], uz = xa[2 * L + l] - xb[2 * L + l];
      const double r = sqrt(ux * ux + uy * uy + uz * uz);"""
BY_DISTANCE = """      const double s = r > 0.0 ? by_r * (1.0 / r) : 0.0;
      ga[l] += s * ux; ga[L + l] += s * uy; ga[2 * L + l] += s * uz;
      gb[l] -= s * ux; gb[L + l] -= s * uy; gb[2 * L + l] -= s * uz;"""
ANGLE = """      const double ux = xa[l] - xb[l], uy = xa[L + l] - xb[L + l], uz = xa[2 * L + l] - xb[2 * L + l];
      const double vx = xc[l] - xb[l], vy = xc[L + l] - xb[L + l], vz = xc[2 * L + l] - xb[2 * L + l];
      const double wx = uy * vz - uz * vy, wy = uz * vx - ux * vz, wz = ux * vy - uy * vx;
      const double uu = ux * ux + uy * uy + uz * uz, vv = vx * vx + vy * vy + vz * vz, uv = ux * vx + uy * vy + uz * vz;
      const double w = sqrt(wx * wx + wy * wy + wz * wz);
      const double theta = uu * vv > 0.0 ? atan2(w, uv) : NAN;"""
# A straight angle has gradient 0, as in OpenMM.
BY_ANGLE = """      const double rate = w > 0.0 ? slope / w : 0.0, cu = rate * uv / uu, cv = rate * uv / vv;
      const double ax = cu * ux - rate * vx, ay = cu * uy - rate * vy, az = cu * uz - rate * vz;
      const double cx = cv * vx - rate * ux, cy = cv * vy - rate * uy, cz = cv * vz - rate * uz;
      ga[l] += ax; ga[L + l] += ay; ga[2 * L + l] += az;
      gc[l] += cx; gc[L + l] += cy; gc[2 * L + l] += cz;
      gb[l] -= ax + cx; gb[L + l] -= ay + cy; gb[2 * L + l] -= az + cz;"""
# NaN where three of the atoms are on a line: 0 / 0.
TORSION = """      const double ux = xb[l] - xa[l], uy = xb[L + l] - xa[L + l], uz = xb[2 * L + l] - xa[2 * L + l];
      const double vx = xc[l] - xb[l], vy = xc[L + l] - xb[L + l], vz = xc[2 * L + l] - xb[2 * L + l];
      const double wx = xd[l] - xc[l], wy = xd[L + l] - xc[L + l], wz = xd[2 * L + l] - xc[2 * L + l];
      const double mx = uy * vz - uz * vy, my = uz * vx - ux * vz, mz = ux * vy - uy * vx;
      const double nx = vy * wz - vz * wy, ny = vz * wx - vx * wz, nz = vx * wy - vy * wx;
      const double mm = mx * mx + my * my + mz * mz, nn = nx * nx + ny * ny + nz * nz, vv = vx * vx + vy * vy + vz * vz;
      const double v = sqrt(vv), norm = 1.0 / sqrt(mm * nn);
      const double cosine = (mx * nx + my * ny + mz * nz) * norm, sine = (ux * nx + uy * ny + uz * nz) * v * norm;"""
BY_TORSION = """      const double fa = -slope * v / mm, fd = slope * v / nn;
      const double uv = (ux * vx + uy * vy + uz * vz) / vv, wv = (wx * vx + wy * vy + wz * vz) / vv;
      const double ax = fa * mx, ay = fa * my, az = fa * mz, dx = fd * nx, dy = fd * ny, dz = fd * nz;
      const double bx = uv * ax - wv * dx, by = uv * ay - wv * dy, bz = uv * az - wv * dz;
      ga[l] += ax; ga[L + l] += ay; ga[2 * L + l] += az;
      gd[l] += dx; gd[L + l] += dy; gd[2 * L + l] += dz;
      gb[l] -= ax + bx; gb[L + l] -= ay + by; gb[2 * L + l] -= az + bz;
      gc[l] += bx - dx; gc[L + l] += by - dy; gc[2 * L + l] += bz - dz;"""
