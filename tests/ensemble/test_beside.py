"""What may stand beside an ensemble: saved ensembles, trajectories in files, trajectories of mdtraj."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from ensembles import BUTANE, butane

from openmm_fab.comparison.comparing import compare
from openmm_fab.ensemble.beside import as_ensemble
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.ensemble.trajectories import fixed_lengths, load_trajectory
from openmm_fab.molecule.graph import graph_of
from openmm_fab.molecule.system import MolecularSystem

pytestmark = pytest.mark.base


@pytest.fixture(scope="module")
def flow() -> Ensemble:
    return butane(400, 0.2, seed=0, name="flow")


@pytest.mark.parametrize("suffix", [".npz", ".dcd", ".xtc", ".trr", ".nc", ".netcdf"])
def test_a_file_is_an_ensemble(flow: Ensemble, tmp_path, suffix: str, capfd) -> None:
    md = butane(300, 0.1, seed=1, name="md")
    path = md.save(tmp_path / f"md{suffix}")
    assert path == tmp_path / f"md{suffix}" and path.exists()
    assert (tmp_path / "md.colvar").exists() is (suffix != ".npz")
    found = as_ensemble(path, flow)
    assert (found.n, found.name, found.temperature) == (300, "md", 300.0) and np.ptp(found.log_w) == 0.0
    np.testing.assert_allclose(found.x, md.x, atol=1e-3)
    assert (found.block is not None) is (suffix != ".npz")  # time blocks, as from_mdtraj has them
    assert "dcdplugin" not in capfd.readouterr().out
    compared = compare(flow, path, n_bootstrap=20)
    assert compared.reference.n == 300 and compared.basins[0].name


def test_a_folder_of_a_run_is_its_ensemble(flow: Ensemble, tmp_path) -> None:
    folder = tmp_path / "butane-laptop.2"
    folder.mkdir()
    with pytest.raises(
        FileNotFoundError, match=r"or a run's folder; there is none at .*butane-laptop\.2/ensemble\.npz"
    ):
        as_ensemble(folder, flow)
    flow.save(folder / "ensemble.npz")
    np.testing.assert_array_equal(as_ensemble(folder, flow).x, flow.x)


def test_hdf5_as_mdtraj_writes_it_is_read_without_pytables(flow: Ensemble, tmp_path) -> None:
    """The file: butane(3, 0.2, seed=0) in a box, saved by mdtraj 1.11.1 with PyTables 3.11.1."""
    path = Path(__file__).parents[1] / "data" / "frames.h5"
    found = as_ensemble(path, flow)
    np.testing.assert_allclose(found.x, butane(3, 0.2, seed=0).x, atol=1e-6)
    read = load_trajectory(path, BUTANE.topology)
    assert read.topology is BUTANE.topology and read.unitcell_lengths.tolist() == [[2.5] * 3] * 3
    shuffled = BUTANE.topology.copy()
    shuffled.atom(0).name, shuffled.atom(1).name = shuffled.atom(1).name, shuffled.atom(0).name
    with pytest.raises(ValueError, match="in the system's order"):
        load_trajectory(path, shuffled)
    (tmp_path / "md.h5").write_bytes(b"no trajectory" * 20)
    with pytest.raises(ValueError, match="Expected a trajectory of 14 atoms that mdtraj reads"):
        load_trajectory(tmp_path / "md.h5", BUTANE.topology)
    if find_spec("tables") is None:
        with pytest.raises(ImportError, match="needs PyTables: pip install tables"):
            flow.save(tmp_path / "flow.h5")


def test_energies_are_evaluated_where_the_molecule_is_known(flow: Ensemble) -> None:
    system = MolecularSystem.load("butane")
    trajectory = mdtraj.Trajectory(np.repeat(BUTANE.x, 12, axis=0), BUTANE.topology)
    assert np.isnan(as_ensemble(trajectory, flow).u).all()
    assert np.isfinite(as_ensemble(trajectory, flow, system=system).u).all()
    assert np.isfinite(Ensemble.from_mdtraj(trajectory, system).u).all()


def test_what_is_no_ensemble_is_told(flow: Ensemble, tmp_path) -> None:
    with pytest.raises(ValueError, match="got float"):
        as_ensemble(3.0, flow)
    frames = mdtraj.Trajectory(flow.x, flow.topology)
    with pytest.raises(ValueError, match=r"Expected an Ensemble first; got Trajectory\..*Ensemble\.from_mdtraj"):
        compare(frames, flow)
    (tmp_path / "md.txt").touch()
    with pytest.raises(ValueError, match=r"mdtraj says: Sorry, no loader .{,190}$"):
        as_ensemble(tmp_path / "md.txt", flow)
    with pytest.raises(FileNotFoundError, match=r"Expected a trajectory at .*none\.dcd"):
        as_ensemble(tmp_path / "none.dcd", flow)
    (tmp_path / "md.dcd").write_bytes(b"no trajectory" * 20)
    with pytest.raises(ValueError, match=r"Expected a trajectory of 14 atoms that mdtraj reads .*mdtraj says"):
        as_ensemble(tmp_path / "md.dcd", flow)
    other = mdtraj.Trajectory(np.zeros((1, 3, 3)), BUTANE.topology.subset([0, 1, 2]))
    with pytest.raises(ValueError, match="the system's 14 atoms; got 3"):
        as_ensemble(other, flow)
    with pytest.raises(ValueError, match="Expected coordinates in nm"):
        as_ensemble(mdtraj.Trajectory(10 * flow.x, flow.topology), flow)


def test_constraints_on_one_side_are_told(flow: Ensemble, tmp_path) -> None:
    bonds = graph_of(BUTANE.topology).bonds
    noise = np.random.default_rng(0).normal(scale=0.003, size=flow.x.shape)
    soft = Ensemble(flow.x + noise, flow.u, flow.log_w, flow.topology, 300.0, name="soft")
    assert fixed_lengths(flow.x, bonds).all() and not fixed_lengths(soft.x, bonds).any()
    assert not fixed_lengths(flow.x[:9], bonds).any()  # of so few nobody can say
    rounded = flow.save(tmp_path / "rounded.xtc")  # 0.001 nm
    assert compare(soft, rounded, n_bootstrap=10).note.startswith("13 bonds have fixed lengths in rounded, 0 in soft")
    assert compare(soft, rounded, n_bootstrap=10).note in compare(soft, rounded, n_bootstrap=10).words()
    assert compare(flow, rounded, n_bootstrap=10).note == ""
