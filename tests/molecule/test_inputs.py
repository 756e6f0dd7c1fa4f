"""Every file format against energies that do not come from its reader, and what is said of wrong files."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
import scipy.constants
from molecules import ETHANE
from openmm import app, unit

from openmm_fab.molecule.checks import UnsupportedSystemError
from openmm_fab.molecule.system import PAPER_FORCEFIELD, MolecularSystem

KCAL = 4.184
COULOMB = scipy.constants.e**2 * scipy.constants.N_A / (4 * np.pi * scipy.constants.epsilon_0) * 1e6  # kJ/mol nm

# Ethane, in CHARMM's units: kcal/mol, Angstrom, degrees. E = k (x - x0)^2.
NAMES = ("C1", "C2", "H11", "H12", "H13", "H21", "H22", "H23")
MASS = {"C": 12.011, "H": 1.008}
CHARGE = {"C": -0.27, "H": 0.09}
LENNARD_JONES = {"C": (0.078, 2.05), "H": (0.024, 1.34)}  # epsilon, Rmin / 2
SPRINGS = {"CC": (222.5, 1.53), "CH": (322.0, 1.111)}
ANGLES = {"CCH": (34.6, 110.1, 22.53, 2.179), "HCH": (35.5, 108.4, 5.4, 1.802)}  # with Urey-Bradley k and distance
TORSION = (0.16, 3, 0.0)  # k, periodicity, phase


def _kinds() -> tuple[list[tuple[int, ...]], list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Bonds, angles and torsions of ethane; every H-H of the torsions is a 1-4 pair, all other pairs are closer."""
    bonds = [(0, 1), *((0, h) for h in (2, 3, 4)), *((1, h) for h in (5, 6, 7))]
    angles = [(1, 0, h) for h in (2, 3, 4)] + [(0, 1, h) for h in (5, 6, 7)]
    angles += [(a, 0, b) for a, b in ((2, 3), (2, 4), (3, 4))] + [(a, 1, b) for a, b in ((5, 6), (5, 7), (6, 7))]
    return bonds, angles, [(a, 0, 1, b) for a in (2, 3, 4) for b in (5, 6, 7)]


def _type(atoms: tuple[int, ...]) -> str:
    text = "".join(NAMES[i][0] for i in atoms)
    return min(text, text[::-1]) if text[0] != text[-1] else text


def _energy_by_hand(x: np.ndarray) -> float:
    """kJ/mol, at positions in nm, from the numbers above."""
    bonds, angles, torsions = _kinds()
    x = 10 * x
    energy = 0.0
    for i, j in bonds:
        k, length = SPRINGS[_type((i, j))]
        energy += k * (np.linalg.norm(x[i] - x[j]) - length) ** 2
    for i, j, m in angles:
        k, theta, k_ub, distance = ANGLES[_type((i, j, m))]
        u, v = x[i] - x[j], x[m] - x[j]
        found = np.arccos(u @ v / np.linalg.norm(u) / np.linalg.norm(v))
        energy += k * (found - np.deg2rad(theta)) ** 2 + k_ub * (np.linalg.norm(x[i] - x[m]) - distance) ** 2
    for i, j, m, n in torsions:
        normals = np.cross(x[i] - x[j], x[m] - x[j]), np.cross(x[j] - x[m], x[n] - x[m])
        phi = np.arccos(np.clip(np.prod(normals, axis=0).sum() / np.prod([np.linalg.norm(a) for a in normals]), -1, 1))
        energy += TORSION[0] * (1 + np.cos(TORSION[1] * phi - np.deg2rad(TORSION[2])))
        r = np.linalg.norm(x[i] - x[n])
        epsilon, half = LENNARD_JONES["H"]
        energy += epsilon * ((2 * half / r) ** 12 - 2 * (2 * half / r) ** 6)
        energy += CHARGE["H"] ** 2 * 10 * COULOMB / KCAL / r
    return KCAL * energy


