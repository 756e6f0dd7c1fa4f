"""C of each kind of term of a translated energy, written into a `native_source.Source`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import cast

import numpy as np
from torch import Tensor

from .bonded import CMAPTorsions, HarmonicAngles, HarmonicBonds, PeriodicTorsions, RBTorsions
from .custom import CustomAngles, CustomBonds, CustomNonbonded, CustomTorsions
from .expressions import Expression
from .geometry import Gather, find_pairs
from .implicit import GBSAOBC, CustomGB
from .native_expressions import NativeExpression, NoNativeCodeError
from .native_source import ANGLE, BY_ANGLE, BY_DISTANCE, BY_TORSION, DISTANCE, TORSION, Source
from .nonbonded import Nonbonded
from .terms import Term

MOST_PERIODIC = 6  # of a torsion's terms


def _column(term: Term, field: str) -> np.ndarray:
    return term.value(field).numpy()[:, 0]


def _atoms(gather: Gather) -> np.ndarray:
    """(rows, k) of a term's atoms."""
    return gather.index.view(gather.shape).numpy().T


def _harmonic_bonds(source: Source, term: Term) -> None:
    columns = [_column(term, "length"), _column(term, "k")]
    energy = "const double off = r - p[0], by_r = p[1] * off; E[l] += 0.5 * by_r * off;"
    source.over_rows(_atoms(cast(HarmonicBonds, term).atoms), columns, DISTANCE, energy, BY_DISTANCE)


def _harmonic_angles(source: Source, term: Term) -> None:
    columns = [_column(term, "theta"), _column(term, "k")]
    energy = "const double off = theta - p[0], slope = p[1] * off; E[l] += 0.5 * slope * off;"
    source.over_rows(_atoms(cast(HarmonicAngles, term).atoms), columns, ANGLE, energy, BY_ANGLE)


def _periodic_torsions(source: Source, term: Term) -> None:
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


def _rb_torsions(source: Source, term: Term) -> None:
    columns = [_column(term, f"c{n}") for n in range(6)]
    energy = """const double x = -cosine;
      E[l] += p[0] + x * (p[1] + x * (p[2] + x * (p[3] + x * (p[4] + x * p[5]))));
      const double slope = sine * (p[1] + x * (2.0 * p[2] + x * (3.0 * p[3] + x * (4.0 * p[4] + x * 5.0 * p[5]))));"""
    source.over_rows(_atoms(cast(RBTorsions, term).atoms), columns, TORSION, energy, BY_TORSION)


def _cmap_torsions(source: Source, term: Term) -> None:
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


def _custom_rows(source: Source, term: Term) -> None:
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


def _nonbonded(source: Source, term: Term) -> None:
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


def _custom_nonbonded(source: Source, term: Term) -> None:
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


def _gbsa_obc(source: Source, term: Term) -> None:
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


def _custom_gb(source: Source, term: Term) -> None:
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
    source: Source,
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
            source.write(f"  double *restrict {name}{k} = W + {source.space(n)};")
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


WRITERS: dict[type, Callable[[Source, Term], None]] = {
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
