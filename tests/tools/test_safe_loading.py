"""Nothing that is read can run, grow without bound or write elsewhere: checkpoints, ensembles, XML, TOML, names."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit

from openmm_fab.cli.common import run_folder
from openmm_fab.energy.backends import reduced_energy
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.energy.verify import check
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.ensemble.shipped import load_reference
from openmm_fab.generator.generator import BoltzmannGenerator
from openmm_fab.md.store import Store
from openmm_fab.molecule.forcefields import read_forcefield
from openmm_fab.molecule.safe_xml import check_serialized
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.tools.files import DamagedFileError, load_npz, load_torch, save_torch
from openmm_fab.tools.toml import tomllib

ROOT = Path(__file__).parents[2]
BUTANE, PEPTIDE = ROOT / "systems/butane/input.pdb", ROOT / "systems/alanine_dipeptide/input.pdb"
SOURCES = sorted((ROOT / "openmm_fab").rglob("*.py"))

# --- the sources ---

RUNS = {"eval", "exec", "__import__"}
UNPICKLES = {"pickle": {"load", "loads", "Unpickler"}, "marshal": {"load", "loads"}, "shelve": {"open"}}
UNSAFE_MODULES = {"dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE_YAML = {"Loader", "FullLoader", "UnsafeLoader", "load", "load_all", "full_load", "unsafe_load"}


def unsafe_calls(source: str) -> list[str]:
    """Calls that may run what a file says, by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"line {node.lineno}: {name}" for name in names if name.split(".")[0] in UNSAFE_MODULES]
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "yaml" and node.attr in UNSAFE_YAML:
            found.append(f"line {node.lineno}: yaml.{node.attr}")
        if not isinstance(node, ast.Call):
            continue
        called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        first, _, last = called.rpartition(".")
        bad = called in RUNS or last in UNPICKLES.get(first, ())
        bad |= called == "torch.load" and given.get("weights_only") != "True"
        bad |= called in ("np.load", "numpy.load") and given.get("allow_pickle") != "False"
        bad |= (first == "os" and last in ("system", "popen")) or given.get("shell") == "True"
        bad |= last == "deserialize" and "check_serialized(" not in source
        bad |= last == "from_storage" and "check_storage(" not in source
        if bad:
            found.append(f"line {node.lineno}: {called}")
    return found


# What a program and the processes that it started itself write into each other's pipes; nothing of a file.
PIPES = {
    "energy/processes.py": {"pickle.load"},
    "energy/serving.py": {"pickle.load", "openmm.XmlSerializer.deserialize"},
}


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_source_runs_what_it_reads(file) -> None:
    found = {call.partition(": ")[2] for call in unsafe_calls(file.read_text(encoding="utf-8"))}
    assert found == PIPES.get("/".join(file.parts[-2:]), set())


def test_the_check_sees_what_it_should() -> None:
    for bad in ("torch.load(p)", "torch.load(p, weights_only=False)", "np.load(p)", "np.load(p, allow_pickle=True)",
                "pickle.load(f)", "pickle.loads(b)", "eval(text)", "exec(text)", "import joblib", "os.system(x)",
                "subprocess.run(x, shell=True)", "from dill import loads", "yaml.load(t)", "class L(yaml.Loader): ...",
                "openmm.XmlSerializer.deserialize(t)", "Sampler.from_storage(p)"):  # fmt: skip
        assert len(unsafe_calls(bad)) == 1, bad
    for good in (
        "torch.load(p, weights_only=True)",
        "np.load(p, allow_pickle=False)",
        "flow.eval()",
        "import pickle",
        "class L(yaml.SafeLoader): ...",
    ):
        assert unsafe_calls(good) == []


# --- archives ---


class Malicious:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def _readers(tmp_path: Path):
    """Everything that reads such files, each with the name of the file it reads."""
    store = Store(tmp_path)
    system = MolecularSystem.load("butane")
    return {
        "a.pt": lambda path: load_torch(path, "it"),
        "a.npz": lambda path: load_npz(path, "it"),
        "ensemble.npz": Ensemble.load,
        "state.pt": lambda path: store.load(),
        "model.safetensors": lambda path: BoltzmannGenerator.load(path, system),
    }


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_malicious_pickles_are_refused_and_not_run(tmp_path, protocol) -> None:
    trap = tmp_path / "trap"
    plain = pickle.dumps(Malicious(trap), protocol)
    pickle.loads(plain)
    trap.rmdir()  # the trap works
    archive = io.BytesIO()
    torch.save({"format": 4, "x": Malicious(trap)}, archive)
    legacy = io.BytesIO()
    torch.save({"x": Malicious(trap)}, legacy, _use_new_zipfile_serialization=False)
    objects = io.BytesIO()
    np.savez(objects, x=np.array([Malicious(trap)], dtype=object))
    for data in (plain, archive.getvalue(), legacy.getvalue(), objects.getvalue()):
        for name, read in _readers(tmp_path).items():
            (tmp_path / name).write_bytes(data)
            with pytest.raises(ValueError, match=name):
                read(tmp_path / name)
            assert not trap.exists()


