"""Elements without parameters in a model of implicit solvent are told of, with what Amber takes."""

from __future__ import annotations

from pathlib import Path

import openmm
import pytest
from openmm import app, unit
from openmm.app.internal import customgbforces

from openmm_fab.molecule.solvent import default_parameters
from openmm_fab.molecule.system import MolecularSystem

DATA = Path(__file__).parents[1] / "data"
PHOSPHOSERINE = DATA / "phosphoserine.prmtop", DATA / "phosphoserine.inpcrd"  # ACE-SEP-NME by LEaP, radii mbondi3
FORCES = {
    "HCT": customgbforces.GBSAHCTForce,
    "OBC1": customgbforces.GBSAOBC1Force,
    "OBC2": customgbforces.GBSAOBC2Force,
    "GBn": customgbforces.GBSAGBnForce,
    "GBn2": customgbforces.GBSAGBn2Force,
}


def _kcal(system: openmm.System, x) -> float:
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(x)
    return context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilocalorie_per_mole)


def test_phosphorus_outside_nucleic_acids_in_gbn2() -> None:
    """Energies by sander of AmberTools 26, igb=8 and gbsa=0: -292.96 kcal/mol."""
    said = (
        r"phosphoserine: GBn2 has no parameters of its own for P \(SEP 2 P\).*Amber takes .* 0.418365, 0.290054, 0.10"
    )
    with pytest.warns(UserWarning, match=said) as caught:
        given = MolecularSystem.from_amber(*PHOSPHOSERINE, implicitSolvent=app.GBn2, sasaMethod=None)
    assert [w.filename for w in caught if "GBn2 has" in str(w.message)] == [__file__]
    assert _kcal(given.system, given.positions) == pytest.approx(-350.12, abs=0.01)
    # Amber's parameters set by hand, as is advised.
    system = openmm.XmlSerializer.clone(given.system)
    force = next(f for f in system.getForces() if isinstance(f, openmm.CustomGBForce))
    (k,) = (atom.index for atom in given.topology.atoms() if atom.element.symbol == "P")
    values = list(force.getParticleParameters(k))
    values[3:6] = 0.418365, 0.290054, 0.1064245
    force.setParticleParameters(k, values)
    assert default_parameters(given.topology, system) == []
    assert _kcal(system, given.positions) == pytest.approx(-292.96, abs=0.02)


def test_it_is_told_at_every_door(tmp_path) -> None:
    with pytest.warns(UserWarning, match="GBn2 has no parameters"):
        given = MolecularSystem.from_amber(*PHOSPHOSERINE, implicitSolvent=app.GBn2)
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(given.system))
    with open(tmp_path / "a.cif", "w") as file:
        app.PDBxFile.writeFile(given.topology, given.positions * unit.nanometer, file, keepIds=True)
    with pytest.warns(UserWarning, match="GBn2 has no parameters of its own for P"):
        MolecularSystem.from_xml(tmp_path / "system.xml", tmp_path / "a.cif")
    with pytest.warns(UserWarning, match="GBn2 has no parameters of its own for P"):
        MolecularSystem.from_openmm(given.topology, given.system, given.positions)


@pytest.mark.parametrize("model", FORCES)
def test_phosphorus_in_a_prmtop(model) -> None:
    """LEaP writes its own screening, which HCT, OBC1 and OBC2 take."""
    prmtop = app.AmberPrmtopFile(str(PHOSPHOSERINE[0]))
    for salt in (0.0, 0.1):
        system = prmtop.createSystem(implicitSolvent=getattr(app, model), implicitSolventSaltConc=salt * unit.molar)
        told = default_parameters(prmtop.topology, system)
        assert len(told) == (model in ("GBn", "GBn2"))
        if model == "GBn":
            assert told == ["GBn has no parameters of its own for P (SEP 2 P: screening 0.5); Amber takes the same."]


