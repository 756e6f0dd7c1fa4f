"""The shipped reference of alanine dipeptide is whole: files and numbers fit each other."""

from __future__ import annotations

import json
from pathlib import Path

import mdtraj
import numpy as np
import openmm as mm
import pytest
from openmm import app, unit
from scipy import stats

import openmm_fab as fab

FOLDER = Path(__file__).parents[2] / "systems" / "alanine_dipeptide"
REFERENCE = FOLDER / "reference"


@pytest.fixture(scope="module")
def report() -> dict:
    return json.loads((REFERENCE / "reference.json").read_text())


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(REFERENCE / "reference_weights.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def frames() -> mdtraj.Trajectory:
    return mdtraj.load(str(REFERENCE / "reference.dcd"), top=str(FOLDER / "input.pdb"))


def test_frames_energies_weights_and_blocks_fit(report, arrays, frames):
    n = report["shipped"]["frames"]
    assert frames.n_frames == n == len(arrays["block"]) == len(arrays["u"]) == len(arrays["log_w"])
    assert 10_000 < n <= 25_000
    assert np.isfinite(arrays["u"]).all() and np.isfinite(arrays["log_w"]).all()
    assert set(arrays["block"]) == set(range(report["settings"]["walkers"]))
    for bins in (64, 100):
        assert arrays[f"phi_psi_probability_{bins}"].shape == (bins, bins)
        assert arrays[f"phi_psi_probability_{bins}"].sum() == pytest.approx(1.0)


def test_energies_are_those_of_the_force_field(report, arrays, frames):
    system = app.ForceField(*report["system"]["forcefield"]).createSystem(
        app.PDBFile(str(FOLDER / "input.pdb")).topology, nonbondedMethod=app.NoCutoff, constraints=None
    )
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    kT = unit.MOLAR_GAS_CONSTANT_R * report["system"]["temperature_K"] * unit.kelvin
    for i in np.linspace(0, frames.n_frames - 1, 20).astype(int):
        context.setPositions(frames.xyz[i].astype(float))
        u = context.getState(energy=True).getPotentialEnergy() / kT
        assert u == pytest.approx(arrays["u"][i], abs=1e-4)  # float32 positions


def test_shipped_frames_are_drawn_from_the_histogram_of_all_states(arrays, frames):
    """At phi < 0, where weights are equal; coarse enough, 16 x 16, that a chi-square test has counts to work with."""
    phi, psi = (mdtraj.compute_dihedrals(frames, [atoms])[:, 0] for atoms in ((4, 6, 8, 14), (6, 8, 14, 16)))
    assert len(set(arrays["log_w"][phi < 0])) == 1
    edges = np.linspace(-np.pi, np.pi, 17)
    found = np.histogram2d(phi[phi < 0], psi[phi < 0], bins=edges)[0][:8]
    share = arrays["phi_psi_probability_64"].reshape(16, 4, 16, 4).sum((1, 3))[:8]
    expected = found.sum() * share / share.sum()
    used = expected > 10
    chi2 = ((found - expected)[used] ** 2 / expected[used]).sum()
    assert used.sum() > 50
    assert stats.chi2.sf(chi2, used.sum() - 1) > 1e-4, (chi2, used.sum())


def test_the_basin_of_the_shipped_frames(report):
    """Its frames are many, and their weights give back the population that all states have."""
    found = fab.basin_difference(fab.load_reference(fab.MolecularSystem.load("alanine_dipeptide")))
    assert report["shipped"]["in_basin"] > 2000
    assert found.error < 0.05
    assert abs(found.value - report["basin"]["dF"]) < 4 * np.hypot(found.error, report["basin"]["dF_se"])


def test_its_own_checks_passed(report):
    assert report["halves"]["ramachandran_tv_64x64"] < 1e-2
    assert abs(report["halves"]["basin_z"]) < 4
    assert report["basin"]["dF_se"] < 0.02
    # A walker that stood for a tenth of the run would be a place that the flow hardly goes to.
    assert report["longest_wait_sweeps"] < 0.1 * report["settings"]["sweeps"]


def test_plain_openmm_agrees(report):
    other = report["against_metadynamics"]
    assert abs(other["basin_z"]) < 3
    for profile in ("F_phi", "F_psi"):
        assert other[profile]["bins_below_5_kT"] > 20
        assert other[profile]["mean_square_z"] < 2


def test_profile_holds_the_same_probability_as_the_basin(report):
    profile, basin = report["F_phi"], report["basin"]
    F = np.array([np.nan if f is None else f for f in profile["F_kT"]])
    p = np.nan_to_num(np.exp(-F)) * 2 * np.pi / len(F)
    assert p.sum() == pytest.approx(1.0, abs=1e-3)
    centre = np.array(profile["centre_rad"])
    within = (centre > basin["phi_rad"][0]) & (centre < basin["phi_rad"][1])
    assert p[within].sum() == pytest.approx(basin["population"], rel=0.05)


def test_every_frame_is_l_alanine_with_trans_amides(frames):
    at = {f"{a.residue.name}:{a.name}": a.index for a in frames.topology.atoms}
    n, c, cb = (frames.xyz[:, at[f"ALA:{name}"]] - frames.xyz[:, at["ALA:CA"]] for name in ("N", "C", "CB"))
    # CORN rule: seen from HA, CO, R and N follow each other clockwise.
    assert (np.sum(np.cross(c, cb) * n, axis=-1) > 0).all()
    omegas = [
        [at[a] for a in ("ACE:CH3", "ACE:C", "ALA:N", "ALA:CA")],
        [at[a] for a in ("ALA:CA", "ALA:C", "NME:N", "NME:C")],
    ]
    assert (np.abs(mdtraj.compute_dihedrals(frames, omegas)) > np.pi / 2).all()
