"""Export of ensembles to PLUMED's COLVAR files, pandas, xarray and ArviZ.

Each function takes a `Table`, as `Ensemble.columns` makes it, and keeps the weights: as a column, a variable, or a
bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..free_energy.frames import Frames
from ..molecule.torsions import named_torsions
from ..tools.files import write_atomically
from ..tools.install import install
from ..weights import normalized_weights, systematic_resample

if TYPE_CHECKING:
    import pandas
    import xarray


TAKEN = ("frame", "block", "u", "log_w", "weight", "log_q")


@dataclass(frozen=True, eq=False)
class Table:
    """Columns (n,) of an ensemble with one row for each frame: energy, weights, torsions and others.

    Attributes
    ----------
    u : (n,)
        Reduced energies.
    log_w : (n,), nats
        Unnormalised log weights.
    angles : dict of str to (n,), rad
        Torsions by name.
    extra : dict of str to (n,)
    log_q, block : (n,), optional
        Log density of the flow; labels of independent blocks.
    about : dict
        Of the whole: temperature_K, name, invalid.
    """

    u: np.ndarray
    log_w: np.ndarray
    angles: Mapping[str, np.ndarray]
    extra: Mapping[str, np.ndarray] = field(default_factory=dict)
    log_q: np.ndarray | None = None
    block: np.ndarray | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.u)

    @cached_property
    def weight(self) -> np.ndarray:
        """Normalised weights (n,), which sum to one."""
        return normalized_weights(self.log_w)

    @property
    def optional(self) -> dict[str, np.ndarray]:
        """Columns log_q and block, as far as they are known."""
        return {key: found for key in ("log_q", "block") if (found := getattr(self, key)) is not None}


def extra_columns(extra: Mapping[str, ArrayLike] | None, n: int, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Check further columns (n,) for a table that has columns of these names, and return them as float64.

    Raises
    ------
    ValueError
        Columns of another length, or under a name that is taken.
    """
    found: dict[str, np.ndarray] = {}
    for name, values in (extra or {}).items():
        array = np.asarray(values, dtype=np.float64)
        if array.shape != (n,):
            raise ValueError(f"Expected {name!r} with shape ({n},), one value a frame; got {array.shape}.")
        if name in (*names, *found, *TAKEN):
            raise ValueError(f"Expected a new name for an extra column; got {name!r}, which is taken.")
        found[name] = array
    return found


def write_colvar(table: Table, path: str | Path, kT: float) -> Path:
    """Write a PLUMED COLVAR file, see `Ensemble.to_colvar`; returns its path.

    Parameters
    ----------
    kT : float, kJ/mol
    """
    kept = np.flatnonzero(table.log_w > -np.inf)
    if len(kept) == 0:
        raise ValueError("Expected frames with a weight above zero; there are none.")
    found = {**table.angles, **table.extra}
    names = {name: "".join(c if c.isalnum() else "_" for c in name) for name in found}
    if len(set(names.values())) < len(names):
        names = {name: f"{text}_{i}" for i, (name, text) in enumerate(names.items())}
    log_w = table.log_w - table.log_w.max()
    data = {
        "time": np.arange(table.n, dtype=np.float64),
        **{names[name]: values for name, values in found.items()},
        "energy": kT * table.u,
        "logweight": log_w,
        "bias": kT * log_w,
    }
    lines = [f"#! FIELDS {' '.join(data)}"]
    for name in table.angles:
        lines += [f"#! SET min_{names[name]} -pi", f"#! SET max_{names[name]} pi"]
    rows = np.stack(list(data.values()), axis=1)[kept]
    lines += [" ".join([f"{row[0]:.0f}", *(f"{value:.9g}" for value in row[1:])]) for row in rows]
    text = "\n".join(lines) + "\n"
    return write_atomically(path, lambda file: file.write(text), "w")


