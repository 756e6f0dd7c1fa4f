"""The shipped reference of alanine dipeptide is whole: files and numbers fit each other."""

from __future__ import annotations

import json
from pathlib import Path

import mdtraj
import numpy as np
import openmm as mm
import pytest
from openmm import app, unit

FOLDER = Path(__file__).parents[1] / "systems" / "alanine_dipeptide"
REFERENCE = FOLDER / "reference"
pytestmark = pytest.mark.skipif(not (REFERENCE / "reference.json").exists(), reason="run make_reference.py")


@pytest.fixture(scope="module")
def report() -> dict:
    return json.loads((REFERENCE / "reference.json").read_text())


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    with np.load(REFERENCE / "reference_weights.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def frames() -> mdtraj.Trajectory:
    return mdtraj.load(str(REFERENCE / "reference.dcd"), top=str(FOLDER / "input.pdb"))


def test_frames_weights_and_blocks_fit(report, weights, frames):
    n = report["shipped"]["frames"]
    assert frames.n_frames == n == len(weights["log_w"]) == len(weights["block"]) == len(weights["u"])
    assert 0 < n <= 25_000
    for key in ("log_w", "u"):
        assert np.isfinite(weights[key]).all()
    assert np.issubdtype(weights["block"].dtype, np.integer)
    assert set(weights["block"]) == set(range(weights["block"].max() + 1))
    w = np.exp(weights["log_w"])
    assert w.sum() ** 2 / (w**2).sum() == pytest.approx(report["shipped"]["kish_ess"])
    assert weights["phi_psi_probability"].sum() == pytest.approx(1.0)


def test_energies_are_those_of_the_force_field(report, weights, frames):
    system = app.ForceField(*report["system"]["forcefield"]).createSystem(
        app.PDBFile(str(FOLDER / "input.pdb")).topology, nonbondedMethod=app.NoCutoff, constraints=None
    )
    context = mm.Context(system, mm.VerletIntegrator(0.001), mm.Platform.getPlatformByName("Reference"))
    kT = unit.MOLAR_GAS_CONSTANT_R * report["system"]["temperature_K"] * unit.kelvin
    for i in np.linspace(0, frames.n_frames - 1, 20).astype(int):
        context.setPositions(frames.xyz[i].astype(float))
        u = context.getState(energy=True).getPotentialEnergy() / kT
        assert u == pytest.approx(weights["u"][i], abs=0.02)  # float32 positions


def test_free_energy_difference_of_the_shipped_frames(report, weights, frames):
    phi = mdtraj.compute_phi(frames)[1][:, 0]
    inside = (phi > report["basin"]["phi_rad"][0]) & (phi < report["basin"]["phi_rad"][1])
    assert inside.sum() > 100 and (~inside).sum() > 100
    w, block = np.exp(weights["log_w"]), weights["block"]
    sums = np.stack([np.bincount(block, w * side) for side in (inside, ~inside)])
    dF = -np.log(sums[0].sum() / sums[1].sum())
    picks = np.random.default_rng(1).integers(sums.shape[1], size=(500, sums.shape[1]))
    resampled = sums[:, picks].sum(axis=-1)
    error = np.std(-np.log(resampled[0] / resampled[1]))
    # Subset of the same run: combined error is generous, the wrong sign of log_w is off by kT's.
    assert abs(dF - report["basin"]["dF"]) < 2 * np.hypot(error, report["basin"]["dF_se"])
    assert error == pytest.approx(report["shipped"]["dF_se"], rel=0.25)


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
