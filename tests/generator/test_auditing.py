"""An audit: what it finds where a basin is cut out of an ensemble, and its parts against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache

import mdtraj
import numpy as np
import pytest
import torch
from alkanes import alkane, methylcyclohexane
from molecules import BUTANE
from openmm import app

from openmm_fab.coordinates.quenching import Searcher, with_springs
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.ensemble.audit import COVERED, EXCLUDED, RARE, Audit
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.ensemble.held import Held
from openmm_fab.generator.auditing import Words, audit, on_cpu
from openmm_fab.molecule.graph import BondGraph
from openmm_fab.molecule.shapes import Shapes
from openmm_fab.molecule.system import PAPER_FORCEFIELD, MolecularSystem
from openmm_fab.molecule.torsions import peptide_torsions

FRAMES = 4000
KINDS = ("butane", "methylcyclohexane")


@cache
def system_of(name: str) -> MolecularSystem:
    return alkane(BUTANE, "butane") if name == "butane" else methylcyclohexane()


@cache
def states_of(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quenched (k, atoms, 3), nm, built and not searched for, their energies (k,), kT, and deviations from them (atoms,
    atoms, 3, 3) by the Hessian: roots of its inverse, overall motion left out."""
    system = system_of(name)
    if name == "butane":
        built = []
        for angle in (180.0, 65.0, -65.0):
            x, graph = BUTANE.positions.copy(), BUTANE.graph
            moved = sorted(graph.branch(2, 1))
            axis = (x[2] - x[1]) / np.linalg.norm(x[2] - x[1])
            turn, arm = np.deg2rad(angle - 180.0), x[moved] - x[1]
            along = (arm @ axis)[:, None] * axis
            x[moved] = x[1] + along + np.cos(turn) * (arm - along) + np.sin(turn) * np.cross(axis, arm)
            built.append(system.minimise(x))
    else:
        other = methylcyclohexane(other=True)  # the methyl on the other side of its carbon: the mirror image flipped
        built = [system.minimum, other.minimum * [1, 1, -1]]
    energy = CompiledEnergy(system)
    roots = []
    for x in built:
        shift = 1e-4 * np.eye(x.size).reshape(-1, *x.shape)
        slopes = energy.value_and_gradient(torch.as_tensor(np.concatenate([x + shift, x - shift])))[1].flatten(1)
        hessian = ((slopes[: x.size] - slopes[x.size :]) / 2e-4).numpy()
        values, vectors = np.linalg.eigh(0.5 * (hessian + hessian.T))
        roots.append(vectors[:, 6:] / np.sqrt(values[6:]))
    u = energy(torch.as_tensor(np.array(built))).numpy()
    return np.array(built), u, np.array(roots)


def ensemble_of(name: str, states: tuple[int, ...], seed: int = 0, **fields) -> Ensemble:
    """Thermal motion, harmonic, around these of the states, which have the weights that their energies give."""
    x, u, roots = states_of(name)
    rng, chosen = np.random.default_rng(seed), np.array(states)
    which = rng.choice(chosen, FRAMES)
    noise = np.einsum("nij,nj->ni", roots[which], rng.normal(size=(FRAMES, roots.shape[2])))
    frames = x[which] + noise.reshape(FRAMES, *x.shape[1:])
    fields = dict(u=np.full(FRAMES, np.nan), log_w=-u[which], temperature=300.0) | fields
    return Ensemble(frames, topology=system_of(name).md_topology, **fields)


def audit_of(name: str, ensemble: Ensemble, seed: int = 0, **fields) -> Audit:
    system = system_of(name)
    return audit(system, CompiledEnergy(system).value_and_gradient, ensemble, seed=seed, **fields)


@cache
def butane_cut() -> Audit:
    """Without one gauche state."""
    return audit_of("butane", ensemble_of("butane", (0, 2)))


