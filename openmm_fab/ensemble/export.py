"""Ensembles for other tools: PLUMED's COLVAR files, pandas, xarray and ArviZ. `Ensemble` has these as its methods.

A weight is never lost on the way: it is a column, a variable, or a bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from openmm import unit

from ..molecule.torsions import named_torsions
from ..tools.files import write_atomically
from ..weights import systematic_resample

if TYPE_CHECKING:
    import pandas
    import xarray

    from .ensemble import Ensemble


INSTALL = "pip install openmm_fab[export]"
GAS_CONSTANT = unit.MOLAR_GAS_CONSTANT_R.value_in_unit(unit.kilojoule_per_mole / unit.kelvin)
TABLES = (".csv", ".colvar")


def columns(ensemble: Ensemble, extra: Mapping[str, ArrayLike] | None = None) -> dict[str, np.ndarray]:
    """Named columns (n,): the named torsions in rad, then `extra`.

    Raises
    ------
    ValueError
        Extra columns of another length, or under a name that is taken.
    """
    named = named_torsions(ensemble.topology)
    angles = ensemble.torsions(list(named.values())) if named else np.zeros((ensemble.n, 0))
    found = {name: angles[:, i] for i, name in enumerate(named)}
    for name, values in (extra or {}).items():
        array = np.asarray(values, dtype=np.float64)
        if array.shape != (ensemble.n,):
            raise ValueError(f"Expected {name!r} with shape ({ensemble.n},), one value a frame; got {array.shape}.")
        if name in found or name in ("frame", "block", "u", "log_w", "weight", "log_q"):
            raise ValueError(f"Expected a new name for an extra column; got {name!r}, which is taken.")
        found[name] = array
    return found


def to_colvar(ensemble: Ensemble, path: str | Path, extra: Mapping[str, ArrayLike] | None = None) -> Path:
    """Write a PLUMED COLVAR file; returns its path.

    Columns: time (the frame's number), the named torsions (rad), those of `extra`, energy U (kJ/mol), logweight, and
    bias = kT logweight (kJ/mol): PLUMED's ``REWEIGHT_BIAS ARG=bias TEMP=...`` gives the weights exp(bias / kT). The
    largest weight is 1; frames of weight zero, which have no logarithm, are left out.

    Parameters
    ----------
    extra : mapping of str to (n,), optional
    """
    kept = np.flatnonzero(ensemble.log_w > -np.inf)
    if len(kept) == 0:
        raise ValueError("Expected frames with a weight above zero; there are none.")
    kT = GAS_CONSTANT * ensemble.temperature
    found = columns(ensemble, extra)
    names = {name: "".join(c if c.isalnum() else "_" for c in name) for name in found}
    if len(set(names.values())) < len(names):
        names = {name: f"{text}_{i}" for i, (name, text) in enumerate(names.items())}
    log_w = ensemble.log_w - ensemble.log_w.max()
    data = {
        "time": np.arange(ensemble.n, dtype=np.float64),
        **{names[name]: values for name, values in found.items()},
        "energy": kT * ensemble.u,
        "logweight": log_w,
        "bias": kT * log_w,
    }
    lines = [f"#! FIELDS {' '.join(data)}"]
    for name in named_torsions(ensemble.topology):
        lines += [f"#! SET min_{names[name]} -pi", f"#! SET max_{names[name]} pi"]
    rows = np.stack(list(data.values()), axis=1)[kept]
    lines += [" ".join([f"{row[0]:.0f}", *(f"{value:.9g}" for value in row[1:])]) for row in rows]
    text = "\n".join(lines) + "\n"
    return write_atomically(path, lambda file: file.write(text), "w")


def to_pandas(ensemble: Ensemble, extra: Mapping[str, ArrayLike] | None = None) -> pandas.DataFrame:
    """A row a frame: u, log_w, weight (they sum to 1), log_q and block where known, named torsions (rad), `extra`."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError(f"A table of an ensemble needs pandas: {INSTALL}.") from error
    table: dict[str, Any] = {"u": ensemble.u, "log_w": ensemble.log_w, "weight": ensemble.weights}
    table |= {key: values for key in ("log_q", "block") if (values := getattr(ensemble, key)) is not None}
    frame = pandas.DataFrame(table | columns(ensemble, extra), index=pandas.RangeIndex(ensemble.n, name="frame"))
    frame.attrs = {"temperature_K": ensemble.temperature, "name": ensemble.name, "invalid": ensemble.invalid}
    return frame


def to_xarray(
    ensemble: Ensemble, extra: Mapping[str, ArrayLike] | None = None, positions: bool = True
) -> xarray.Dataset:
    """The columns of `to_pandas` over (chain, draw), one chain; x (nm) over (chain, draw, atom, xyz); units in attrs.

    ArviZ takes it as it is, and knows nothing of weights: for ArviZ's plots and statistics use `to_arviz`.
    """
    try:
        import xarray
    except ImportError as error:
        raise ImportError(f"A data set of an ensemble needs xarray: {INSTALL}.") from error

    def variable(values: np.ndarray, about: str, *dims: str) -> tuple[tuple[str, ...], np.ndarray, dict[str, str]]:
        return (("chain", "draw", *dims), values[None], {"units": about})

    data = {
        "u": variable(ensemble.u, "kT"),
        "log_w": variable(ensemble.log_w, "nat"),
        "weight": variable(ensemble.weights, "1"),
    }
    if ensemble.log_q is not None:
        data["log_q"] = variable(ensemble.log_q, "nat")
    if ensemble.block is not None:
        data["block"] = variable(ensemble.block, "1")
    torsions = named_torsions(ensemble.topology)
    for name, values in columns(ensemble, extra).items():
        data[name] = variable(values, "rad" if name in torsions else "")
    coordinates: dict[str, Any] = {"chain": [0], "draw": np.arange(ensemble.n)}
    if positions:
        data["x"] = variable(ensemble.x, "nm", "atom", "xyz")
        coordinates |= {"atom": [str(a) for a in ensemble.topology.atoms], "xyz": ["x", "y", "z"]}
    about = {"temperature_K": ensemble.temperature, "name": ensemble.name, "invalid": ensemble.invalid}
    return xarray.Dataset(data, coordinates, about)


def to_arviz(ensemble: Ensemble, n: int, seed: int = 0, extra: Mapping[str, ArrayLike] | None = None) -> Any:
    """ArviZ data (an xarray DataTree) of n frames drawn by weight, as `resample` does.

    Group posterior: the named torsions (rad) and `extra`; sample_stats: u, and the frame that each draw is. The draws
    are no chain in time, so ArviZ's ess and rhat say nothing here; `Ensemble.ess` and `.khat` do.
    """
    rows = systematic_resample(ensemble.log_w, n, np.random.default_rng(seed))
    posterior = {name: column[rows][None] for name, column in columns(ensemble, extra).items()}
    return _arviz_data({"posterior": posterior, "sample_stats": {"u": ensemble.u[rows][None], "frame": rows[None]}})


def _arviz_data(groups: dict[str, dict[str, np.ndarray]]) -> Any:
    try:
        from arviz_base import from_dict
    except ImportError:  # on Python 3.10 the arviz before it
        try:
            import arviz
        except ImportError as error:
            raise ImportError(f"An ArviZ view of an ensemble needs arviz-base: {INSTALL}.") from error
        return arviz.from_dict(**groups)
    return from_dict(groups)


def write_ensemble(ensemble: Ensemble, path: str | Path) -> list[Path]:
    """Write by suffix: .npz (`Ensemble.save`), .csv, .colvar, or a trajectory with its weights in a .colvar beside it.

    Returns
    -------
    list of Path
        What was written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in ("", ".npz"):
        return [ensemble.save(path)]
    if suffix == ".csv":
        table = to_pandas(ensemble)
        return [write_atomically(path, lambda file: table.to_csv(file), "w")]
    if suffix == ".colvar":
        return [to_colvar(ensemble, path)]
    try:
        ensemble.to_mdtraj().save(str(path))
    except OSError as error:
        if error.errno:  # a full disk, say
            raise
        known = ", ".join((".npz", *TABLES))
        raise ValueError(f"Expected {known}, or a suffix that mdtraj writes; got {path.name!r} ({error}).") from error
    return [path, to_colvar(ensemble, path.with_suffix(".colvar"))]