def _npy(shape: tuple[int, ...], data: bytes) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return header.getvalue() + data


def _zip(path: Path, *members: tuple[str, bytes], compression=zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members:
            archive.writestr(name, data)


def test_zip_bombs_are_not_unpacked(tmp_path) -> None:
    path = tmp_path / "a.npz"
    # 96 MiB of zeros in 96 KiB: what it says is looked at first.
    zeros = 12 * 2**20
    _zip(path, ("x.npy", _npy((zeros,), bytes(8 * zeros))), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**18
    for read in (lambda: load_npz(path, "it"), lambda: load_torch(path, "it"), lambda: Ensemble.load(path)):
        with pytest.raises(ValueError, match="say to unpack to"):
            read()


@pytest.mark.parametrize("shape", [(10**12,), (2**62, 2**62), (3,), (0,), (1, 2, 2)])
def test_arrays_that_say_to_be_larger_than_their_file(tmp_path, shape) -> None:
    path = tmp_path / "a.npz"
    _zip(path, ("x.npy", _npy((2, 4), bytes(64))))
    assert load_npz(path, "it")["x"].shape == (2, 4)
    _zip(path, ("x.npy", _npy(shape, bytes(64))))
    with pytest.raises(DamagedFileError, match=r"in \d+ bytes"):
        load_npz(path, "it")


def test_two_members_of_one_name(tmp_path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        _zip(tmp_path / "a.npz", ("x.npy", _npy((1,), bytes(8))), ("x.npy", _npy((1,), b"12345678")))
    with pytest.raises(DamagedFileError, match="of which 1 can be found"):
        load_npz(tmp_path / "a.npz", "it")


def test_members_cannot_write_elsewhere(tmp_path) -> None:
    _zip(tmp_path / "a.npz", ("../../evil.npy", _npy((1,), bytes(8))))
    assert list(load_npz(tmp_path / "a.npz", "it")) == ["../../evil"]  # a name, no more
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_checkpoints_may_hold_no_more_than_tensors_numbers_and_text(tmp_path) -> None:
    path = save_torch(tmp_path / "a.pt", {"x": Path("a")})
    with pytest.raises(DamagedFileError, match="more than tensors, numbers and text") as caught:
        load_torch(path, "it")
    assert "weights_only" not in str(caught.value)  # torch's advice is to load it all the same


# --- names ---


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/b", "..", ".", "", "a/../../b", "runs/", "./a"])
def test_run_names_stay_in_their_folder(tmp_path, name) -> None:
    with pytest.raises(ValueError, match="one folder name"):
        run_folder(tmp_path / "runs", name, resume=False)
    assert not list(tmp_path.iterdir())


# --- XML ---

LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in itertools.pairwise("abcdefghij"))
    + "]><ForceField>&j;</ForceField>"
)
OUTSIDE = '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><ForceField><A b="&a;"/></ForceField>'


def test_entities_are_not_expanded(tmp_path) -> None:
    pdb = ROOT / "systems/butane/input.pdb"
    for text in (LAUGHS, OUTSIDE, "<!DOCTYPE x><ForceField/>"):
        path = tmp_path / "a.xml"
        path.write_text(text)
        with pytest.raises(ValueError, match=r"line 1 of .*a\.xml has one, whose entities"):
            MolecularSystem.from_pdb(pdb, str(path))
        with pytest.raises(ValueError, match="whose entities"):
            MolecularSystem.from_xml(path, pdb)


# --- serialized Systems ---

OUTER = (
    '<Force energy="a" forceGroup="0" name="b" type="CustomCVForce" version="0"><GlobalParameters/>'
    '<EnergyParameterDerivatives/><CollectiveVariables><CollectiveVariable name="a">{}</CollectiveVariable>'
    "</CollectiveVariables><Functions/></Force>"
)
SHIFTED = (
    '<Force energy="u0" forceGroup="0" name="b" type="ATMForce" version="0"><GlobalParameters/>'
    "<EnergyParameterDerivatives/><Forces><Force>{}</Force></Forces><Particles/></Force>"
)
PYTHON = "PythonForce, whose function OpenMM would unpickle"
# Ways to write a force so that OpenMM unpickles it, and what is said to them.
TRAPS = {
    "at the top": ("{}", PYTHON),
    "nested": (OUTER, PYTHON),
    "nested twice": (OUTER.format(OUTER), PYTHON),
    "in an ATMForce": (SHIFTED, PYTHON),
    "in an element of another name": ("{}", PYTHON),
    "over lines, in single quotes": ("{}", PYTHON),
    "in a comment": ("<!-- > {} -->", "comment with < or >"),
    "in a processing instruction": ("<?a > {} ?>", "processing instruction with < or >"),
}


def _trap(trap: Path, way: str) -> str:
    """The element of a PythonForce that makes a folder when it is unpickled."""
    code = pickle.dumps(Malicious(trap)).hex()
    text = f'<Force forceGroup="0" function="{code}" name="a" type="PythonForce" usesPeriodic="0" version="2">'
    text += "<GlobalParameters/><Particles/></Force>"
    if "another name" in way:
        text = text.replace("<Force ", "<Any ").replace("</Force>", "</Any>")
    if "quotes" in way:
        text = text.replace('"', "'").replace(" type=", "\n\ttype =\n")
    return TRAPS[way][0].format(text)


def _butane_with(force: str) -> tuple[str, int]:
    """Butane's System as XML with one more force, and the line where that begins."""
    text = openmm.XmlSerializer.serialize(MolecularSystem.load("butane").system)
    head, rest = text.split("<Forces>\n", 1)
    return f"{head}<Forces>\n{force}\n{rest}", head.count("\n") + 2


@pytest.mark.parametrize("way", TRAPS)
def test_functions_of_forces_are_not_unpickled(tmp_path, way) -> None:
    trap, path = tmp_path / "trap", tmp_path / "system.xml"
    text, line = _butane_with(_trap(trap, way))
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"line {line} of .*system\.xml has a {TRAPS[way][1]}"):
        MolecularSystem.from_xml(path, BUTANE)
    assert not trap.exists()
    with contextlib.suppress(openmm.OpenMMException):
        openmm.XmlSerializer.deserialize(text)
    assert trap.exists()  # OpenMM would


