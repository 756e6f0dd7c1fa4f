"""Reference MD by OpenMM and by openmmtools: distributions, files, resuming, constraints."""

from __future__ import annotations

import mdtraj
import numpy as np
import openmm
import pytest
from examples import chain
from md_examples import exact_energy, z_scores
from openmm import app

from openmm_fab.md import langevin as langevin_module
from openmm_fab.md.reference import run_reference
from openmm_fab.molecule.system import PAPER_FORCEFIELD, MolecularSystem

HERE: dict = dict(platform="Reference", progress=False)
FEW = "ignore:The slowest torsion stays correlated:UserWarning"
SHORT: dict = HERE | dict(time_ps=0.4, equilibration_ps=0.1, frame_ps=0.02, step_fs=2.0)


@pytest.fixture(scope="module")
def beads(tmp_path_factory) -> MolecularSystem:
    return chain(tmp_path_factory.mktemp("md"))


def test_langevin_samples_the_exact_distribution(beads, tmp_path) -> None:
    ensemble = run_reference(
        beads, "langevin", folder=tmp_path, **HERE, time_ps=3000.0, equilibration_ps=10.0, frame_ps=0.6, step_fs=4.0,
        friction=2.0,
    )  # fmt: skip
    assert ensemble.n == 5000 and ensemble.name == "Langevin MD" and len(np.unique(ensemble.block)) >= 20
    scores = z_scores(ensemble, beads.kT)
    assert max(map(abs, scores.values())) < 4.5, scores
    # Others read the file; energies belong to the frames.
    frames = mdtraj.load(str(tmp_path / "trajectory.dcd"), top=beads.md_topology)
    np.testing.assert_allclose(frames.xyz, ensemble.x, atol=1e-6)
    context = openmm.Context(
        beads.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    for i in (0, 1234, 4999):
        context.setPositions(frames.xyz[i].astype(float))
        assert context.getState(energy=True).getPotentialEnergy()._value / beads.kT == pytest.approx(
            ensemble.u[i], abs=0.02
        )
    assert "halves of the time" in str(ensemble.convergence) and ensemble.convergence.effective > 100


@pytest.mark.filterwarnings(FEW)
def test_langevin_goes_on_where_it_was_interrupted(beads, tmp_path, monkeypatch) -> None:
    whole = run_reference(beads, "langevin", folder=tmp_path / "whole", **SHORT)
    assert whole.n == 20
    write, calls = app.DCDFile.writeModel, []

    def stopping(self, positions, **kwargs) -> None:
        calls.append(0)
        write(self, positions, **kwargs)
        if len(calls) == 8:
            raise KeyboardInterrupt  # the frame is in the file, and is not counted

    with monkeypatch.context() as patch:
        patch.setattr(app.DCDFile, "writeModel", stopping)
        with pytest.warns(UserWarning, match="Stopped after 35 %"):
            part = run_reference(beads, "langevin", folder=tmp_path / "part", **SHORT)
    assert part.n == 7
    resumed = run_reference(beads, "langevin", folder=tmp_path / "part", resume=True, **SHORT)
    dcd = mdtraj.load(str(tmp_path / "part" / "trajectory.dcd"), top=beads.md_topology)
    assert resumed.n == dcd.n_frames == 20
    # The Reference platform is deterministic and its checkpoint has the random numbers.
    np.testing.assert_array_equal(resumed.x, whole.x)
    np.testing.assert_array_equal(resumed.u, whole.u)
    longer = run_reference(beads, "langevin", folder=tmp_path / "part", resume=True, **SHORT | dict(time_ps=0.6))
    assert longer.n == 30
    np.testing.assert_array_equal(longer.x[:20], resumed.x)
    (tmp_path / "part" / "trajectory.dcd").write_bytes(b"")
    with pytest.raises(ValueError, match=r"Expected 30 frames in .*trajectory.dcd; it has fewer"):
        run_reference(beads, "langevin", folder=tmp_path / "part", resume=True, **SHORT | dict(time_ps=0.6))


@pytest.mark.filterwarnings(FEW)
def test_langevin_takes_constraints_and_notices_explosions(alanine_dipeptide, beads, tmp_path) -> None:
    rigid = MolecularSystem.from_pdb(alanine_dipeptide.folder / "input.pdb", PAPER_FORCEFIELD, constraints=app.HBonds)
    ensemble = run_reference(rigid, "langevin", **HERE, time_ps=0.2, equilibration_ps=0.0, frame_ps=0.02)
    pairs, lengths = rigid.constraints
    got = np.linalg.norm(ensemble.x[:, pairs[:, 0]] - ensemble.x[:, pairs[:, 1]], axis=2)
    np.testing.assert_allclose(got, np.broadcast_to(lengths, got.shape), atol=2e-6)
    context = langevin_module.context_of(rigid, langevin_module.LangevinSettings(), 0)
    assert context.getIntegrator().getStepSize()._value == pytest.approx(0.002)
    with pytest.raises((RuntimeError, openmm.OpenMMException), match=r"smaller step_fs|NaN"):
        run_reference(beads, "langevin", **HERE, step_fs=100.0, time_ps=200.0, equilibration_ps=0.0)


# --- replica exchange ---


@pytest.mark.filterwarnings(FEW)
def test_velocities_do_not_carry_heat_from_one_temperature_to_another(beads) -> None:
    """Exchanges faster than friction: openmmtools leaves a replica the velocities of the temperature it comes from."""
    pytest.importorskip("openmmtools")
    ensemble = run_reference(
        beads, "replica-exchange", **HERE, temperatures=3, max_temperature=900.0, time_ps=40.0, equilibration_ps=2.0,
        frame_ps=0.1, step_fs=4.0, friction=0.5, reweight=False,
    )  # fmt: skip
    u = ensemble.expectation(ensemble.u)
    assert u.error < 0.45
    assert abs(u.value - exact_energy(beads.kT)) < 4.5 * u.error, (u, exact_energy(beads.kT))


@pytest.mark.filterwarnings(FEW)
def test_replica_exchange_samples_weighs_and_goes_on(beads, tmp_path) -> None:
    pytest.importorskip("openmmtools")
    given: dict = HERE | dict(
        temperatures=3, max_temperature=450.0, time_ps=200.0, equilibration_ps=4.0, frame_ps=1.0, step_fs=4.0,
        friction=5.0,
    )  # fmt: skip
    first = run_reference(beads, "replica-exchange", folder=tmp_path, **given | dict(time_ps=20.0))
    assert first.n == 60 and (tmp_path / "replicas.nc").exists()
    ensemble = run_reference(beads, "replica-exchange", folder=tmp_path, resume=True, **given)
    assert ensemble.n == 600
    np.testing.assert_allclose(ensemble.x.reshape(3, 200, 5, 3)[:, :20], first.x.reshape(3, 20, 5, 3), atol=1e-6)
    scores = z_scores(ensemble, beads.kT)
    assert max(map(abs, scores.values())) < 4.5, scores
    # Cold, middle, hot: energies in kT of 300 K, before weights, by equipartition and torsions.
    u = ensemble.u.reshape(3, 200).mean(1)
    for k, temperature in enumerate((300.0, np.sqrt(300.0 * 450.0), 450.0)):
        exact = exact_energy(beads.kT * temperature / 300.0) * temperature / 300.0
        assert u[k] == pytest.approx(exact, abs=4.5 * np.sqrt(3.5 * 4 / 200) * temperature / 300.0)
    weight = ensemble.weights.reshape(3, 200).sum(1)
    assert weight[0] > weight[1] > weight[2] > 0.02
    assert ensemble.convergence.round_trips > 5 and min(ensemble.convergence.acceptance) > 0.5


@pytest.mark.filterwarnings(FEW)
def test_replica_exchange_keeps_what_it_has_at_ctrl_c(beads, tmp_path, monkeypatch) -> None:
    multistate = pytest.importorskip("openmmtools.multistate")
    given: dict = HERE | dict(temperatures=2, time_ps=0.5, equilibration_ps=0.1, frame_ps=0.05)
    extend, calls = multistate.ParallelTemperingSampler.extend, []

    def stopping(self, n_iterations) -> None:
        calls.append(0)
        if len(calls) > 8:
            raise KeyboardInterrupt
        extend(self, n_iterations)

    with monkeypatch.context() as patch:
        patch.setattr(multistate.ParallelTemperingSampler, "extend", stopping)
        with pytest.warns(UserWarning, match="Stopped after 67 %"):
            part = run_reference(beads, "replica-exchange", folder=tmp_path, **given)
    assert part.n == 2 * 6
    whole = run_reference(beads, "replica-exchange", folder=tmp_path, resume=True, **given)
    assert whole.n == 2 * 10
    np.testing.assert_allclose(whole.x.reshape(2, 10, 5, 3)[:, :6], part.x.reshape(2, 6, 5, 3), atol=1e-6)


@pytest.mark.filterwarnings(FEW)
def test_replica_exchange_without_weights_gives_the_coldest_frames(beads, capsys) -> None:
    pytest.importorskip("openmmtools")
    given: dict = HERE | dict(temperatures=2, time_ps=0.5, equilibration_ps=0.1, frame_ps=0.05, max_temperature=3000.0)
    ensemble = run_reference(beads, "replica-exchange", **given, reweight=False)
    assert ensemble.n == 10 and not ensemble.log_w.any()
    assert capsys.readouterr().out == ""  # openmmtools prints papers, which docs/cite.md has
    with pytest.raises(ValueError, match="above the system's 300 K"):
        run_reference(beads, "replica-exchange", **given | dict(max_temperature=250.0))