def to_pandas(table: Table) -> pandas.DataFrame:
    """pandas table of a `Table`, see `Ensemble.to_pandas`."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError(f"A table of an ensemble needs pandas: {install('export')}.") from error
    data: dict[str, Any] = {"u": table.u, "log_w": table.log_w, "weight": table.weight}
    data |= {**table.optional, **table.angles, **table.extra}
    frame = pandas.DataFrame(data, index=pandas.RangeIndex(table.n, name="frame"))
    frame.attrs = dict(table.about)
    return frame


def to_xarray(table: Table, x: np.ndarray | None = None, atoms: Sequence[str] = ()) -> xarray.Dataset:
    """xarray data set of a `Table`, see `Ensemble.to_xarray`.

    Parameters
    ----------
    x : (n, atoms, 3), nm, optional
    atoms : names of the atoms
    """
    try:
        import xarray
    except ImportError as error:
        raise ImportError(f"A data set of an ensemble needs xarray: {install('export')}.") from error

    def variable(values: np.ndarray, about: str, *dims: str) -> tuple[tuple[str, ...], np.ndarray, dict[str, str]]:
        return (("chain", "draw", *dims), values[None], {"units": about})

    data = {
        "u": variable(table.u, "kT"),
        "log_w": variable(table.log_w, "nat"),
        "weight": variable(table.weight, "1"),
        **{key: variable(values, {"log_q": "nat", "block": "1"}[key]) for key, values in table.optional.items()},
        **{name: variable(values, "rad") for name, values in table.angles.items()},
        **{name: variable(values, "") for name, values in table.extra.items()},
    }
    coordinates: dict[str, Any] = {"chain": [0], "draw": np.arange(table.n)}
    if x is not None:
        data["x"] = variable(x, "nm", "atom", "xyz")
        coordinates |= {"atom": list(atoms), "xyz": ["x", "y", "z"]}
    return xarray.Dataset(data, coordinates, dict(table.about))


def to_arviz(table: Table, n: int, seed: int = 0) -> Any:
    """ArviZ data of n rows drawn by weight, see `Ensemble.to_arviz`."""
    rows = systematic_resample(table.log_w, n, np.random.default_rng(seed))
    posterior = {name: column[rows][None] for name, column in {**table.angles, **table.extra}.items()}
    groups = {"posterior": posterior, "sample_stats": {"u": table.u[rows][None], "frame": rows[None]}}
    try:
        from arviz_base import from_dict
    except ImportError:  # on Python 3.10 the arviz before it
        try:
            import arviz
        except ImportError as error:
            raise ImportError(f"An ArviZ view of an ensemble needs arviz-base: {install('export')}.") from error
        return arviz.from_dict(**groups)
    return from_dict(groups)


@dataclass(frozen=True, eq=False, repr=False)
class Exported(Frames):
    """Frames with the tables and data sets that other tools take: pandas, xarray, ArviZ, PLUMED."""

    def columns(self, extra: Mapping[str, ArrayLike] | None = None) -> Table:
        """Table of energy, weights and named torsions with one row for each frame, and further columns in `extra`.

        Raises
        ------
        ValueError
            Extra columns of another length, or under a name that is taken.
        """
        named = named_torsions(self.topology)
        found = self.torsions(list(named.values())).T if named else ()
        return Table(
            u=self.u,
            log_w=self.log_w,
            angles=dict(zip(named, found, strict=True)),
            extra=extra_columns(extra, self.n, list(named)),
            log_q=self.log_q,
            block=self.block,
            about={"temperature_K": self.temperature, "name": self.name, "invalid": self.invalid},
        )

    def to_colvar(self, path: str | Path, extra: Mapping[str, ArrayLike] | None = None) -> Path:
        """Write a PLUMED COLVAR file; returns its path.

        Columns: time (the frame's number), the named torsions (rad), those of `extra`, energy U (kJ/mol), logweight,
        and bias = kT logweight (kJ/mol): PLUMED's ``REWEIGHT_BIAS ARG=bias TEMP=...`` gives the weights exp(bias / kT).
        The largest weight is 1; frames of weight zero, which have no logarithm, are left out.

        Parameters
        ----------
        extra : mapping of str to (n,), optional
        """
        return write_colvar(self.columns(extra), path, self.kT)

    def to_pandas(self, extra: Mapping[str, ArrayLike] | None = None) -> pandas.DataFrame:
        """pandas table with one row for each frame: u, log_w, weight (sum 1), log_q and block where known, torsions
        (rad), `extra`.

        Parameters
        ----------
        extra : mapping of str to (n,), optional
        """
        return to_pandas(self.columns(extra))

    def to_xarray(self, extra: Mapping[str, ArrayLike] | None = None, positions: bool = True) -> xarray.Dataset:
        """xarray data set of the columns of `to_pandas` over (chain, draw), one chain, and x (nm) over (chain, draw,
        atom, xyz), with units.

        ArviZ takes it as it is, and knows nothing of weights: for ArviZ's plots and statistics use `to_arviz`.

        Parameters
        ----------
        extra : mapping of str to (n,), optional
        positions : bool
            False leaves x out.
        """
        atoms = [str(atom) for atom in self.topology.atoms]
        return to_xarray(self.columns(extra), self.x if positions else None, atoms)

    def to_arviz(self, n: int, seed: int = 0, *, extra: Mapping[str, ArrayLike] | None = None) -> Any:
        """ArviZ data (an xarray DataTree) of n frames drawn by weight, as `resample` does.

        Group posterior: the named torsions (rad) and `extra`; sample_stats: u, and the frame that each draw is. The
        draws are no chain in time, so ArviZ's ess and rhat say nothing here; `ess` and `khat` do.

        Parameters
        ----------
        extra : mapping of str to (n,), optional
        """
        return to_arviz(self.columns(extra), n, seed)
