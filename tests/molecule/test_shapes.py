"""Shapes: what tells structures apart, and what does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from alkanes import methylcyclohexane
from molecules import BUTANE, CYCLOHEXANE, TOLUENE, WATER, Molecule

from openmm_fab.molecule.graph import BondGraph
from openmm_fab.molecule.shapes import SAME, Shapes, exchanges


def apart(shapes: Shapes, x: np.ndarray, y: np.ndarray) -> float:
    """The largest distance in a block, equal atoms exchanged."""
    one, other = (shapes(torch.as_tensor(a)[None]) for a in (x, y))
    return float(shapes.nearest(one, other)[1].max())


@pytest.mark.parametrize("molecule, order", [(BUTANE, 2), (TOLUENE, 2), (CYCLOHEXANE, 12), (WATER, 1)])
def test_exchanges_are_the_automorphisms(molecule: Molecule, order: int) -> None:
    found = exchanges(molecule.graph)
    assert len(found) == order and (found[0] == np.arange(len(molecule.elements))).all()
    bonds = {frozenset(pair) for pair in molecule.bonds.tolist()}
    for exchange in found:
        assert sorted(exchange) == list(range(len(exchange)))
        assert {frozenset(exchange[list(pair)].tolist()) for pair in bonds} == bonds


@pytest.mark.parametrize("molecule", [BUTANE, TOLUENE, CYCLOHEXANE, WATER])
def test_labels_of_equal_atoms_do_not_matter(molecule: Molecule) -> None:
    x = molecule.positions + 0.005 * np.random.default_rng(0).normal(size=molecule.positions.shape)
    shapes = Shapes(molecule.graph, molecule.positions, exchanges(molecule.graph))
    assert len(shapes.permutations) <= len(exchanges(molecule.graph))
    for exchange in exchanges(molecule.graph):
        assert apart(shapes, x[exchange], x) < 1e-9
    if molecule is TOLUENE:  # its methyl's
        hydrogens = [i for i in molecule.graph.neighbours[6] if molecule.elements[i] == "H"]
        turned = x.copy()
        turned[hydrogens] = x[np.roll(hydrogens, 1)]
        assert apart(shapes, turned, x) < 1e-9


def test_chairs_of_cyclohexane_are_one_and_those_of_methylcyclohexane_two() -> None:
    graph = CYCLOHEXANE.graph
    mirrored = CYCLOHEXANE.positions * [1, 1, -1]
    alone = Shapes(graph, CYCLOHEXANE.positions)
    assert apart(alone, CYCLOHEXANE.positions, mirrored) > 1.5
    assert apart(Shapes(graph, CYCLOHEXANE.positions, exchanges(graph)), CYCLOHEXANE.positions, mirrored) < 0.05
    here, there = methylcyclohexane(), methylcyclohexane(other=True)
    shapes = Shapes(here.graph, here.minimum, exchanges(here.graph))
    assert len(shapes.permutations) == 2
    assert apart(shapes, here.minimum, there.minimum * [1, 1, -1]) > SAME
    assert apart(shapes, here.minimum, here.minimum * [1, 1, -1]) < 0.05


def test_hands_rotamers_and_amides(alanine_dipeptide) -> None:
    system = alanine_dipeptide
    shapes = Shapes(system.graph, system.minimum, exchanges(system.graph))
    names = {frozenset(block.atoms) for block in shapes.blocks}
    atoms = {f"{a.residue.name}:{a.name}": a.index for a in system.topology.atoms()}
    x = system.minimum
    other = shapes.apart(*(shapes(torch.as_tensor(y)[None]) for y in (x, x * [1, 1, -1])))[0]
    (centre,) = (k for k, block in enumerate(shapes.blocks) if block.atoms == (atoms["ALA:CA"],))
    assert other[centre] > 2.5
    for a, b in (("ACE:C", "ALA:N"), ("ALA:N", "ALA:CA"), ("ALA:CA", "ALA:C"), ("ALA:C", "NME:N")):
        assert frozenset((atoms[a], atoms[b])) in names
    assert len(shapes.blocks) == 7  # with both nitrogens; methyls turn into themselves
    first = next(b for b in shapes.blocks if set(b.atoms) == {atoms["ALA:N"], atoms["ALA:CA"]})
    assert set(first.fours[0]) == {atoms[n] for n in ("ACE:C", "ALA:N", "ALA:CA", "ALA:C")}  # phi


def test_equal_hydrogens_are_looked_at_together() -> None:
    """NH2 on a carbon: the bisector of its hydrogens tells how it is turned."""
    ammonia = BondGraph(["C", "N", "H", "H", "O", "H"], np.array([(0, 1), (1, 2), (1, 3), (0, 4), (0, 5)]))
    x = np.random.default_rng(1).normal(size=(6, 3))
    shapes = Shapes(ammonia, x, exchanges(ammonia))
    swapped = x[[0, 1, 3, 2, 4, 5]]
    assert apart(shapes, x, swapped) < 1e-9
    x[[2, 3]] = x[[1, 1]] - (x[[2, 3]] - x[[1, 1]])
    assert apart(shapes, x, swapped) > SAME
