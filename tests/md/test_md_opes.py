"""OPES by openmm-opes: its surface and its weights against integrals, resuming, and what is refused."""

from __future__ import annotations

import re
import sys

import numpy as np
import openmm
import pytest
from examples import TORSIONS, chain
from md_examples import coordinates, z_scores

from openmm_fab.free_energy.profiles import Profile, Surface
from openmm_fab.md.opes import OPESWalker
from openmm_fab.md.reference import run_reference
from openmm_fab.md.settings import OPESSettings
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.tools.install import install

FIRST, SECOND = (0, 1, 2, 3), (1, 2, 3, 4)
HERE: dict = dict(platform="Reference", step_fs=4.0)
BRIEF: dict = HERE | dict(
    torsions=[FIRST], build_ps=0.16, equilibration_ps=0.08, time_ps=0.24, frame_ps=0.08, kernel_ps=0.04
)
SHORT: dict = BRIEF | dict(progress=False)
FEW = "ignore:The slowest torsion stays correlated:UserWarning"


@pytest.fixture(scope="module")
def beads(tmp_path_factory) -> MolecularSystem:
    return chain(tmp_path_factory.mktemp("opes"))


def exact(beads: MolecularSystem, which: int, angles: np.ndarray) -> np.ndarray:
    """F of a torsion in kT, up to a constant."""
    return sum(k * (1 + np.cos(m * angles - p)) for m, p, k in TORSIONS[which]) / beads.kT


@pytest.mark.filterwarnings(FEW)
def test_surface_and_weights_against_the_exact_distribution(beads) -> None:
    pytest.importorskip("openmm_opes")
    before, forces = beads.fingerprint, beads.system.getNumForces()
    ensemble = run_reference(
        beads, "opes", **HERE, seed=1, progress=False, torsions=[FIRST], build_ps=160.0, equilibration_ps=10.0,
        time_ps=600.0, frame_ps=0.4, kernel_ps=0.4, friction=3.0, barrier=8.0,
    )  # fmt: skip
    assert ensemble.n == 1500 and ensemble.name == "opes" and ensemble.convergence.walkers == 1
    scores = z_scores(ensemble, beads.kT)
    assert max(map(abs, scores.values())) < 4.5, scores
    flat = (np.cos(coordinates(ensemble.x)[:, 7]) < 0).mean()
    assert 0.3 < flat < 0.7 and np.ptp(ensemble.log_w) > 2.0  # unweighted, the frames are nearly uniform
    surface = ensemble.convergence.surface
    assert isinstance(surface, Profile) and surface.probability.sum() == pytest.approx(1.0)
    f = exact(beads, 0, surface.centers)
    seen = f - f.min() < 5.0
    difference = (surface.value - f)[seen]
    assert np.ptp(f[seen]) > 4.0 and np.abs(difference - difference.mean()).max() < 0.6
    assert "By kernels of the bias: Profile(0-1-2-3: 100 bins" in str(ensemble.convergence)
    # The bias acts on a copy.
    assert beads.system.getNumForces() == forces and beads.fingerprint == before


@pytest.mark.filterwarnings(FEW)
def test_two_torsions_stand_in_their_order(beads) -> None:
    pytest.importorskip("openmm_opes")
    method = OPESWalker(beads, OPESSettings(**BRIEF | dict(torsions=[FIRST, SECOND])), 0, None)
    # Kernels by hand: the first torsion at 1, the second at -2.
    method.first()
    for _ in range(3):
        method.sampler.addKernel(np.array([1.0, -2.0]), 0.0)
    surface = method.surface()
    assert isinstance(surface, Surface)
    a, b = np.unravel_index(surface.probability.argmax(), surface.probability.shape)
    centres = 0.5 * (surface.edges_a[1:] + surface.edges_a[:-1])
    assert (centres[a], centres[b]) == (pytest.approx(1.0, abs=0.04), pytest.approx(-2.0, abs=0.04))