def _pair(symbol: str, model: str, residue: str = "MOL") -> tuple[app.Topology, openmm.System]:
    """A carbon and an atom of an element with the model's standard parameters, as implicit/*.xml give them."""
    topology = app.Topology()
    group = topology.addResidue(residue, topology.addChain())
    atoms = [topology.addAtom(name, app.Element.getBySymbol(name), group) for name in ("C", symbol)]
    topology.addBond(*atoms)
    force = FORCES[model]()
    for radius, *values in FORCES[model].getStandardParameters(topology):
        # The tables of GBn and GBn2 end at 0.2 nm, where OpenMM refuses silicon.
        force.addParticle([0.1, min(radius, 0.2) if model.startswith("GBn") else radius, *values])
    system = openmm.System()
    for _ in atoms:
        system.addParticle(12.0)
    force.finalize()
    system.addForce(force)
    return topology, system


def _screening(symbol: str, model: str) -> float:
    topology = app.Topology()
    topology.addAtom("a", app.Element.getBySymbol(symbol), topology.addResidue("MOL", topology.addChain()))
    bonded = topology.addAtom("b", app.element.carbon, next(topology.residues()))
    topology.addBond(next(topology.atoms()), bonded)
    return float(FORCES[model].getStandardParameters(topology)[0][1])


@pytest.mark.parametrize("model", FORCES)
@pytest.mark.parametrize("symbol", "H C N O F P S Si Cl Br I B Se Li Na K Mg Ca Mn Fe Cu Zn Pt".split())
def test_elements_and_models(symbol, model) -> None:
    """What is told of has the numbers that OpenMM gives to an element that is in no table, uranium."""
    topology, system = _pair(symbol, model)
    told = default_parameters(topology, system)
    assert bool(told) == (_screening(symbol, model) == _screening("U", model))
    text = "".join(told)
    known_radius = symbol in "H C N O F Si P S Cl".split()
    assert not told or f"{model} has no parameters of its own for {symbol} (MOL 1 {symbol}" in text
    assert len(told) <= 1 and ("Amber takes" in text) == bool(told)
    assert ("radius 0.15 nm" in text) == (bool(told) and not known_radius)
    assert ("alpha, beta, gamma" in text) == (bool(told) and model == "GBn2")
    assert ("kcal/mol for a phosphate" in text) == (model == "GBn2" and symbol == "P")


def test_several_elements_are_told_of_in_one_line() -> None:
    topology, system = _pair("Cl", "OBC1")
    force = system.getForce(0)
    for symbol in ("Br", "Cl"):
        residue = next(topology.residues())
        topology.addAtom(f"{symbol}2", app.Element.getBySymbol(symbol), residue)
        system.addParticle(12.0)
        force.addParticle([0.1, 0.17 - 0.009 if symbol == "Cl" else 0.15 - 0.009, 0.8])
    for k in (2, 3):
        reduced = force.getParticleParameters(k)[1]
        force.setParticleParameters(k, [0.1, reduced, 0.8 * reduced])
    (text,) = default_parameters(topology, system)
    assert "Cl (MOL 1 Cl, MOL 1 Cl2: screening 0.8), Br (MOL 1 Br2: radius 0.15 nm; screening 0.8); Amber" in text


def test_phosphorus_of_nucleic_acids_has_its_own() -> None:
    assert default_parameters(*_pair("P", "GBn2", "DA")) == []
    assert len(default_parameters(*_pair("P", "GBn2", "DAX"))) == 1


def test_the_force_that_openmm_has_built_in() -> None:
    topology, system = _pair("Br", "OBC2")
    system.removeForce(0)
    force = openmm.GBSAOBCForce()
    force.addParticle(0.0, 0.17, 0.72)
    force.addParticle(0.0, 0.15, 0.8)
    system.addForce(force)
    (text,) = default_parameters(topology, system)
    told = "OBC2 has no parameters of its own for Br (MOL 1 Br: radius 0.15 nm; screening 0.8); Amber takes the same."
    assert text == told
    force = system.getForce(0)
    force.setParticleParameters(1, 0.0, 0.185, 0.9)  # somebody's own
    assert default_parameters(topology, system) == []


def test_other_forces_are_passed_over(alanine_dipeptide) -> None:
    system = openmm.System()
    system.addParticle(1.0)
    force = openmm.CustomGBForce()
    force.addPerParticleParameter("q")
    force.addComputedValue("B", "q", openmm.CustomGBForce.SingleParticle)
    system.addForce(force)
    assert default_parameters(app.Topology(), system) == []
    assert default_parameters(alanine_dipeptide.topology, alanine_dipeptide.system) == []
