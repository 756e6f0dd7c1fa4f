"""C source of an energy: loops over rows of atoms, pairs and atoms, the data that they read, and the text around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..tools.native import LANES
from .native_expressions import LARGEST_POWER, NativeExpression, NoNativeCodeError
from .terms import Term

Columns = Sequence[np.ndarray]

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


class Source:
    """C of the terms, one loop after the other, and the data that they read.

    A call gets I (integers: first where everything is, then tables of atoms), D (numbers: tables of parameters) and W
    (work space). Within a block of LANES structures X and G (3 n_atoms, LANES) are positions and gradient, E the
    energies, R and Q (pairs, LANES) the distances of pairs and the energy's slopes by them, which become forces at the
    end.

    Parameters
    ----------
    pairs : (m, 2) int
        Atoms whose distances are computed.
    parameters : mapping of str to float
        Values of all global parameters.
    n_atoms : int
    """

    def __init__(self, pairs: np.ndarray, parameters: Mapping[str, float], n_atoms: int) -> None:
        self.pairs, self.parameters, self.n_atoms = pairs, parameters, n_atoms
        self._lines: list[str] = []
        self._head: list[tuple[str, int]] = []
        self._integers: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []
        self._work: list[int] = []
        self.left: list[Term] = []
        self.reasons: list[str] = []
        self._sizes = {"N_ATOMS": self._of("size", n_atoms), "N_PAIRS": self._of("size", len(self.pairs))}
        for name, rows in (("X", 3 * n_atoms), ("G", 3 * n_atoms), ("R", len(self.pairs)), ("Q", len(self.pairs))):
            self._sizes[f"AT_{name}"] = self.space(rows)
        self._sizes["AT_ATOMS"] = self._table_of_integers(self.pairs)

    def add(self, term: Term, writer: Callable[[Source, Term], None] | None) -> None:
        """Write the C of a term, or note why it has none."""
        before = len(self._lines)
        try:
            if writer is None:
                raise NoNativeCodeError("not written in C")
            writer(self, term)
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

    def space(self, rows: int) -> str:
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
        """Write a C loop over pairs of atoms, by the rows of their distances, around the lines `inside`.

        These have the names r (distance), q[l] (slope of u by r), p (parameters of the pair) and, of each computed
        value k, v<k>i[l] and v<k>j[l] at both atoms and their slopes s<k>i[l] and s<k>j[l].
        """
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
        at, by_r = self._table_of_integers(rows), self.space(len(rows))
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