def _energy(system: MolecularSystem, x: np.ndarray | None = None) -> float:
    context = openmm.Context(
        system.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    context.setPositions(system.positions if x is None else x)
    return context.getState(energy=True).getPotentialEnergy()._value


def _crooked(seed: int = 0) -> np.ndarray:
    """Ethane away from every minimum, (8, 3) in nm, with as many digits as all formats keep."""
    x = ETHANE.positions + np.random.default_rng(seed).normal(0, 0.005, ETHANE.positions.shape)
    return x.round(5)


# --- PDBx/mmCIF and XML ---


@pytest.fixture(scope="module")
def cif(alanine_dipeptide, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cif") / "dipeptide.cif"
    with open(path, "w") as file:
        app.PDBxFile.writeFile(alanine_dipeptide.topology, alanine_dipeptide.positions * unit.nanometer, file)
    return path


@pytest.mark.parametrize("suffix", [".cif", ".mmcif", ".PDBX"])
def test_mmcif_is_the_same_molecule(alanine_dipeptide, cif, tmp_path, suffix):
    path = tmp_path / f"molecule{suffix}"
    path.write_text(cif.read_text())
    system = MolecularSystem.from_pdb(path, PAPER_FORCEFIELD)
    assert system.name == "molecule" and system.elements == alanine_dipeptide.elements
    np.testing.assert_array_equal(system.bonds, alanine_dipeptide.bonds)
    np.testing.assert_allclose(system.positions, alanine_dipeptide.positions, atol=1e-6)
    assert _energy(system, alanine_dipeptide.positions) == pytest.approx(_energy(alanine_dipeptide), abs=1e-6)


def test_mmcif_in_system_toml(alanine_dipeptide, cif, tmp_path):
    (tmp_path / "a.cif").write_text(cif.read_text())
    (tmp_path / "system.toml").write_text('pdb = "a.cif"\nforcefield = ["amber96.xml", "implicit/obc1.xml"]\n')
    system = MolecularSystem.load(tmp_path)
    assert _energy(system, alanine_dipeptide.positions) == pytest.approx(_energy(alanine_dipeptide), abs=1e-6)


def test_alternate_locations_of_mmcif_are_mentioned(cif, tmp_path):
    lines = cif.read_text().splitlines()
    at = next(k for k, line in enumerate(lines) if " HB3 " in line and line.startswith("ATOM"))
    fields = lines[at].split()
    fields[4] = "A"  # label_alt_id
    lines[at : at + 1] = [" ".join(fields), " ".join([*fields[:4], "B", *fields[5:10], "9.0", *fields[11:]])]
    (tmp_path / "a.cif").write_text("\n".join(lines) + "\n")
    with pytest.warns(UserWarning, match=r"alternate locations \(2 lines\)"):
        assert np.abs(MolecularSystem.from_pdb(tmp_path / "a.cif", PAPER_FORCEFIELD).positions).max() < 0.9


def test_xml(alanine_dipeptide, cif, tmp_path):
    system = app.ForceField("amber96.xml").createSystem(alanine_dipeptide.topology, constraints=app.HBonds)
    (tmp_path / "vacuum.xml").write_text(openmm.XmlSerializer.serialize(system))
    for structure in (cif, alanine_dipeptide.folder / "input.pdb"):
        read = MolecularSystem.from_xml(tmp_path / "vacuum.xml", structure, temperature=310)
        assert read.name == "vacuum" and read.temperature == 310 and len(read.constraints[0]) == 12
        expected = MolecularSystem(alanine_dipeptide.topology, system, alanine_dipeptide.positions, 310)
        assert _energy(read) == pytest.approx(_energy(expected), abs=1e-6)


def test_a_serialized_system_wants_a_file_that_knows_bonds(alanine_dipeptide, tmp_path):
    (tmp_path / "x.xml").write_text(openmm.XmlSerializer.serialize(alanine_dipeptide.system))
    frame = mdtraj.Trajectory(alanine_dipeptide.positions[None], alanine_dipeptide.md_topology)
    for name in ("x.gro", "x.rst7", "x.ncrst", "x.dcd"):
        frame.save(str(tmp_path / name))
        with pytest.raises(ValueError, match=rf"PDBx/mmCIF or SDF file, which names .* bonds; got .*{name}, without"):
            MolecularSystem.from_xml(tmp_path / "x.xml", tmp_path / name)


def test_xml_of_something_else(alanine_dipeptide, cif, tmp_path):
    state = openmm.XmlSerializer.serialize(openmm.VerletIntegrator(0.001))
    for text in (state, "<html>", ""):
        (tmp_path / "x.xml").write_text(text)
        with pytest.raises(ValueError, match=r"Expected (a System|XML) in"):
            MolecularSystem.from_xml(tmp_path / "x.xml", cif)
    system = openmm.System()
    system.addParticle(1.0)
    (tmp_path / "x.xml").write_text(openmm.XmlSerializer.serialize(system))
    with pytest.raises(ValueError, match=r"Expected the 1 atoms of .*x\.xml; got 22 in .*dipeptide\.cif"):
        MolecularSystem.from_xml(tmp_path / "x.xml", cif)


# --- Amber ---


@pytest.fixture(scope="module")
def amber_data() -> Path:
    return Path(pytest.importorskip("openmmtools").__file__).with_name("data")


def test_amber_has_sanders_energy(amber_data):
    """p-xylene in OBC1 without surface term and without the springs of C-H, as sander's output says (igb=2, ntf=2)."""
    folder = amber_data / "T4-lysozyme-L99A-implicit"
    system = MolecularSystem.from_amber(
        folder / "ligand.prmtop",
        folder / "ligand-minimized.crd",
        constraints=app.HBonds,
        implicitSolvent=app.OBC1,
        gbsaModel=None,
    )
    assert system.n_atoms == 18 and system.name == "ligand" and len(system.constraints[0]) == 10
    text = (folder / "ligand-testenergy.sander.out").read_text()
    expected = float(text.split("EPtot      =")[1].split()[0])
    # Amber's Coulomb constant is 332.0522 kcal/mol Angstrom, OpenMM's 332.0637: 3.5e-5 of terms of up to 8 kcal/mol.
    assert _energy(system) / KCAL == pytest.approx(expected, abs=5e-4)


def test_amber_is_the_force_fields_dipeptide(alanine_dipeptide, amber_data):
    stem = amber_data / "alanine-dipeptide-gbsa" / "alanine-dipeptide"
    system = MolecularSystem.from_amber(f"{stem}.prmtop", f"{stem}.crd", implicitSolvent=app.OBC1, name="x")
    assert system.elements == alanine_dipeptide.elements and system.name == "x"
    np.testing.assert_array_equal(system.bonds, alanine_dipeptide.bonds)
    x = alanine_dipeptide.positions
    assert _energy(system, x) == pytest.approx(_energy(alanine_dipeptide, x), abs=5e-3)


def test_amber_coordinates_of_other_formats(amber_data, tmp_path):
    stem = amber_data / "benzene-toluene-implicit" / "receptor"
    system = MolecularSystem.from_amber(f"{stem}.prmtop", f"{stem}.inpcrd")
    pdb = MolecularSystem.from_amber(f"{stem}.prmtop", f"{stem}.pdb")
    np.testing.assert_allclose(pdb.positions, system.positions, atol=1e-4)  # a PDB file has 3 digits of an Angstrom
    with mdtraj.formats.AmberNetCDFRestartFile(str(tmp_path / "x.ncrst"), "w") as file:
        file.write(10 * system.positions)
    netcdf = MolecularSystem.from_amber(f"{stem}.prmtop", tmp_path / "x.ncrst")
    np.testing.assert_allclose(netcdf.positions, system.positions, atol=1e-6)


def test_salt_screens_at_the_systems_temperature(amber_data):
    """The Debye length grows with the square root of the temperature."""
    stem = amber_data / "benzene-toluene-implicit" / "receptor"

    def energy(**options):
        return _energy(
            MolecularSystem.from_amber(f"{stem}.prmtop", f"{stem}.inpcrd", implicitSolvent=app.GBn2, **options)
        )

    kappa = 7.3 * 50.33355 * np.sqrt(0.15 / 78.5)  # 1/nm at 1 K, with Amber's factor for ion exclusion
    for temperature in (300 * unit.kelvin, 600.0):
        at = temperature / unit.kelvin if unit.is_quantity(temperature) else temperature
        salty = energy(temperature=temperature, implicitSolventSaltConc=0.15)
        assert salty == pytest.approx(energy(implicitSolventKappa=kappa / np.sqrt(at)), abs=1e-9)
    assert abs(salty - energy()) > 1e-3


# --- CHARMM ---


def _psf_section(title: str, rows: list[tuple[int, ...]], per_line: int) -> str:
    flat = [f"{i + 1:8d}" for row in rows for i in row]
    lines = ["".join(flat[k : k + per_line]) for k in range(0, len(flat), per_line)]
    return "\n".join([f"{len(rows):8d} {title}", *lines, ""])


def _write_charmm(folder: Path, x: np.ndarray, atoms: int = 8) -> None:
    bonds, angles, torsions = _kinds()
    psf = [
        f"{i:8d} ETH  1    ETH  {name:<4} {name[0]}T3  {CHARGE[name[0]]:10.6f} {MASS[name[0]]:13.4f} {0:11d}"
        for i, name in enumerate(NAMES, 1)
    ]
    sections = [
        _psf_section("!NBOND: bonds", bonds, 8),
        _psf_section("!NTHETA: angles", angles, 9),
        _psf_section("!NPHI: dihedrals", torsions, 8),
        *(_psf_section(title, [], 8) for title in ("!NIMPHI: impropers", "!NDON: donors", "!NACC: acceptors")),
    ]
    head = "PSF\n\n       1 !NTITLE\n REMARKS ethane\n\n"
    text = head + "\n".join([f"{len(psf):8d} !NATOM", *psf, "", *sections])
    (folder / "ethane.psf").write_text(text + "\n       0       0 !NGRP NST2\n\n")
    masses = "\n".join(f"MASS {k} {t}T3 {m}" for k, (t, m) in enumerate(MASS.items(), 1))
    (folder / "top_ethane.rtf").write_text(f"* masses\n*\n36 1\n{masses}\nEND\n")
    parameters = ["* ethane", "*", "BONDS", *(f"{a}T3 {b}T3 {k} {r}" for (a, b), (k, r) in SPRINGS.items())]
    parameters += ["ANGLES", *(" ".join([*(f"{a}T3" for a in t), *map(str, p)]) for t, p in ANGLES.items())]
    parameters += ["DIHEDRALS", "X CT3 CT3 X " + " ".join(map(str, TORSION)), "NONBONDED nbxmod 5 e14fac 1.0"]
    parameters += [f"{t}T3 0.0 {-epsilon} {half}" for t, (epsilon, half) in LENNARD_JONES.items()]
    (folder / "par_ethane.prm").write_text("\n".join([*parameters, "END", ""]))
    rows = [
        f"{i:5d}{1:5d} ETH  {name:<4}{a:10.5f}{b:10.5f}{c:10.5f} ETH  1      0.00000"
        for i, (name, (a, b, c)) in enumerate(zip(NAMES[:atoms], 10 * x, strict=False), 1)
    ]
    (folder / "ethane.crd").write_text("\n".join(["* ethane", "*", f"{atoms:5d}", *rows, ""]))


def _from_charmm(folder: Path, **options) -> MolecularSystem:
    files = [folder / "top_ethane.rtf", folder / "par_ethane.prm"]
    return MolecularSystem.from_charmm(folder / "ethane.psf", folder / "ethane.crd", files, **options)


def test_charmm_has_the_energy_by_hand(tmp_path):
    x = _crooked()
    _write_charmm(tmp_path, x)
    system = _from_charmm(tmp_path, temperature=310)
    assert system.name == "ethane" and system.temperature == 310
    assert system.elements == ["C", "C", *"HHHHHH"] and system.bonds.tolist() == sorted(map(list, _kinds()[0]))
    np.testing.assert_allclose(system.positions, x, atol=1e-9)
    assert _energy(system) == pytest.approx(_energy_by_hand(x), abs=1e-6)
    other = _crooked(1)
    assert _energy(system, other) == pytest.approx(_energy_by_hand(other), abs=1e-6)
    assert abs(_energy_by_hand(other) - _energy_by_hand(x)) > 1.0


def test_charmm_takes_options(tmp_path):
    _write_charmm(tmp_path, _crooked())
    pairs, lengths = _from_charmm(tmp_path, constraints=app.HBonds).constraints
    assert len(pairs) == 6 and lengths == pytest.approx(0.1111)
    assert _from_charmm(tmp_path, hydrogenMass=2.0 * unit.amu).masses[2] == pytest.approx(2.0)


# --- GROMACS ---


def _write_gromacs(folder: Path, x: np.ndarray, molecules: int = 1) -> None:
    """The parameters above in GROMACS' units (nm, kJ/mol, E = k/2 (x - x0)^2), in a file of their own and included."""
    bonds, angles, torsions = _kinds()
    sections = {
        "defaults": [(1, 2, "yes", 1.0, 1.0)],
        "atomtypes": [
            (f"{t}T", {"C": 6, "H": 1}[t], MASS[t], 0.0, "A", 2 * half / 10 / 2 ** (1 / 6), KCAL * epsilon)
            for t, (epsilon, half) in LENNARD_JONES.items()
        ],
        "moleculetype": [("ETH", 3)],
        "atoms": [
            (i, f"{name[0]}T", 1, "ETH", name, i, CHARGE[name[0]], MASS[name[0]]) for i, name in enumerate(NAMES, 1)
        ],
        "bonds": [
            (i + 1, j + 1, 1, SPRINGS[_type((i, j))][1] / 10, 200 * KCAL * SPRINGS[_type((i, j))][0]) for i, j in bonds
        ],
        "pairs": [(i + 1, n + 1, 1) for i, _, _, n in torsions],
        "angles": [
            (i + 1, j + 1, m + 1, 5, theta, 2 * KCAL * k, distance / 10, 200 * KCAL * k_ub)
            for i, j, m in angles
            for k, theta, k_ub, distance in [ANGLES[_type((i, j, m))]]
        ],
        "dihedrals": [(*(i + 1 for i in t), 9, TORSION[2], KCAL * TORSION[0], TORSION[1]) for t in torsions],
    }
    text = "\n".join(
        f"[ {name} ]\n" + "\n".join(" ".join(map(str, r)) for r in rows) for name, rows in sections.items()
    )
    (folder / "included").mkdir(exist_ok=True)
    (folder / "included" / "ethane.itp").write_text(text + "\n")
    number = f"#ifdef MANY\nETH 2\n#else\nETH {molecules}\n#endif\n"
    (folder / "topol.top").write_text(f'#include "ethane.itp"\n[ system ]\nethane\n[ molecules ]\n{number}')
    rows = [
        f"{1:5d}{'ETH':<5}{name:>5}{i:5d}{a:8.3f}{b:8.3f}{c:8.3f}"
        for i, (name, (a, b, c)) in enumerate(zip(NAMES, x, strict=False), 1)
    ]
    box = f"{3:10.5f}{3:10.5f}{3:10.5f}"
    (folder / "conf.gro").write_text("\n".join(["ethane", f"{len(rows)}", *rows, box, ""]))


def _from_gromacs(folder: Path, **options) -> MolecularSystem:
    return MolecularSystem.from_gromacs(
        folder / "topol.top", folder / "conf.gro", include_dir=folder / "included", **options
    )


def test_gromacs_has_the_energy_by_hand(tmp_path):
    x = _crooked().round(3)  # what a gro file keeps
    _write_gromacs(tmp_path, x)
    system = _from_gromacs(tmp_path, name="ethane")
    assert system.name == "ethane" and system.elements == ["C", "C", *"HHHHHH"]
    assert system.bonds.tolist() == sorted(map(list, _kinds()[0]))
    np.testing.assert_allclose(system.positions, x, atol=1e-9)
    assert _energy(system) == pytest.approx(_energy_by_hand(x), abs=1e-6)


def test_gromacs_takes_options(tmp_path):
    _write_gromacs(tmp_path, _crooked())
    assert len(_from_gromacs(tmp_path, constraints=app.AllBonds).constraints[0]) == 7
    with pytest.raises(ValueError, match=r"Expected the 16 atoms of .*topol\.top; got 8 in .*conf\.gro"):
        _from_gromacs(tmp_path, defines={"MANY": ""})


def test_two_molecules_of_gromacs_are_refused(tmp_path):
    _write_gromacs(tmp_path, _crooked())
    text = (tmp_path / "topol.top").read_text()
    (tmp_path / "topol.top").write_text(text.replace("ETH 1", "ETH 2"))
    lines = (tmp_path / "conf.gro").read_text().splitlines()
    (tmp_path / "conf.gro").write_text("\n".join([lines[0], "16", *lines[2:10], *lines[2:10], lines[10], ""]))
    with pytest.raises(UnsupportedSystemError, match="got 2 that no bond connects: 2 x ETH"):
        _from_gromacs(tmp_path)


# --- wrong files ---


def test_positions_are_read_by_the_suffix_of_their_file(tmp_path):
    x = _crooked().round(3)
    _write_gromacs(tmp_path, x)
    _write_charmm(tmp_path, _crooked(1))
    read = _from_gromacs(tmp_path)
    mdtraj.Trajectory(x[None], read.md_topology).save(str(tmp_path / "x.rst7"))
    files = [tmp_path / "top_ethane.rtf", tmp_path / "par_ethane.prm"]
    for name in ("conf.gro", "x.rst7"):
        got = MolecularSystem.from_charmm(tmp_path / "ethane.psf", tmp_path / name, files).positions
        np.testing.assert_allclose(got, x, atol=1e-6)
    got = MolecularSystem.from_gromacs(tmp_path / "topol.top", tmp_path / "x.rst7", include_dir=tmp_path / "included")
    np.testing.assert_allclose(got.positions, x, atol=1e-6)


def test_counts_that_differ(amber_data, tmp_path):
    folder = amber_data / "benzene-toluene-implicit"
    with pytest.raises(ValueError, match=r"Expected the 12 atoms of .*receptor\.prmtop; got 27 in .*complex\.inpcrd"):
        MolecularSystem.from_amber(folder / "receptor.prmtop", folder / "complex.inpcrd")
    with pytest.raises(ValueError, match=r"got 27 in .*complex\.pdb.* Use two files"):
        MolecularSystem.from_amber(folder / "receptor.prmtop", folder / "complex.pdb")
    _write_charmm(tmp_path, _crooked(), atoms=7)
    with pytest.raises(ValueError, match=r"Expected the 8 atoms of .*ethane\.psf; got 7 in .*ethane\.crd"):
        _from_charmm(tmp_path)


def test_atoms_in_another_order(tmp_path):
    _write_charmm(tmp_path, _crooked())
    order = [1, 2, 0, 3, 4, 5, 6, 7]
    lines = [
        f"HETATM{k:5d}  {NAMES[i]:<3} ETH A   1    {k:8.3f}{0:8.3f}{0:8.3f}  1.00  0.00          {NAMES[i][0]:>2}"
        for k, i in enumerate(order, 1)
    ]
    (tmp_path / "ethane.pdb").write_text("\n".join([*lines, "END\n"]))
    files = [tmp_path / "top_ethane.rtf", tmp_path / "par_ethane.prm"]
    with pytest.raises(ValueError, match=r"Expected the elements of .*ethane\.psf .*atoms 1, 2 \(from 0\) differ"):
        MolecularSystem.from_charmm(tmp_path / "ethane.psf", tmp_path / "ethane.pdb", files)


def test_amber_trajectory_is_no_restart_file(amber_data, tmp_path):
    stem = amber_data / "benzene-toluene-implicit" / "receptor"
    with mdtraj.formats.NetCDFTrajectoryFile(str(tmp_path / "x.nc"), "w") as file:
        file.write(np.zeros((2, 12, 3)))
    with pytest.raises(ValueError, match=r"Expected Amber coordinates in .*x\.nc.*one frame"):
        MolecularSystem.from_amber(f"{stem}.prmtop", tmp_path / "x.nc")


@pytest.mark.parametrize(
    ("read", "missing"),
    [
        (lambda f: MolecularSystem.from_pdb(f / "a.cif", PAPER_FORCEFIELD), r"PDB, PDBx/mmCIF or SDF file at .*a\.cif"),
        (lambda f: MolecularSystem.from_amber(f / "a.prmtop", f / "a.crd"), r"Amber topology at .*a\.prmtop"),
        (lambda f: MolecularSystem.from_charmm(f / "a.psf", f / "a.crd", f / "a.prm"), r"psf\) at .*a\.psf"),
        (lambda f: MolecularSystem.from_gromacs(f / "a.top", f / "a.gro"), r"GROMACS topology at .*a\.top"),
        (lambda f: MolecularSystem.from_gromacs(f / "topol.top", f / "a.gro", include_dir=f / "included"), r"a\.gro"),
        (lambda f: MolecularSystem.from_charmm(f / "ethane.psf", f / "ethane.crd", f / "a.prm"), r"a\.prm"),
        (lambda f: MolecularSystem.from_xml(f / "a.xml", f / "a.pdb"), r"openmm\.System at .*a\.xml"),
    ],
)
def test_missing_files(tmp_path, read, missing):
    _write_charmm(tmp_path, _crooked())
    _write_gromacs(tmp_path, _crooked())
    with pytest.raises(FileNotFoundError, match=missing):
        read(tmp_path)


# --- what is not the file's fault ---


def _rivals(folder: Path) -> str:
    """Butane's force field with a second template, whose inner and outer carbons have changed their charges."""
    text = (SYSTEMS / "butane" / "butane.xml").read_text()
    first, last = text.index('  <Residue name="BUT">'), text.index(" </Residues>")
    other = text[first:last].replace('"BUT"', '"TUB"')
    for old, new in (("opls_135", "x"), ("opls_136", "opls_135"), ("x", "opls_136")):
        other = other.replace(f'type="{old}"', f'type="{new}"')
    (folder / "rivals.xml").write_text(text[:last] + other + text[last:])
    return str(folder / "rivals.xml")


def _in_two_residues(folder: Path) -> Path:
    """Butane as two residues of two carbons each: OpenMM has no template for them, and tries the whole molecule."""
    lines = (SYSTEMS / "butane" / "input.pdb").read_text().splitlines()
    second = [f"{line[:17]}TWO A   2{line[26:]}" for line in lines if line[12:16].strip() in SECOND_HALF]
    first = [line for line in lines if line.startswith("HETATM") and line[12:16].strip() not in SECOND_HALF]
    (folder / "two.pdb").write_text(
        "\n".join([*first, *second, *(k for k in lines if k.startswith("CONECT")), "END\n"])
    )
    return folder / "two.pdb"


SYSTEMS = Path(__file__).parents[2] / "systems"
SECOND_HALF = ("C3", "C4", "H31", "H32", "H41", "H42", "H43")


@pytest.mark.parametrize(("residues", "place"), [(1, "BUT 1"), (2, "BUT-TWO")])
def test_several_templates_fit(tmp_path, residues, place):
    path = SYSTEMS / "butane" / "input.pdb" if residues == 1 else _in_two_residues(tmp_path)
    files = _rivals(tmp_path)
    with pytest.raises(UnsupportedSystemError) as caught:
        MolecularSystem.from_pdb(path, files)
    text = str(caught.value)
    assert f"Expected one template of {files} for {place}; BUT, TUB fit it alike" in text and ".." not in text[-3:]
    assert f"residueTemplates={{'{place}': 'BUT'}}" in text and f'residue_templates = {{ "{place}" = "BUT" }}' in text
    charges = {}
    for name in ("BUT", "TUB"):
        system = MolecularSystem.from_pdb(path, files, residueTemplates={place: name})
        force = next(f for f in system.system.getForces() if isinstance(f, openmm.NonbondedForce))
        charges[name] = {a.name: force.getParticleParameters(a.index)[0]._value for a in system.topology.atoms()}
    assert (charges["BUT"]["C1"], charges["BUT"]["C2"]) == (-0.18, -0.12)
    assert (charges["TUB"]["C1"], charges["TUB"]["C2"]) == (-0.12, -0.18)
    (tmp_path / "system.toml").write_text(
        f"pdb = {str(path)!r}\nforcefield = {files!r}\nresidue_templates = {{ {place!r} = 'TUB' }}\n"
    )
    assert MolecularSystem.load(tmp_path).fingerprint == system.fingerprint


def test_templates_that_are_not_there(tmp_path):
    path, files = SYSTEMS / "butane" / "input.pdb", _rivals(tmp_path)
    with pytest.raises(ValueError, match=r"no template TBU\.$"):
        MolecularSystem.from_pdb(path, files, residueTemplates={"BUT 1": "TBU"})
    with pytest.raises(ValueError, match=r"residues of the structure.*got BUT 2\. There are BUT, BUT 1\.$"):
        MolecularSystem.from_pdb(path, files, residueTemplates={"BUT 2": "BUT"})


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ({"gbsaModel": None}, "its name is sasaMethod today"),
        ({"implicitSolventSaltConc": 0.1}, "salt is implicitSolventKappa"),
        ({"implicitSolvent": app.OBC2}, "implicit/gbn2.xml"),
        ({"flexibleConstraints": True}, "used with constraints only"),
        ({"hydrogenMas": 2.0}, "mind the spelling"),
    ],
)
def test_options_that_nothing_uses(option, hint):
    """No word of the structure, which is as it should be."""
    path = SYSTEMS / "alanine_dipeptide" / "input.pdb"
    with pytest.raises(ValueError, match=f"Expected options of createSystem.*; got {next(iter(option))}, .*") as caught:
        MolecularSystem.from_pdb(path, ["amber96.xml", "implicit/obc1.xml"], **option)
    text = str(caught.value)
    assert hint in text and "input.pdb" not in text and text.endswith(".") and not text.endswith("..")
    assert MolecularSystem.from_pdb(path, ["amber96.xml", "implicit/obc1.xml"], sasaMethod=None).n_atoms == 22


