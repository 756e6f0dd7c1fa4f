"""Checks of trajectories against a system, reassembly of molecules split by a box, and topologies as arrays."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import shorten

import mdtraj
import numpy as np
from mdtraj.core.topology import Amide, Aromatic, Double, Single, Triple

from ..molecule.graph import BondGraph
from ..tools.quiet import silence_stdout

GRIDS = (1, 2, 3, 4)  # digits of coordinates in nm; what is finer than 0.0001 nm moves no energy
STILL = 7e-4  # nm: what XTC's rounding leaves of a fixed length; a bond to hydrogen vibrates by 3e-3 at 300 K
BOND_TYPES = {str(kind): kind for kind in (Single, Double, Triple, Aromatic, Amide)} | {"": None}


HDF5 = (".h5", ".hdf5")


def load_trajectory(path: str | Path, topology: mdtraj.Topology) -> mdtraj.Trajectory:
    """Frames of a file that mdtraj reads, their atoms those of a topology.

    Raises
    ------
    FileNotFoundError
    ValueError
        Another kind of file, another number of atoms, or other atoms where the file names them.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a trajectory at {path}; there is none (working directory {Path.cwd()}).")
    try:
        if path.suffix.lower() not in HDF5:
            with silence_stdout():
                return mdtraj.load(str(path), top=topology)
        trajectory = _read_hdf5(path)
    except Exception as error:  # mdtraj's readers raise whatever they stumble over
        said = shorten(str(error).strip().rstrip("."), 200, placeholder=" ...") or type(error).__name__
        raise ValueError(
            f"Expected a trajectory of {topology.n_atoms} atoms that mdtraj reads (.dcd, .xtc, .trr, .nc, ...) at "
            f"{path}; mdtraj says: {said}."
        ) from error
    check_same_atoms(trajectory.topology, topology)
    trajectory.topology = topology
    return trajectory


def _read_hdf5(path: Path) -> mdtraj.Trajectory:
    """Frames of an HDF5 file in mdtraj's layout, their atoms without bonds and residues.

    mdtraj reads it with PyTables, which unpickles what attributes hold, and so runs it. The library of netCDF does not.
    """
    import netCDF4

    with netCDF4.Dataset(str(path)) as file:
        file.set_auto_mask(False)
        topology = mdtraj.Topology()
        residue = topology.add_residue("", topology.add_chain())
        chains = json.loads(file["topology"][0])["chains"]
        atoms = (atom for chain in chains for residue in chain["residues"] for atom in residue["atoms"])
        for atom in sorted(atoms, key=lambda atom: int(atom["index"])):
            topology.add_atom(atom["name"], mdtraj.element.get_by_symbol(atom["element"]), residue)
        if (units := file["coordinates"].units) != "nanometers":
            raise ValueError(f"expected nanometers, got {units}")
        cell = {f"unitcell_{k}": file[f"cell_{k}"][:] for k in ("lengths", "angles") if f"cell_{k}" in file.variables}
        return mdtraj.Trajectory(file["coordinates"][:], topology, **cell)