@pytest.mark.filterwarnings(FEW)
@pytest.mark.parametrize("intervals", [1, 4])
@pytest.mark.parametrize("torsions", [[FIRST], [FIRST, SECOND]])
def test_a_resumed_run_gives_the_numbers_of_an_uninterrupted_one(
    beads, tmp_path, monkeypatch, intervals, torsions
) -> None:
    """Stopped while the bias grows, and in production."""
    pytest.importorskip("openmm_opes")
    given = SHORT | dict(torsions=torsions)
    whole = run_reference(beads, "opes", **given)
    advance, calls = OPESWalker.advance, []

    def stopping(self, state):
        calls.append(0)
        result = advance(self, state)
        if len(calls) > intervals:  # its result is lost
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(OPESWalker, "advance", stopping)
        if intervals == 1:
            with pytest.raises(KeyboardInterrupt):
                run_reference(beads, "opes", folder=tmp_path, **given)
        else:
            with pytest.warns(UserWarning, match="Stopped after 67 %"):
                assert run_reference(beads, "opes", folder=tmp_path, **given).n == 1
    resumed = run_reference(beads, "opes", folder=tmp_path, resume=True, **given)
    assert resumed.n == 3
    np.testing.assert_allclose(resumed.x, whole.x, atol=1e-6)
    np.testing.assert_allclose(resumed.log_w, whole.log_w, atol=1e-6)
    again = run_reference(beads, "opes", folder=tmp_path, resume=True, **given)
    for one in (resumed, again):
        # Kernels that are read back are summed in another order.
        np.testing.assert_allclose(one.convergence.surface.value, whole.convergence.surface.value, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings(FEW)
def test_a_frame_has_the_energy_of_the_system_and_the_bias_as_its_weight(beads) -> None:
    pytest.importorskip("openmm_opes")
    method = OPESWalker(beads, OPESSettings(**BRIEF), 0, None)
    state, frames = method.first(), []
    while state["interval"] < method.intervals[1]:
        state, frame = method.advance(state)
        frames += [] if frame is None else [frame]
    angle = coordinates(frames[-1]["x"])[:, 7]
    table = openmm.Continuous1DFunction(state["table"].numpy(), -np.pi, np.pi, True)
    made = openmm.System()  # a table's own value
    made.addParticle(1.0)
    external = openmm.CustomCompoundBondForce(1, "t(x1)")
    external.addTabulatedFunction("t", table)
    external.addBond([0])
    made.addForce(external)
    context = openmm.Context(made, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions([(float(angle[0]), 0.0, 0.0)])
    bias = context.getState(energy=True).getPotentialEnergy()._value / beads.kT - method.settings.barrier
    assert float(frames[-1]["log_w"][0]) == pytest.approx(bias, abs=1e-3)
    known = openmm.Context(beads.system, openmm.VerletIntegrator(0.001), context.getPlatform())
    known.setPositions(frames[-1]["x"][0])
    u = known.getState(energy=True).getPotentialEnergy()._value / beads.kT
    assert float(frames[-1]["u"][0]) == pytest.approx(u, abs=1e-2)


def test_without_the_package_it_is_said_what_to_install(beads, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openmm_opes", None)
    with pytest.raises(ImportError, match=rf"OPES needs openmm-opes.*{re.escape(install('opes'))}"):
        run_reference(beads, "opes", **SHORT)


def test_settings_that_no_run_can_use(beads) -> None:
    for bad, message in (
        (dict(barrier=0.5), r"barrier > 1 kT .*got 0\.5"),
        (dict(bias_factor=1.0), "bias_factor > 1"),
        (dict(kernel_ps=0.05), "frame_ps to be a multiple of kernel_ps"),
        (dict(kernel_width=0.0), "kernel_width > 0"),
    ):
        with pytest.raises(ValueError, match=message):
            run_reference(beads, "opes", **SHORT | bad)