def test_a_periodic_method_without_a_box_is_told():
    path = SYSTEMS / "alanine_dipeptide" / "input.pdb"
    with pytest.raises(ValueError, match=r"^Expected a nonbondedMethod for a molecule without a .*box; got PME\."):
        MolecularSystem.from_pdb(path, "amber96.xml", nonbondedMethod=app.PME)


def test_options_that_a_reader_does_not_have(amber_data):
    stem = amber_data / "alanine-dipeptide-gbsa" / "alanine-dipeptide"
    with pytest.raises(
        ValueError, match=r"Expected options of AmberPrmtopFile.createSystem; got hydrogenMas"
    ) as caught:
        MolecularSystem.from_amber(f"{stem}.prmtop", f"{stem}.crd", hydrogenMas=2.0)
    assert "did you mean hydrogenMass?" in str(caught.value) and ".prmtop" not in str(caught.value)


def test_a_gap_in_a_chain_is_no_bond(tmp_path):
    """OpenMM bonds ALA 4 to ALA 7: a shorter peptide, with a bond of 0.78 nm, that every template fits."""
    whole = (Path(__file__).parents[1] / "data" / "peptide_ala9.pdb").read_text().splitlines()
    lines = [line for line in whole if line[22:26].strip() not in ("5", "6") and not line.startswith("CONECT")]
    (tmp_path / "gap.pdb").write_text("\n".join(lines) + "\n")
    with pytest.raises(UnsupportedSystemError, match=r"ALA 4 to ALA 7 \(0\.\d\d nm\) are far apart.* take a shorter"):
        MolecularSystem.from_pdb(tmp_path / "gap.pdb", PAPER_FORCEFIELD)
    read = app.PDBFile(str(tmp_path / "gap.pdb"))
    app.ForceField("amber96.xml").createSystem(read.topology)  # OpenMM's templates do not refuse it