def fixed_lengths(x: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Which bonds (m, 2) have the same length in all frames x (n, atoms, 3), nm, as far as files keep them: bool (m,).

    Of fewer than 10 frames nothing is said: False.
    """
    some = x[:: max(1, len(x) // 200)]
    if len(some) < 10 or not len(bonds):
        return np.zeros(len(bonds), dtype=bool)
    return _lengths(some.astype(np.float64), bonds).std(0) < STILL


def check_same_atoms(got: mdtraj.Topology, expected: mdtraj.Topology) -> None:
    """Raise a ValueError that says which atom differs unless both have the same atoms in the same order."""
    if got.n_atoms != expected.n_atoms:
        raise ValueError(
            f"Expected a trajectory of the system's {expected.n_atoms} atoms; got {got.n_atoms}. "
            "Slice it to the molecule first: trajectory.atom_slice(indices of the molecule)."
        )
    ours, theirs = list(expected.atoms), list(got.atoms)
    # Files may name atoms by another convention (HN for H); the same names shuffled are another order.
    same_names = sorted(a.name for a in ours) == sorted(a.name for a in theirs)
    for a, b in zip(ours, theirs, strict=True):
        if a.element != b.element or (same_names and a.name != b.name):
            different = (
                f"atom {a.index} is {a} ({a.element.symbol}) in the system and {b} ({b.element.symbol}) in the "
                "trajectory."
            )
            if [c.name.upper() for c in ours] == [c.name.upper() for c in theirs]:
                raise ValueError(
                    f"Expected the system's elements; the atoms have the system's names in the system's order, but "
                    f"{different} A .gro file has no elements, and mdtraj guesses them from names (CL1 as carbon). "
                    "Take the system's: mdtraj.Trajectory(trajectory.xyz, system.md_topology), or load the trajectory "
                    "with a file that has elements."
                )
            raise ValueError(
                f"Expected the system's atoms in the system's order; {different} "
                "Reorder it: mdtraj.Trajectory(trajectory.xyz[:, order], system.md_topology)."
            )


def topology_to_arrays(topology: mdtraj.Topology) -> dict[str, np.ndarray]:
    """Arrays of names, elements, charges, residues, chains and bonds: all that `topology_from_arrays` needs, without
    pickling. Orders of bonds that are not known are 0, formal charges nan."""
    atoms, residues, bonds = list(topology.atoms), list(topology.residues), list(topology.bonds)
    return {
        "atom_name": np.array([a.name for a in atoms], dtype=str),
        "atom_element": np.array([a.element.symbol for a in atoms], dtype=str),
        "atom_residue": np.array([a.residue.index for a in atoms], dtype=int),
        "atom_charge": np.array([np.nan if (q := a.formal_charge) is None else q for a in atoms], dtype=float),
        "residue_name": np.array([r.name for r in residues], dtype=str),
        "residue_number": np.array([r.resSeq for r in residues], dtype=int),
        "residue_segment": np.array([r.segment_id for r in residues], dtype=str),
        "residue_chain": np.array([r.chain.index for r in residues], dtype=int),
        "chain_id": np.array([chain.chain_id or "" for chain in topology.chains], dtype=str),
        "bonds": np.array([(a.index, b.index) for a, b in bonds], dtype=int).reshape(-1, 2),
        "bond_type": np.array(["" if bond.type is None else str(bond.type) for bond in bonds], dtype=str),
        "bond_order": np.array([bond.order or 0 for bond in bonds], dtype=int),
    }


def topology_from_arrays(arrays: dict[str, np.ndarray]) -> mdtraj.Topology:
    """Make a topology from the result of `topology_to_arrays`; older files lack charges, chain names, bond types and
    orders."""
    topology = mdtraj.Topology()
    n_chains = int(arrays["residue_chain"].max(initial=-1)) + 1
    chains = [topology.add_chain(str(name) or None) for name in arrays.get("chain_id", [""] * n_chains)]
    keys = ("residue_name", "residue_chain", "residue_number", "residue_segment")
    residues = [
        topology.add_residue(str(name), chains[chain], resSeq=int(number), segment_id=str(segment))
        for name, chain, number, segment in zip(*(arrays[key] for key in keys), strict=True)
    ]
    found = [arrays[key] for key in ("atom_name", "atom_element", "atom_residue")]
    charges = arrays.get("atom_charge", np.full(len(found[0]), np.nan))
    for name, symbol, residue, charge in zip(*found, charges, strict=True):
        element = mdtraj.element.get_by_symbol(str(symbol))
        formal = None if np.isnan(charge) else int(charge)
        topology.add_atom(str(name), element, residues[residue], formal_charge=formal)
    atoms, bonds = list(topology.atoms), arrays["bonds"]
    types, orders = arrays.get("bond_type", [""] * len(bonds)), arrays.get("bond_order", [0] * len(bonds))
    for (i, j), kind, order in zip(bonds, types, orders, strict=True):
        topology.add_bond(atoms[i], atoms[j], type=BOND_TYPES[str(kind)], order=int(order) or None)
    return topology


def coordinate_grid(x: np.ndarray) -> float:
    """Spacing, nm, of the grid on which all coordinates of frames x (n, atoms, 3), nm, lie; 0.0 where on none.

    XTC and GRO files round to 0.001 nm unless told otherwise, PDB and AMBER's text trajectories to 0.0001 nm. What was
    moved or turned since it was read lies on none.
    """
    some = np.asarray(x[:: max(1, len(x) // 100)], dtype=np.float64)
    some = some[np.isfinite(some).all((1, 2))]
    if not some.any():
        return 0.0
    for digits in GRIDS:
        steps = some * 10.0**digits
        if np.abs(steps - np.round(steps)).max() < 0.02:  # float32 is no better, 10 nm from the origin
            return float(10.0**-digits)
    return 0.0


def whole_structures(trajectory: mdtraj.Trajectory, graph: BondGraph, positions: np.ndarray) -> np.ndarray:
    """Coordinates of a trajectory, (n, atoms, 3) nm, with molecules that a periodic box has split put together.

    Parameters
    ----------
    trajectory : mdtraj.Trajectory
        Molecules that a box has split are put together where it has unit cells.
    graph : BondGraph
    positions : (atoms, 3), nm
        A structure with lengths of bonds as they should be.

    Raises
    ------
    ValueError
        Bonds ten times too long or too short (Å for nm); bonds across a box, without a unit cell.
    """
    x, bonds = trajectory.xyz, graph.bonds
    if not len(bonds) or not len(x):
        return x
    expected = _lengths(positions[None], bonds)[0]
    ratio = float(np.nanmedian(_lengths(x[:: max(1, len(x) // 200)], bonds) / expected))
    for factor, low, high in ((0.1, 5.0, 20.0), (10.0, 0.05, 0.2)):
        if low < ratio < high:
            raise ValueError(
                f"Expected coordinates in nm; got bonds {ratio:.3g} times as long as the system's. mdtraj takes "
                f"nm, most others Å: multiply by {factor:g}, mdtraj.Trajectory({factor:g} * trajectory.xyz, topology)."
            )
    torn = _torn(x, bonds, expected)
    if torn.any() and trajectory.unitcell_vectors is not None:
        x = trajectory.make_molecules_whole(sorted_bonds=_outwards(graph)).xyz
        torn = _torn(x, bonds, expected)
    if torn.any():
        frame = int(np.flatnonzero(torn.any(1))[0])
        i, j = bonds[int(np.flatnonzero(torn[frame])[0])]
        atoms, length = list(trajectory.topology.atoms), float(_lengths(x[[frame]], bonds[torn[frame]])[0, 0])
        raise ValueError(
            f"Expected whole molecules; in {int(torn.any(1).sum())} of {len(x)} frames, first in frame {frame}, bonds "
            f"are absurdly long: {atoms[i]} to {atoms[j]}, {length:.3g} nm. If a periodic box has cut it, keep "
            "its unit cell (trajectory.unitcell_lengths), or make it whole first: trajectory.make_molecules_whole(), "
            "gmx trjconv -pbc mol. If the run blew up, leave those frames out."
        )
    return x


def _lengths(x: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[:, bonds[:, 0]] - x[:, bonds[:, 1]], axis=-1)


def _torn(x: np.ndarray, bonds: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """(n, bonds) bool; coordinates that are not finite are another matter."""
    return _lengths(x, bonds) > 2.0 * expected + 0.05


def _outwards(graph: BondGraph) -> np.ndarray:
    """Bonds (m, 2) of a tree of each molecule, each from an atom that is placed to one that is not, whatever their
    numbers."""
    trees = (graph.tree(atoms[0]) for atoms in graph.components())
    order = [(before, atom) for tree in trees for atom, before in tree.items() if before >= 0]
    return np.array(order, dtype=np.int32)
