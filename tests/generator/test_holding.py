"""What coordinates hold, against molecules that are known."""

from __future__ import annotations

import math
from collections import Counter

from generators import SMALL
from openmm import app

from openmm_fab.coordinates.internal import InternalCoordinates
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.ensemble.held import Held
from openmm_fab.ensemble.stream import StreamedEnsemble, sample_to_file
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.generator.holding import held_by
from openmm_fab.molecule.system import PAPER_FORCEFIELD, MolecularSystem


def _held(system: MolecularSystem, **settings) -> tuple[Held, ...]:
    return held_by(
        InternalCoordinates.from_system(system, CoordinateSettings(**settings), energy=CompiledEnergy(system)), system
    )


def test_what_is_held_of_molecules_that_are_known(alanine_dipeptide) -> None:
    proline = MolecularSystem.load("proline_dipeptide")
    found = _held(proline)
    assert [(h.kind, h.where, h.kept, h.other) for h in found[:2]] == [
        ("peptide bond", "ACE1:C-PRO2:N", "trans", "cis"),
        ("peptide bond", "PRO2:C-NME3:N", "trans", "cis"),
    ]
    assert [h.where for h in found if h.kind == "stereocentre"] == ["PRO2:CA"]
    assert not [h for h in found if h.kind == "ring pucker"], "both are sampled"
    # Proline's cis side was scanned, the other peptide bond was not.
    assert 20 < found[0].barrier < 40 and 0 < found[0].energy < 10 and math.isnan(found[1].barrier)
    # What is sampled is not held.
    assert not [h for h in _held(proline, omega="sample") if h.kind == "peptide bond"]
    rigid = MolecularSystem.from_pdb(alanine_dipeptide.folder / "input.pdb", PAPER_FORCEFIELD, constraints=app.HBonds)
    assert Counter(h.kind for h in _held(rigid)) == {"peptide bond": 2, "stereocentre": 1, "bond length": 1}
    assert _held(rigid)[-1].where == "12 of constraints"
    # Adenine is flat; the sugar is not, and the amino group does not turn.
    adenosine = _held(MolecularSystem.load("adenosine"))
    assert Counter(h.kind for h in adenosine) == {"stiff bond": 1, "stereocentre": 4, "ring pucker": 1}
    assert adenosine[-1].where == "rings and nitrogens" and adenosine[-1].energy > 8  # kT, what is not sampled
    assert 20 < adenosine[0].barrier < 30 and abs(adenosine[0].energy) < 0.1
    assert adenosine[0].where in ("A1:C6-A1:N6", "A1:N6-A1:C6")


def test_samples_carry_it(alanine_dipeptide, tmp_path) -> None:
    generator = BoltzmannGenerator(alanine_dipeptide, SMALL)
    line = "held fixed: 2 peptide bonds, 1 stereocentre"
    ensemble = generator.sample(40, seed=1)
    assert ensemble.held == generator.held and ensemble.held[0].kept == "trans" and line in repr(ensemble)
    out = tmp_path / "a.nc"
    assert line in repr(generator.sample(40, seed=1, out=out))
    for found in (
        Ensemble.load(out),
        next(StreamedEnsemble(out).chunks(10)),
        Ensemble.load(ensemble.save(tmp_path / "b")),
    ):
        assert str(found.held) == str(ensemble.held)
    # A file of before, which does not say it, is gone on with.
    about = {
        k: v for k, v in StreamedEnsemble(out).about.items() if k in ("fingerprint", "temperature", "name", "seed")
    }
    about |= {"batch": generator.batch, "model": generator.digest}
    sample_to_file(
        tmp_path / "old.nc", 40, lambda rng: generator._draw(rng, 300.0), alanine_dipeptide.md_topology, about
    )
    assert Ensemble.load(tmp_path / "old.nc").held is None
    assert generator.sample(60, seed=1, out=tmp_path / "old.nc", resume=True).n == 60


def test_coordinates_of_others_are_not_known(alanine_dipeptide) -> None:
    generator = BoltzmannGenerator(alanine_dipeptide, SMALL)
    generator.coordinates = object()
    assert generator.held is None