def test_one_full_stop(tmp_path):
    (tmp_path / "bad.xml").write_text(
        "<ForceField><Residues><Residue name='A'><Bond/></Residue></Residues></ForceField>"
    )
    with pytest.raises(ValueError, match="OpenMM says") as caught:
        MolecularSystem.from_pdb(SYSTEMS / "butane" / "input.pdb", str(tmp_path / "bad.xml"))
    assert not str(caught.value).endswith("..")


def test_atoms_of_one_name(tmp_path):
    """OpenMM reads the first of each name; that is told, and not a count of atoms that the file does not have."""
    lines = (SYSTEMS / "butane" / "input.pdb").read_text().splitlines()
    lines = [f"{k[:12]} {k[77]}  {k[16:]}" for k in lines if k.startswith("HETATM")]
    (tmp_path / "names.pdb").write_text("\n".join([*lines, "END\n"]))
    butane = MolecularSystem.load("butane")
    (tmp_path / "butane.xml").write_text(openmm.XmlSerializer.serialize(butane.system))
    for read in (
        lambda path: MolecularSystem.from_pdb(path, str(SYSTEMS / "butane" / "butane.xml")),
        lambda path: MolecularSystem.from_xml(tmp_path / "butane.xml", path),
    ):
        with pytest.raises(ValueError, match=r"got BUT 1 C \(4 times\), BUT 1 H \(10 times\)") as caught:
            read(tmp_path / "names.pdb")
        assert "2 of 14 atoms" in str(caught.value) and "openmm-fab prepare" in str(caught.value)


