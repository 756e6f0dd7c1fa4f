"""The bond graph: walks, rings, connected parts, and which bonds turn."""

from __future__ import annotations

import numpy as np

from openmm_fab.molecule.graph import BondGraph, molecules_of
from openmm_fab.molecule.torsions import rotatable_bonds

# A ring of six with a tail, and a molecule of two beside it.
BONDS = [(0, 1), (0, 5), (1, 2), (2, 3), (2, 6), (3, 4), (4, 5), (7, 8)]
GRAPH = BondGraph("CCCCCCFOO", np.array(BONDS))


def test_neighbours_follow_the_order_of_the_bonds():
    assert GRAPH.neighbours[2] == [1, 3, 6]
    assert BondGraph("CF", np.zeros((0, 2))).neighbours == [[], []]


def test_rings():
    assert sorted(GRAPH.ring(1, 2)) == [0, 1, 2, 3, 4, 5]
    assert (GRAPH.ring(1, 2)[0], GRAPH.ring(1, 2)[-1]) == (1, 2)
    assert GRAPH.ring(2, 6) == []


def test_distances_and_trees():
    assert GRAPH.distances(6) == {6: 0, 2: 1, 1: 2, 3: 2, 0: 3, 4: 3, 5: 4}
    tree = GRAPH.tree(6)
    assert next(iter(tree)) == 6 and tree[6] == -1 and tree[2] == 6 and tree[1] == 2
    assert all(atom == 6 or {tree[atom], atom} in map(set, BONDS) for atom in tree)


def test_branches():
    assert GRAPH.branch(6, 2) == [6]
    assert 6 not in GRAPH.branch(2, 6) and len(GRAPH.branch(2, 6)) == 6
    assert 1 in GRAPH.branch(2, 1)  # through the ring


def test_components():
    assert GRAPH.components() == [[0, 1, 2, 3, 4, 5, 6], [7, 8]]
    assert molecules_of(3, np.array([(0, 2)])) == [[0, 2], [1]]
    assert molecules_of(0, np.zeros((0, 2))) == []


def test_kinds_are_equal_for_atoms_that_look_alike():
    kinds = GRAPH.kinds
    assert kinds[1] == kinds[3] and kinds[0] == kinds[4]
    assert len({kinds[i] for i in (0, 1, 2, 5, 6, 7)}) == 6


def test_rotatable_bonds_are_in_no_ring_and_have_something_at_both_ends():
    #     0 - 1 - 2 - 3, 4 on 1; a ring 3 5 6
    chain = BondGraph("HCCCFCC", np.array([(0, 1), (1, 2), (2, 3), (1, 4), (3, 5), (3, 6), (5, 6)]))
    assert rotatable_bonds(chain) == [(1, 2), (2, 3)]
    assert rotatable_bonds(chain, {1, 2, 3, 5, 6}) == [(2, 3)]