def test_a_rotamer_that_is_cut_out_is_missing_and_kept_by_choice_is_excluded() -> None:
    good = audit_of("butane", ensemble_of("butane", (0, 1, 2)))
    assert [s.verdict for s in good.states] == [COVERED] * 3 and good.exhausted and good.finding.grade == "good"
    assert good.missing == [] and "3 covered" in repr(good) and "\n" not in repr(good)
    # Both gauche states are equal; their share by the Hessian is that by the energies but for what widths differ.
    trans, left, right = good.of(COVERED)
    assert trans.energy == 0.0 and left.energy == pytest.approx(right.energy, abs=0.02)
    assert left.due == pytest.approx(left.share, rel=0.5) and sum(s.due for s in good.states) == pytest.approx(1.0)

    cut = butane_cut()
    (lost,) = cut.missing
    assert lost.share == 0.0 and 0.5 < lost.due / left.due < 2.0 and cut.finding.grade == "bad"
    assert "C2-C3 at " in lost.where and 55 < float(lost.where.split(" at ")[1].split("°")[0]) < 75
    phi = Ensemble(np.array([lost.x]), np.zeros(1), np.zeros(1), system_of("butane").md_topology, 300.0).torsions(
        (0, 1, 2, 3)
    )
    assert 55 < np.degrees(phi[0, 0]) < 75

    held = (Held("stiff bond", "C2-C3", "as given", "turned", barrier=7.0, atoms=(2, 1)),)
    kept = audit_of("butane", ensemble_of("butane", (0, 2), held=held))
    (left_out,) = kept.of(EXCLUDED)
    assert kept.missing == [] and left_out.barrier == 7.0 and left_out.where == lost.where
    assert kept.finding.grade == "care" and "kept out by choice" in kept.finding.head


def test_a_torsion_of_a_peptide_has_its_name() -> None:
    system = MolecularSystem.load("alanine_dipeptide")
    four = peptide_torsions(system.md_topology)["psi ALA2"]
    branch = system.graph.branch(four[2], four[1])
    x = system.minimum
    axis = (x[four[2]] - x[four[1]]) / np.linalg.norm(x[four[2]] - x[four[1]])
    turned = x.copy()
    arm = x[list(branch)] - x[four[2]]
    turned[list(branch)] += 2 * (np.outer(arm @ axis, axis) - arm)  # by half a circle
    shapes = Shapes(system.graph, x, [np.arange(len(x))])
    of_x, of_turned = (shapes(torch.as_tensor(np.asarray(one)[None])) for one in (x, turned))
    angle = mdtraj.compute_dihedrals(mdtraj.Trajectory(turned[None], system.md_topology), [four])[0, 0]
    assert Words(shapes, system)(of_turned, of_x) == f"psi ALA2 at {np.degrees(angle):.0f}°"


def test_one_chair_of_two() -> None:
    equatorial = int(states_of("methylcyclohexane")[1].argmin())
    found = audit_of("methylcyclohexane", ensemble_of("methylcyclohexane", (1 - equatorial,)))
    (lost,) = found.missing
    assert "pucker" in lost.where and lost.energy == 0.0 and lost.due > 0.8
    (one,) = found.of(COVERED)
    u = states_of("methylcyclohexane")[1]
    assert one.energy == pytest.approx(abs(u[0] - u[1]), abs=0.02) and one.share == pytest.approx(1.0)
    assert len(found.of(RARE)) > 2 and all(s.energy > 8 for s in found.of(RARE))  # twisted boats


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_ten_of_ten(name) -> None:
    worst = int(states_of(name)[1].argmax())
    every = tuple(range(len(states_of(name)[1])))
    for seed in range(10):
        assert audit_of(name, ensemble_of(name, every, seed), seed).missing == [], seed
        rest = tuple(s for s in every if s != worst)
        assert len(audit_of(name, ensemble_of(name, rest, seed), seed).missing) == 1, seed