@pytest.mark.parametrize(
    ("force", "said"),
    [
        ('<Force type="PlumedForce" script="" version="1"/>', "has type 'PlumedForce' in <Force>, which may be a"),
        ('<Force type="Context"/>', "has type 'Context' in <Force>"),  # a class of OpenMM, but no part of a System
        ('<Force type="&#80;ythonForce"/>', PYTHON),
        ('<Force type="pythonforce"/>', "has type 'pythonforce'"),
        ("<![CDATA[ a ]]>", "has a CDATA section"),
        ('<Force type="HarmonicBondForce" type="PythonForce"/>', "duplicate attribute"),
        ('<Force a="<"/>', "not well-formed"),
    ],
)  # fmt: skip
def test_serialized_systems_hold_what_openmm_has(force, said) -> None:
    text, _ = _butane_with(force)
    with pytest.raises(ValueError, match=re.escape(said)):
        check_serialized(text, "a.xml")


def test_utf_16_is_refused(tmp_path) -> None:
    """Without a mark at its beginning it is valid UTF-8 with NUL characters, which two readers take for two texts."""
    text, _ = _butane_with("")
    for order in ("utf-16-le", "utf-16-be"):
        (tmp_path / "a.xml").write_bytes(text.encode(order))
        with pytest.raises(ValueError, match=r"Expected XML in .*a\.xml; got a NUL character"):
            MolecularSystem.from_xml(tmp_path / "a.xml", BUTANE)
    (tmp_path / "a.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(ValueError, match=r"Expected XML in .*a\.xml; 'utf-8' codec"):
        MolecularSystem.from_xml(tmp_path / "a.xml", BUTANE)


def test_the_encoding_that_xml_declares_hides_nothing(tmp_path) -> None:
    """OpenMM takes the text for UTF-8, whatever it says to be."""
    trap, path = tmp_path / "trap", tmp_path / "system.xml"
    text, _ = _butane_with(_trap(trap, "at the top"))
    for encoding in ("utf-16", "cp037", "utf-7", "latin-1"):
        for as_bytes in ("utf-8", encoding):
            path.write_bytes(text.replace('"1.0"', f'"1.0" encoding="{encoding}"', 1).encode(as_bytes))
            with pytest.raises(ValueError, match=r"system\.xml"):
                MolecularSystem.from_xml(path, BUTANE)
            assert not trap.exists()


def test_every_class_of_openmm_but_one_may_be_serialized(tmp_path) -> None:
    system = openmm.XmlSerializer.clone(MolecularSystem.load("butane").system)
    made = []
    for name, found in vars(openmm).items():
        if (
            isinstance(found, type)
            and issubclass(found, openmm.Force)
            and found not in (openmm.Force, openmm.PythonForce)
        ):
            try:
                system.addForce(found())
            except Exception:  # wants arguments
                continue
            made.append(name)
    assert len(made) > 15
    atm = openmm.ATMForce("u0")
    atm.addForce(_table())
    atm.addParticle(openmm.Vec3(1, 0, 0))
    atm.setParticleTransformation(atm.addParticle(openmm.Vec3(0, 0, 0)), openmm.ParticleOffsetDisplacement(0, 1))
    system.addForce(atm)
    text = openmm.XmlSerializer.serialize(system).replace("<Forces>", "<!-- by hand -->\n<Forces>", 1)
    check_serialized(text, "a.xml")
    assert openmm.XmlSerializer.deserialize(text).getNumForces() == system.getNumForces()
    check_serialized(openmm.XmlSerializer.serialize(openmm.LangevinMiddleIntegrator(300, 1, 0.001)), "a.xml")


@pytest.mark.parametrize("model", ["HCT", "OBC1", "OBC2", "GBn", "GBn2"])
def test_serialized_systems_of_openmm_are_read(tmp_path, model) -> None:
    given = MolecularSystem.from_pdb(PEPTIDE, ["amber14-all.xml", f"implicit/{model.lower()}.xml"])
    (tmp_path / "system.xml").write_text(openmm.XmlSerializer.serialize(given.system))
    read = MolecularSystem.from_xml(tmp_path / "system.xml", PEPTIDE)
    assert openmm.XmlSerializer.serialize(read.system) == openmm.XmlSerializer.serialize(given.system)


def _table() -> openmm.Force:
    force = openmm.CustomNonbondedForce("step(r-1)*f(r) + select(r < 2, 0, 1)")
    force.addTabulatedFunction("f", openmm.Continuous1DFunction([0, 1, 2], 0, 1))
    force.setName("a<b>\"c\"&'d'")
    return force


def test_pickles_in_hdf5_are_not_run(tmp_path, monkeypatch) -> None:
    """PyTables unpickles attributes; the root and the coordinates of this file have one that makes a folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "a"
    shutil.copytree(ROOT / "systems/butane", folder)
    shutil.copy(ROOT / "tests/data/frames.h5", folder / "a.h5")
    with open(folder / "system.toml", "a") as settings:
        settings.write('[reference]\ntrajectory = "a.h5"\n')
    assert load_reference(MolecularSystem.load(folder)).n == 3
    assert b"cposix\nmkdir" in (folder / "a.h5").read_bytes() and not (tmp_path / "trap").exists()


@pytest.mark.parametrize("tag", ["Script", "InitializationScript"])
def test_scripts_of_force_fields_are_not_run(tmp_path, tag) -> None:
    trap = tmp_path / "trap"
    script = f"<ForceField>\n <{tag}>import os; os.mkdir({str(trap)!r})</{tag}>\n</ForceField>"
    (tmp_path / "evil.xml").write_text(script)
    (tmp_path / "a.xml").write_text('<ForceField><Include file="evil.xml"/></ForceField>')
    for name in ("evil.xml", "a.xml"):
        with pytest.raises(ValueError, match=rf"line 2 of .*evil\.xml has a <{tag}>, which OpenMM would run"):
            MolecularSystem.from_pdb(ROOT / "systems/butane/input.pdb", ["amber96.xml", str(tmp_path / name)])
        assert not trap.exists()
    app.ForceField(str(tmp_path / "evil.xml")).createSystem(app.Topology())
    assert trap.exists()  # OpenMM would


def test_attributes_of_force_fields_are_not_evaluated(tmp_path) -> None:
    trap, path = tmp_path / "trap", tmp_path / "a.xml"
    code = f"__import__('os').mkdir({str(trap)!r})"
    path.write_text(f'<ForceField><NonbondedForce coulomb14scale="1" lj14scale="1" useDispersionCorrection="{code}"/>'
                    "</ForceField>")  # fmt: skip
    with pytest.raises(ValueError, match=r"True or False in line 1 of .*a\.xml"):
        read_forcefield([str(path)])
    assert not trap.exists()
    path.write_text('<ForceField><Include file="a.xml"/></ForceField>')
    with pytest.raises(ValueError, match="includes itself"):
        read_forcefield([str(path)])


def test_force_fields_of_openmm_may_have_scripts() -> None:
    """They came with the program that would run them."""
    assert "<Script>" in Path(app.__file__).with_name("data").joinpath("implicit/obc1.xml").read_text()
    assert isinstance(read_forcefield(["amber96.xml", "implicit/obc1.xml"]), app.ForceField)


def test_shipped_force_fields_have_no_scripts() -> None:
    for path in (ROOT / "systems").rglob("*.xml"):
        assert isinstance(read_forcefield([str(path)]), app.ForceField)


def test_butane_is_opls() -> None:
    """Against sums over pairs, geometric means and halves of 1-4 pairs: what the force field's comment says."""
    system = MolecularSystem.load("butane")
    n, carbon = system.n_atoms, np.array(system.elements) == "C"
    names = [atom.name for atom in system.topology.atoms()]
    charge = np.array([0.06 if e == "H" else -0.18 if a in ("C1", "C4") else -0.12 for a, e in zip(names, system.elements, strict=True)])  # noqa: E501 # fmt: skip
    sigma, epsilon = np.where(carbon, 0.35, 0.25), np.where(carbon, 0.066, 0.030) * 4.184
    apart = np.full((n, n), 99)
    np.fill_diagonal(apart, 0)
    for i, j in system.bonds:
        apart[i, j] = apart[j, i] = 1
    for k in range(n):
        apart = np.minimum(apart, apart[:, k, None] + apart[k])
    scale = np.where(apart > 3, 1.0, np.where(apart == 3, 0.5, 0.0))
    i, j = np.triu_indices(n, 1)
    rng = np.random.default_rng(0)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(_only_pairs(system.system), openmm.VerletIntegrator(0.001), platform)
    for _ in range(5):
        x = system.positions + rng.normal(scale=0.01, size=(n, 3))
        context.setPositions(x)
        r = np.linalg.norm(x[i] - x[j], axis=1)
        six = (sigma[i] * sigma[j] / r**2) ** 3
        energy = 4 * np.sqrt(epsilon[i] * epsilon[j]) * (six**2 - six) + 138.93545764438198 * charge[i] * charge[j] / r
        expected = float((scale[i, j] * energy).sum())
        got = context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        assert got == pytest.approx(expected, rel=1e-9)
    energy = reduced_energy(system)
    assert isinstance(energy, CompiledEnergy)
    check(energy, torch.from_numpy(system.positions + rng.normal(scale=0.01, size=(4, n, 3))))


def test_butane_is_the_same_molecule_in_every_process() -> None:
    """OpenMM numbers the kinds of atoms in its tables by the order of a set of text."""
    code = (
        "import hashlib, openmm; from openmm_fab import MolecularSystem; s = MolecularSystem.load('butane'); "
        "print(hashlib.sha256(openmm.XmlSerializer.serialize(s.system).encode()).hexdigest()); print(s.fingerprint)"
    )
    found = [
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True,
                       text=True, check=True).stdout.split()
        for seed in ("0", "1", "2")
    ]  # fmt: skip
    assert len({system for system, _ in found}) > 1  # else this shows nothing
    assert {print_ for _, print_ in found} == {MolecularSystem.load("butane").fingerprint}


def test_butane_runs_on_every_platform() -> None:
    system = MolecularSystem.load("butane")
    energies = []
    for name in ("Reference", "CPU"):
        context = openmm.Context(system.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(name))
        context.setPositions(system.positions)
        energies.append(context.getState(energy=True).getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole))
    assert energies[1] == pytest.approx(energies[0], abs=1e-3)


def _only_pairs(system: openmm.System) -> openmm.System:
    pairs = openmm.NonbondedForce | openmm.CustomNonbondedForce | openmm.CustomBondForce
    copy = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    for k in reversed(range(copy.getNumForces())):
        if not isinstance(copy.getForce(k), pairs):
            copy.removeForce(k)
    return copy


# --- TOML ---


def test_settings_are_data(tmp_path) -> None:
    """Text that looks like code stays text, and is refused where a number is asked for."""
    for text in ("temperature = \"__import__('os').abort()\"", "temperature = [1]", 'constraints = ["HBonds"]'):
        (tmp_path / "system.toml").write_text(f'pdb = "a.pdb"\n{text}\n')
        assert tomllib.loads(text)
        with pytest.raises(ValueError, match=r"system\.toml: expected (temperature|constraints) to be"):
            MolecularSystem.load(tmp_path)
