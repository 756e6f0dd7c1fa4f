"""Ensembles of molecules that change between two states with a known rate, for tests; they need RDKit."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest

from openmm_fab.ensemble.ensemble import Ensemble

NOISE = 0.002  # nm


def markov(n: int, leave: float, back: float, rng: np.random.Generator) -> np.ndarray:
    """A stationary chain (n,) bool that leaves False, and True, with these probabilities a step.

    It is True in leave / (leave + back) of the time, and correlated as (1 - leave - back)^steps.
    """
    state = np.zeros(n, dtype=bool)
    state[0] = rng.random() < leave / (leave + back)
    draws = rng.random(n)
    for t in range(1, n):
        state[t] = draws[t] < leave if not state[t - 1] else draws[t] >= back
    return state


def two_sided(
    x: np.ndarray, y: np.ndarray, topology: mdtraj.Topology, state: np.ndarray, seed: int, **fields
) -> Ensemble:
    """The structure x (atoms, 3) where the state (n,) is True, y where it is not, with Gaussian noise on all atoms."""
    frames = np.where(state[:, None, None], x, y) + NOISE * np.random.default_rng(seed).normal(
        size=(len(state), *x.shape)
    )
    n = len(state)
    fields = dict(u=np.full(n, np.nan), log_w=np.zeros(n), topology=topology, temperature=300.0) | fields
    return Ensemble(frames, **fields)


def topology_of(elements, bonds) -> mdtraj.Topology:
    """One residue, its atoms named by element and number."""
    topology = mdtraj.Topology()
    residue = topology.add_residue("MOL", topology.add_chain())
    atoms = [topology.add_atom(f"{e}{i}", mdtraj.element.get_by_symbol(e), residue) for i, e in enumerate(elements)]
    for i, j in bonds:
        topology.add_bond(atoms[i], atoms[j])
    return topology


def cyclohexene(state: np.ndarray, seed: int = 0, **fields) -> Ensemble:
    """One half chair where the state (n,) is True, elsewhere the other: the mirror image, with the labels of the
    hydrogens of each CH2 exchanged, which is the same molecule flipped."""
    pytest.importorskip("rdkit")
    import zoo

    zoo.SMILES["cyclohexene"] = "C1CCCC=C1"
    molecule = zoo.from_smiles("cyclohexene")
    order = np.arange(len(molecule.elements))
    for i, element in enumerate(molecule.elements):
        hydrogens = [j for j in molecule.graph.neighbours[i] if molecule.elements[j] == "H"]
        if element == "C" and len(hydrogens) == 2:
            order[hydrogens] = hydrogens[::-1]
    x = molecule.positions
    return two_sided(x, (x * [1, 1, -1])[order], topology_of(molecule.elements, molecule.bonds), state, seed, **fields)


def nicotine(state: np.ndarray, seed: int = 0, **fields) -> Ensemble:
    """The methyl of the amine on one side of the nitrogen where the state is True, elsewhere on the other: reflected at
    the plane of nitrogen and ring."""
    pytest.importorskip("rdkit")
    import zoo

    molecule = zoo.load("nicotine")
    x, near = molecule.positions, molecule.graph.neighbours
    (nitrogen,) = (i for i, e in enumerate(molecule.elements) if e == "N" and len(near[i]) == 3)
    methyl = next(i for i in near[nitrogen] if not molecule.graph.ring(nitrogen, i))
    a, b = (i for i in near[nitrogen] if i != methyl)
    normal = np.cross(x[a] - x[nitrogen], x[b] - x[nitrogen])
    normal /= np.linalg.norm(normal)
    y, moved = x.copy(), molecule.graph.branch(methyl, nitrogen)
    y[moved] -= 2 * ((x[moved] - x[nitrogen]) @ normal)[:, None] * normal
    return two_sided(x, y, topology_of(molecule.elements, molecule.bonds), state, seed, **fields)