def test_its_file_and_its_words(tmp_path) -> None:
    found = butane_cut()
    assert Audit.from_json(found.to_json()).to_json() == found.to_json() and len(found.missing) == 1
    ensemble = replace(ensemble_of("butane", (0,)), audit=found)
    loaded = Ensemble.load(ensemble.save(tmp_path / "a.npz"))
    assert loaded.audit.to_json() == found.to_json() and ensemble[:9].audit is found
    assert "audit: 2 covered, 0 rare, 0 excluded by choice, 1 missing" in repr(ensemble)
    lines = found.summary().splitlines()
    assert lines[1].startswith("BAD  1 state is missing: some ") and sum(s.startswith("missing ") for s in lines) == 1
    assert found.table(1).splitlines()[-1] == "... and 2 more."


class Springs:
    """Three atoms, two bonds as long as `size`, an angle of 1.9 rad; u is quadratic in all three."""

    def __init__(self, size: float) -> None:
        self.size = size
        self.x = size * torch.tensor([[1.0, 0, 0], [0, 0, 0], [math.cos(1.9), math.sin(1.9), 0]], dtype=torch.float64)

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.detach().requires_grad_()
        a, b = x[:, 0] - x[:, 1], x[:, 2] - x[:, 1]
        angle = torch.acos((a * b).sum(1) / a.norm(dim=1) / b.norm(dim=1))
        u = 2e5 * ((a.norm(dim=1) - self.size).square() + (b.norm(dim=1) - self.size).square())
        u = u + 500 * (angle - 1.9).square()
        return u.detach(), torch.autograd.grad(u.sum(), x)[0]


def test_integrals_are_those_of_a_molecule_free_to_turn() -> None:
    """Of three atoms r^2 r'^2 sin(theta) dr dr' dtheta: 2^4 times as much at twice the size."""
    graph = BondGraph(["O", "H", "H"], np.array([(0, 1), (1, 2)]))

    def log_integral(size: float, temperature: float = 300.0) -> float:
        springs = Springs(size)
        shapes = Shapes(graph, springs.x.numpy())
        searcher = Searcher(springs, graph, shapes, 2.5, temperature, torch.Generator())
        return searcher._log_integral(springs.x, 0.0)

    assert log_integral(0.2) - log_integral(0.1) == pytest.approx(4 * math.log(2.0), abs=1e-3)


def test_fixed_lengths_hold(alanine_dipeptide) -> None:

    rigid = MolecularSystem.from_pdb(alanine_dipeptide.folder / "input.pdb", PAPER_FORCEFIELD, constraints=app.HBonds)

    pairs, lengths = rigid.constraints
    sprung = with_springs(CompiledEnergy(rigid).value_and_gradient, pairs, lengths)
    shapes = Shapes(rigid.graph, rigid.minimum)
    searcher = Searcher(sprung, rigid.graph, shapes, rigid.kT, 300.0, torch.Generator().manual_seed(0))
    x = torch.as_tensor(rigid.minimum)[None].repeat(4, 1, 1)
    hot, _ = searcher.quench(searcher.heated(x, steps=20))
    r = (hot[:, pairs[:, 0]] - hot[:, pairs[:, 1]]).norm(dim=2)
    assert len(hot) == 4 and float((r - torch.as_tensor(lengths)).abs().max()) < 2e-3


def test_an_energy_of_any_kind_is_taken() -> None:
    """One that autograd differentiates, and one that is fused."""
    system = system_of("butane")
    energy = CompiledEnergy(system)
    x = torch.as_tensor(system.minimum)[None].repeat(3, 1, 1)
    x[1] = torch.nan
    u, gradient = energy.value_and_gradient(x)
    found = on_cpu(lambda x: energy(x), system, torch.device("cpu"))(x)
    torch.testing.assert_close(found[0], u)
    torch.testing.assert_close(found[1], gradient)
    energy.fused = True
    assert on_cpu(energy, system, torch.device("cpu")).__self__ is not energy