def test_deuterium_is_named(tmp_path):
    lines = (SYSTEMS / "alanine_dipeptide" / "input.pdb").read_text().splitlines()
    heavy = [f"{k[:12]} D  {k[16:76]} D" if k[12:21] == " H   ALA " else k for k in lines]
    (tmp_path / "d.pdb").write_text("\n".join(heavy) + "\n")
    with pytest.raises(UnsupportedSystemError, match=r"Deuterium \(ALA 2 D\) is in no force field.*write H for D"):
        MolecularSystem.from_pdb(tmp_path / "d.pdb", PAPER_FORCEFIELD)


def test_residues_in_several_places_are_named(tmp_path):
    lines = (SYSTEMS / "alanine_dipeptide" / "input.pdb").read_text().splitlines()
    atoms = [k for k in lines if k.startswith(("ATOM", "HETATM"))]
    heavy = [k for k in atoms if k[76:78].strip() != "H"]
    (tmp_path / "late.pdb").write_text("\n".join([*heavy, *(k for k in atoms if k not in heavy), "END\n"]))
    with pytest.raises(
        UnsupportedSystemError, match="atoms of ACE 1, ALA 2, NME 3 stand in several places of the file"
    ):
        MolecularSystem.from_pdb(tmp_path / "late.pdb", PAPER_FORCEFIELD)


def test_bonds_that_only_distances_know(tmp_path):
    """Two halves within a bond's length are not "several molecules" whose rest is to be thrown away."""
    lines = [k for k in _in_two_residues(tmp_path).read_text().splitlines() if not k.startswith("CONECT")]
    (tmp_path / "bare.pdb").write_text("\n".join(lines) + "\n")
    with pytest.raises(UnsupportedSystemError, match="As near as bonded atoms are") as caught:
        MolecularSystem.from_pdb(tmp_path / "bare.pdb", str(SYSTEMS / "butane" / "butane.xml"))
    assert "BUT 1 C2 - TWO 2 C3" in str(caught.value) and "CONECT" in str(caught.value)
    assert "Keep the solute only" not in str(caught.value)
