"""Ensemble: error bars against repeated experiments and analytic errors; files; trajectories."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import mdtraj
import numpy as np
import openmm
import pytest
from ensembles import backbone, backbone_topology, flat
from openmm import app

from openmm_fab.comparison.comparing import compare
from openmm_fab.energy.backends import reduced_energy
from openmm_fab.energy.evaluate import energies_of
from openmm_fab.ensemble.blocks import slowest_inefficiency, time_blocks
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.ensemble.trajectories import coordinate_grid
from openmm_fab.molecule.graph import BondGraph
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.molecule.torsions import backbone_pairs, map_axes, named_torsions, slow_torsions


def stub_system() -> SimpleNamespace:
    return SimpleNamespace(
        md_topology=backbone_topology(),
        temperature=300.0,
        n_atoms=5,
        graph=BondGraph("CNCCN", np.array([(0, 1), (1, 2), (2, 3), (3, 4)])),
        positions=flat(1).x[0],
    )


def test_torsions_are_the_ones_the_structures_were_built_with() -> None:
    rng = np.random.default_rng(0)
    phi, psi = rng.uniform(-np.pi, np.pi, (2, 100))
    ensemble = backbone(phi, psi)
    np.testing.assert_allclose(ensemble.phi()[:, 0], phi, atol=1e-4)
    np.testing.assert_allclose(ensemble.psi()[:, 0], psi, atol=1e-4)
    np.testing.assert_allclose(ensemble.torsions((0, 1, 2, 3)), ensemble.phi(), atol=1e-6)
    assert named_torsions(ensemble.topology) == {"phi ALA2": (0, 1, 2, 3), "psi ALA2": (1, 2, 3, 4)}
    with pytest.raises(ValueError, match="omega"):
        ensemble.torsions("omega")


def test_rotatable_bonds_where_there_is_no_backbone() -> None:
    # Methylcyclopropane with an ethyl tail: ring bonds do not rotate, terminal bonds have nothing to rotate.
    topology = mdtraj.Topology()
    residue = topology.add_residue("LIG", topology.add_chain())
    atoms = [topology.add_atom(f"C{i}", mdtraj.element.carbon, residue) for i in range(6)]
    for i, j in [(0, 1), (1, 2), (2, 0), (2, 3), (3, 4), (4, 5)]:
        topology.add_bond(atoms[i], atoms[j])
    assert [q[1:3] for q in named_torsions(topology).values()] == [(2, 3), (3, 4)]


def test_bootstrap_errors_are_calibrated_on_weighted_gaussians() -> None:
    rng, m, z = np.random.default_rng(1), 0.6, []
    for seed in range(200):
        x = rng.normal(size=400)
        estimate = flat(400, log_w=m * x).expectation(x, n_bootstrap=100, seed=seed)
        z.append((estimate.value - m) / estimate.error)
    assert abs(np.mean(z)) < 0.3
    assert 0.8 < np.std(z) < 1.25


def test_block_bootstrap_gives_the_error_of_a_correlated_mean_and_the_plain_one_does_not() -> None:
    rng, rho, n = np.random.default_rng(2), 0.9, 5000
    exact = np.sqrt((1 + rho) / (1 - rho) / n)
    blocked, plain = [], []
    for _ in range(10):
        series, noise = np.zeros(n), rng.normal(size=n) * np.sqrt(1 - rho**2)
        for t in range(1, n):
            series[t] = rho * series[t - 1] + noise[t]
        blocked.append(flat(n, block=np.arange(n) * 50 // n).expectation(series).error)
        plain.append(flat(n).expectation(series).error)
    assert np.mean(blocked) == pytest.approx(exact, rel=0.15)
    assert np.mean(plain) == pytest.approx(exact / np.sqrt(19), rel=0.15)


def test_few_blocks_do_not_shrink_the_error() -> None:
    # Four walkers, each stuck on its own value: the exact error of their mean is sd(values, ddof=1) / 2.
    values = np.repeat([0.0, 1.0, 2.0, 5.0], 100)
    ensemble = flat(400, block=np.repeat([7, 3, 9, 1], 100))
    expected = np.std([0, 1, 2, 5], ddof=1) / 2
    assert ensemble.expectation(values, n_bootstrap=4000).error == pytest.approx(expected, rel=0.06)
    assert np.isnan(flat(10, block=np.zeros(10)).expectation(np.arange(10.0)).error)


def test_expectation_takes_callables_arrays_and_skips_invalid_frames() -> None:
    phi = np.array([0.5, 1.0, 2.0])
    ensemble = backbone(phi, phi, log_w=np.log([1.0, 3.0, 1e-300]), invalid=0)
    assert ensemble.expectation(lambda t: mdtraj.compute_phi(t)[1][:, 0]).value == pytest.approx(0.875, abs=1e-4)
    assert ensemble.expectation(np.ones((3, 2, 2))).error.shape == (2, 2)
    ensemble = backbone(
        phi, phi, u=np.array([0.0, 0.0, np.inf]), log_w=[0.0, 0.0, -np.inf], log_q=np.zeros(3), invalid=1
    )
    assert ensemble.expectation([1.0, 2.0, np.nan]).value == pytest.approx(1.5)
    assert ensemble.log_z.value == pytest.approx(np.log(2 / 3))
    assert "1 invalid" in repr(ensemble) and "no tail" in repr(ensemble), "of k-hat: of two weights"
    assert "no frame" in repr(backbone(phi, phi, log_w=np.full(3, -np.inf)))


def test_resampling_keeps_the_mean_and_remembers_copies() -> None:
    rng = np.random.default_rng(3)
    phi = rng.normal(size=2000)
    ensemble = backbone(phi, phi, log_w=0.8 * phi)
    drawn = ensemble.resample(20_000)
    assert drawn.ess == pytest.approx(20_000)
    weighted, resampled = ensemble.expectation(ensemble.phi()[:, 0]), drawn.expectation(drawn.phi()[:, 0])
    assert resampled.value == pytest.approx(weighted.value, abs=0.01)
    # Twenty thousand copies of two thousand frames know no more than the two thousand.
    assert resampled.error == pytest.approx(weighted.error, rel=0.25)


def test_slices_and_masks() -> None:
    ensemble = flat(10, log_w=np.r_[np.zeros(8), [-np.inf] * 2], invalid=2, block=np.arange(10), u=np.arange(10.0))
    assert len(ensemble[2:5]) == 3 and ensemble[2:5].invalid == 0
    assert ensemble[ensemble.u > 6].n == 3 and ensemble[-1].u == [9.0] and ensemble[-3:].invalid == 2
    with pytest.raises(IndexError):
        ensemble[10]


@pytest.mark.parametrize("field", ["u", "log_w", "block", "log_q"])
def test_shapes_are_checked(field: str) -> None:
    with pytest.raises(ValueError, match=rf"{field} with shape \(4,\).*\(3,\)"):
        flat(4, **{field: np.zeros(3)})


def test_save_and_load_give_the_same_ensemble(tmp_path) -> None:
    rng = np.random.default_rng(4)
    phi = rng.normal(size=20)
    saved = backbone(
        phi,
        phi,
        u=rng.normal(size=20),
        log_w=rng.normal(size=20),
        block=np.arange(20) // 5,
        log_q=rng.normal(size=20),
        name="ein Name, mit ψ",
        invalid=3,
        temperature=310.5,
    )
    path = saved.save(tmp_path / "run.1")
    assert path == tmp_path / "run.1.npz" and [p.name for p in tmp_path.iterdir()] == ["run.1.npz"]
    for loaded in (Ensemble.load(path), Ensemble.load(tmp_path / "run.1")):
        for key in ("x", "u", "log_w", "block", "log_q"):
            np.testing.assert_array_equal(getattr(loaded, key), getattr(saved, key))
        assert loaded.x.dtype == saved.x.dtype
        assert (loaded.name, loaded.invalid, loaded.temperature) == (
            saved.name,
            saved.invalid,
            saved.temperature,
        )
        assert loaded.topology == saved.topology
        assert [(a.index, b.index) for a, b in loaded.topology.bonds] == [(0, 1), (1, 2), (2, 3), (3, 4)]
        assert [str(a) for a in loaded.topology.atoms] == [str(a) for a in saved.topology.atoms]
    small = flat(2)
    assert Ensemble.load(small.save(tmp_path / "small.npz")).block is None


def test_foreign_and_truncated_files_say_so(tmp_path) -> None:
    path = flat(50).save(tmp_path / "good.npz")
    content = path.read_bytes()
    bad = {"cut": content[: len(content) // 2], "text": b"ATOM 1 N ALA", "empty": b""}
    flipped = bytearray(content)
    flipped[1000] ^= 0xFF
    bad["flipped"] = bytes(flipped)
    for name, data in bad.items():
        (tmp_path / f"{name}.npz").write_bytes(data)
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    np.savez(tmp_path / "newer.npz", format=np.array("openmm_fab ensemble 99"))
    for name in [*bad, "foreign", "newer"]:
        with pytest.raises(ValueError, match=rf"Ensemble.save; .*{name}.npz is truncated or something else"):
            Ensemble.load(tmp_path / f"{name}.npz")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Ensemble.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"md.dcd is a trajectory: Ensemble.from_mdtraj\(path, system\) takes it"):
        Ensemble.load(tmp_path / "md.dcd")
    with pytest.raises(ValueError, match=r"then its MolecularSystem; got a PosixPath there"):
        Ensemble.from_mdtraj("md.dcd", tmp_path)  # type: ignore[arg-type]


def test_what_bonds_charges_and_chains_are_called_survives_a_file(tmp_path) -> None:
    topology = mdtraj.Topology()
    for name in ("A", None):
        residue = topology.add_residue("GLY", topology.add_chain(name), 7)
        for i, charge in enumerate((None, -1, 0, 2, 1, 0)):
            topology.add_atom(f"C{i}", mdtraj.element.carbon, residue, formal_charge=charge)
    atoms, known = list(topology.atoms), mdtraj.core.topology
    kinds = [(known.Single, 1), (known.Double, 2), (known.Triple, 3), (known.Aromatic, None), (known.Amide, 1)]
    for i, (kind, order) in enumerate([*kinds, (None, None)]):
        topology.add_bond(atoms[i], atoms[i + 6], kind, order)
    saved = Ensemble(np.zeros((2, 12, 3)), np.zeros(2), np.zeros(2), topology, 300.0)
    loaded = Ensemble.load(saved.save(tmp_path / "a.npz")).topology
    assert loaded == topology  # bonds with their types and orders
    assert [a.formal_charge for a in loaded.atoms] == [a.formal_charge for a in atoms]
    assert [chain.chain_id for chain in loaded.chains] == ["A", None]
    # A file of an earlier version has none of them.
    with np.load(tmp_path / "a.npz") as file:
        older = {key: file[key] for key in file if key not in ("atom_charge", "chain_id", "bond_type", "bond_order")}
    np.savez(tmp_path / "older.npz", **older)
    found = Ensemble.load(tmp_path / "older.npz").topology
    assert [(a.index, b.index) for a, b in found.bonds] == [(i, i + 6) for i in range(6)]
    assert {(bond.type, bond.order) for bond in found.bonds} == {(None, None)}


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = flat(3).save(tmp_path / "a.npz")
    before = path.read_bytes()

    def full_disk(file, **arrays) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space"):
        flat(4).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_from_mdtraj_refuses_other_atoms() -> None:
    trajectory = flat(30).to_mdtraj()
    with pytest.raises(ValueError, match="5 atoms; got 4"):
        Ensemble.from_mdtraj(trajectory.atom_slice([0, 1, 2, 3]), stub_system(), energies=False)
    # Another element, and two carbons that trade names.
    for names, message in [
        (["CA", "N", "C"], "atom 1 is ALA2-N"),
        (["N", "C", "CA"], "atom 2 is ALA2-CA .* ALA2-C "),
    ]:
        swapped = mdtraj.Trajectory(trajectory.xyz, backbone_topology(names))
        with pytest.raises(ValueError, match=message):
            Ensemble.from_mdtraj(swapped, stub_system(), energies=False)
    renamed = trajectory.topology.copy()
    renamed.atom(2).name = "CX"
    assert (
        Ensemble.from_mdtraj(
            mdtraj.Trajectory(trajectory.xyz, renamed), stub_system(), block=np.arange(30), energies=False
        ).n
        == 30
    )


def test_from_mdtraj_names_a_wrongly_guessed_element(tmp_path) -> None:
    """A .gro file has no elements: mdtraj takes CL1 for a carbon; the atoms are in their order all the same."""
    topology = app.Topology()
    residue = topology.addResidue("LIG", topology.addChain())
    for name, symbol in (("C1", "C"), ("CL1", "Cl"), ("H1", "H"), ("H2", "H"), ("H3", "H")):
        topology.addAtom(name, app.element.get_by_symbol(symbol), residue)
    first, *others = topology.atoms()
    system = openmm.System()
    for atom in topology.atoms():
        system.addParticle(atom.element.mass)
    for atom in others:
        topology.addBond(first, atom)
    x = np.array([[0.0, 0, 0], [0.18, 0, 0], [-0.04, 0.1, 0], [-0.04, -0.05, 0.09], [-0.04, -0.05, -0.09]])
    chloromethane = MolecularSystem.from_openmm(topology, system, x)
    mdtraj.Trajectory(x[None], chloromethane.md_topology).save_gro(str(tmp_path / "a.gro"))
    read = mdtraj.load(str(tmp_path / "a.gro"))
    assert read.topology.atom(1).element.symbol == "C"
    with pytest.raises(ValueError, match=r"guesses them from names \(CL1 as carbon\)") as caught:
        Ensemble.from_mdtraj(read, chloromethane, energies=False)
    assert "Reorder" not in str(caught.value) and "(Cl)" in str(caught.value)
    as_said = mdtraj.Trajectory(read.xyz, chloromethane.md_topology)
    assert Ensemble.from_mdtraj(as_said, chloromethane, block=np.arange(1), energies=False).n == 1


def test_from_mdtraj_weights() -> None:
    trajectory, block = flat(3).to_mdtraj(), np.arange(3)
    by_weight = Ensemble.from_mdtraj(trajectory, stub_system(), weights=[1.0, 3.0, 0.0], block=block, energies=False)
    np.testing.assert_allclose(by_weight.weights, [0.25, 0.75, 0.0])
    by_log = Ensemble.from_mdtraj(
        trajectory, stub_system(), log_weights=np.log([2.0, 6.0, 1.0]), block=block, energies=False
    )
    np.testing.assert_allclose(by_log.weights, [2 / 9, 6 / 9, 1 / 9])
    assert np.isnan(by_log.u).all()
    with pytest.raises(ValueError, match="both"):
        Ensemble.from_mdtraj(trajectory, stub_system(), weights=[1] * 3, log_weights=[0] * 3)


def test_from_mdtraj_notices_angstrom_for_nm(alanine_dipeptide) -> None:
    system = alanine_dipeptide
    for factor, advice in ((10.0, "multiply by 0.1"), (0.1, "multiply by 10")):
        trajectory = mdtraj.Trajectory(factor * np.stack([system.positions] * 3), system.md_topology)
        with pytest.raises(ValueError, match=f"in nm; got bonds {factor:g} times.*{advice}"):
            Ensemble.from_mdtraj(trajectory, system, energies=False)


def test_from_mdtraj_puts_molecules_together_that_a_box_has_torn(alanine_dipeptide) -> None:
    system, rng, n = alanine_dipeptide, np.random.default_rng(7), 20
    whole = system.positions - system.positions.mean(0) + rng.uniform(0.0, 2.0, (n, 1, 3))
    # Truncated to a box of 2 nm; one that is not rectangular.
    lengths, angles = np.full((n, 3), 2.0), np.tile([80.0, 95.0, 90.0], (n, 1))
    box = mdtraj.Trajectory(
        whole, system.md_topology, unitcell_lengths=lengths, unitcell_angles=angles
    ).unitcell_vectors[0]
    torn = np.einsum("nai,ij->naj", np.mod(np.einsum("nai,ij->naj", whole, np.linalg.inv(box)), 1.0), box)
    assert np.abs(torn - whole).max() > 1.0
    given = mdtraj.Trajectory(torn, system.md_topology, unitcell_lengths=lengths, unitcell_angles=angles)
    ensemble = Ensemble.from_mdtraj(given, system, block=np.arange(n))
    assert np.ptp(ensemble.u) < 0.05
    np.testing.assert_allclose(given.xyz, torn, atol=1e-6)  # what was given stays as it was
    bare = mdtraj.Trajectory(torn, system.md_topology)
    with pytest.raises(ValueError, match=r"whole molecules; in \d+ of 20 frames.*absurdly long.*make_molecules_whole"):
        Ensemble.from_mdtraj(bare, system, energies=False)
    # A box of another run, too small to explain it.
    bare.unitcell_lengths, bare.unitcell_angles = np.full((n, 3), 13.0), np.full((n, 3), 90.0)
    with pytest.raises(ValueError, match="absurdly long"):
        Ensemble.from_mdtraj(bare, system, energies=False)


def test_rounding_of_files_is_found_measured_and_told(alanine_dipeptide, tmp_path) -> None:
    """u of the same frames before and after a file: XTC and GRO move it by a third of a kT, others by nothing."""
    system, rng, n = alanine_dipeptide, np.random.default_rng(10), 300
    x = system.minimum + 0.003 * rng.normal(size=(n, system.n_atoms, 3)) + rng.uniform(-2.0, 2.0, (n, 1, 3))
    exact = energies_of(reduced_energy(system), x)
    found = {}
    for suffix in ("xtc", "gro", "pdb", "trr", "dcd", "nc"):
        path = str(tmp_path / f"run.{suffix}")
        mdtraj.Trajectory(x, system.md_topology).save(path)
        read = mdtraj.load(path, top=system.md_topology)
        assert coordinate_grid(read.xyz) == {"xtc": 1e-3, "gro": 1e-3, "pdb": 1e-4}.get(suffix, 0.0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found[suffix] = Ensemble.from_mdtraj(read, system, block=np.arange(n), name=suffix)
        shift = found[suffix].u - exact
        if suffix not in ("xtc", "gro"):
            assert not caught and found[suffix].rounding is None and "rounded" not in repr(found[suffix])
            assert abs(shift.mean()) < 0.02
            continue
        rounding = found[suffix].rounding
        assert rounding.shift == pytest.approx(shift.mean(), abs=4 * shift.std() / np.sqrt(n))
        assert rounding.spread == pytest.approx(shift.std(), rel=0.2) and rounding.shift > 0.2
        assert len(caught) == 1 and "rounded to 0.001 nm, which moves u by +0." in str(caught[0].message)
        assert str(rounding) in repr(found[suffix][:50])
    xtc, dcd = found["xtc"], found["dcd"]
    assert Ensemble.load(xtc.save(tmp_path / "a.npz")).rounding == xtc.rounding
    assert f"xtc: {xtc.rounding}; nothing here allows for that." in compare(dcd, xtc, n_bootstrap=5).words()
    assert "rounded" not in compare(dcd, dcd, n_bootstrap=5).words()
    # Energies that are given are not of the rounded structures, and nothing is evaluated.
    with pytest.warns(UserWarning, match=r"to 0\.001 nm\. The u given stands"):
        given = Ensemble.from_mdtraj(
            mdtraj.load(str(tmp_path / "run.xtc"), top=system.md_topology), system, u=exact, block=np.arange(n)
        )
    assert np.isnan(given.rounding.shift) and (given.u == exact).all()
    # A box that is no multiple of the grid: molecules made whole do not hide it.
    boxed = mdtraj.Trajectory(xtc.x[:20], system.md_topology)
    boxed.unitcell_lengths, boxed.unitcell_angles = np.full((20, 3), 3.14159), np.full((20, 3), 90.0)
    boxed.xyz[:, :5] += boxed.unitcell_lengths[0]
    boxed.xyz = np.round(boxed.xyz, 3)
    whole = Ensemble.from_mdtraj(boxed, system, block=np.arange(20), energies=False)
    assert coordinate_grid(whole.x) == 0.0 and whole.rounding.grid == 1e-3
    assert coordinate_grid(np.full((2, 3, 3), np.nan)) == coordinate_grid(np.zeros((0, 3, 3))) == 0.0


def test_from_mdtraj_knows_the_hand_of_stereocentres(alanine_dipeptide) -> None:
    system = alanine_dipeptide
    x = np.stack([system.positions] * 20)
    mirrored = x * [1.0, 1.0, -1.0]
    with pytest.raises(ValueError, match=r"chirality of the system's structure at ALA2-CA; .*D-residue"):
        Ensemble.from_mdtraj(mdtraj.Trajectory(mirrored, system.md_topology), system, energies=False)
    mixed = np.where(np.arange(20)[:, None, None] < 3, mirrored, x)
    with pytest.warns(UserWarning, match="ALA2-CA in 15 % of the frames"):
        Ensemble.from_mdtraj(mdtraj.Trajectory(mixed, system.md_topology), system, energies=False, block=np.arange(20))


def test_subsampled_frames_are_independent_and_keep_their_weights() -> None:
    pytest.importorskip("pymbar")
    rng, n = np.random.default_rng(8), 20_000
    state = np.cumsum(rng.random(n) < 0.025) % 2  # inefficiency (1 - p) / p = 39 frames
    phi = np.where(state == 0, -1.5, 1.0) + 0.3 * rng.normal(size=n)
    trajectory = backbone(phi, rng.normal(size=n)).to_mdtraj()
    u, log_w = np.arange(n, dtype=float), rng.normal(size=n)
    ensemble = Ensemble.from_mdtraj(trajectory, stub_system(), u=u, log_weights=log_w, subsample=True)
    stride = int(ensemble.u[1])
    assert 25 <= stride <= 60
    np.testing.assert_array_equal(ensemble.u, u[::stride])
    np.testing.assert_array_equal(ensemble.log_w, log_w[::stride])
    np.testing.assert_array_equal(ensemble.block, np.arange(ensemble.n))
    np.testing.assert_array_equal(ensemble.x, trajectory.xyz[::stride])
    with pytest.raises(ValueError, match="got both"):
        Ensemble.from_mdtraj(trajectory, stub_system(), subsample=True, block=u)


def test_time_blocks_are_longer_than_the_slowest_torsion_remembers() -> None:
    pytest.importorskip("pymbar")
    rng, n = np.random.default_rng(5), 20_000
    independent = backbone(*rng.normal(size=(2, n)))
    assert len(np.unique(time_blocks(independent.slow_angles()))) == 50
    # Two-state jumps with rate p a frame: inefficiency (1 - p) / p = 399 frames, so about 25 blocks.
    state = np.cumsum(rng.random(n) < 0.0025) % 2
    slow = backbone(np.where(state == 0, -1.5, 1.0) + 0.3 * rng.normal(size=n), rng.normal(size=n))
    block = time_blocks(slow.slow_angles())
    assert 12 <= len(np.unique(block)) <= 45
    assert (np.diff(block) >= 0).all() and np.ptp(np.bincount(block)) <= 1
    with pytest.warns(UserWarning, match="independent time blocks"):
        assert len(np.unique(time_blocks(slow[:2000].slow_angles()))) < 10


@pytest.mark.filterwarnings("error:.*divide:RuntimeWarning")
def test_a_run_that_moves_only_between_the_points_looked_at_is_no_constant_of_pymbars() -> None:
    pytest.importorskip("pymbar")
    for start, value in ((0.0, 1.0), (1.2345, 1.0)):
        for frame in (7, 10_001):  # of every fourth frame, which is looked at, none moves
            series = np.full((20_000, 1), start)
            series[frame] = value
            assert slowest_inefficiency(series) == pytest.approx(1.0, abs=0.01)
            assert len(np.unique(time_blocks(series))) == 50


def test_frames_without_a_finite_energy_get_weight_zero_and_are_counted(monkeypatch) -> None:
    import torch

    energies = torch.tensor([1.0, float("inf"), float("nan"), 2.0])
    monkeypatch.setattr("openmm_fab.ensemble.reading.reduced_energy", lambda system: lambda x: energies[: len(x)])
    ensemble = Ensemble.from_mdtraj(flat(4).to_mdtraj(), stub_system(), block=np.arange(4))
    np.testing.assert_array_equal(ensemble.weights, [0.5, 0.0, 0.0, 0.5])
    assert ensemble.invalid == 2 and ensemble.n == 4


def test_energies_of_a_real_molecule() -> None:
    import openmm
    from openmm import unit

    system = MolecularSystem.load("alanine_dipeptide")
    rng = np.random.default_rng(6)
    x = system.positions + 0.002 * rng.normal(size=(3, system.n_atoms, 3))
    ensemble = Ensemble.from_mdtraj(mdtraj.Trajectory(x, system.md_topology), system, block=np.arange(3))
    context = openmm.Context(
        system.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    for frame, u in zip(ensemble.x, ensemble.u, strict=True):
        context.setPositions(frame.astype(float))
        energy = context.getState(getEnergy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        assert u == pytest.approx(energy / system.kT, abs=1e-2)


def test_torsions_that_may_be_slow_are_more_than_phi_and_psi() -> None:
    """Side chains of a peptide, and the acid of a molecule in which no heavy atom turns; of uncapped chains the axes of
    a Ramachandran plot are those of one residue."""
    elil = MolecularSystem.load("elil").md_topology
    slow, named = slow_torsions(elil), named_torsions(elil)
    assert list(slow)[: len(named)] == list(named) and len(slow) > len(named)
    bonds = {frozenset(atoms[1:3]) for atoms in slow.values()}
    assert len(bonds) == len(slow)
    atoms = {(a.residue.name, a.residue.index, a.name): a.index for a in elil.atoms}
    for residue, index in (("GLU", 0), ("LEU", 1), ("ILE", 2), ("LEU", 3)):
        assert frozenset((atoms[residue, index, "CA"], atoms[residue, index, "CB"])) in bonds
    assert backbone_pairs(elil) == {r: (f"phi {r}", f"psi {r}") for r in ("LEU2", "ILE3")}
    assert "psi GLU1" in named and "phi LEU4" in named and map_axes(elil) == ("phi LEU2", "psi LEU2")

    acid = mdtraj.Topology()
    residue = acid.add_residue("ACT", acid.add_chain())
    names = ("CH3", "C", "O", "OH", "HO", "H1", "H2", "H3")
    made = [acid.add_atom(n, mdtraj.element.get_by_symbol(n[0]), residue) for n in names]
    for i, j in ((0, 1), (1, 2), (1, 3), (3, 4), (0, 5), (0, 6), (0, 7)):
        acid.add_bond(made[i], made[j])
    assert [atoms for atoms in slow_torsions(acid).values()] == [(0, 1, 3, 4)] and not named_torsions(acid)
    assert map_axes(acid) == ()
