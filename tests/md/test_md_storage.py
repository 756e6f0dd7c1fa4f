"""The storage of a replica exchange is looked at before openmmtools reads it, as that would run what it says."""

from __future__ import annotations

import base64
import contextlib
import pickle
import re
import shutil
import zlib
from pathlib import Path

import openmm
import pytest
from examples import chain

from openmm_fab.md.reference import run_reference
from openmm_fab.md.storage import check_storage
from openmm_fab.molecule.system import MolecularSystem

multistate = pytest.importorskip("openmmtools.multistate")
netCDF4 = pytest.importorskip("netCDF4")
pytestmark = pytest.mark.filterwarnings("ignore:The slowest torsion stays correlated:UserWarning")

SHORT: dict = dict(
    method="replica-exchange", platform="Reference", progress=False, temperatures=2, max_temperature=400.0,
    time_ps=0.05, equilibration_ps=0.01, frame_ps=0.01,
)  # fmt: skip


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.mkdir, (self.path,))


@pytest.fixture(scope="module")
def beads(tmp_path_factory) -> MolecularSystem:
    return chain(tmp_path_factory.mktemp("beads"))


@pytest.fixture(scope="module")
def run(beads, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    run_reference(beads, folder=folder, **SHORT)
    return folder


def _state(packed: str) -> str:
    return (
        "_serialized__class_name: ThermodynamicState\n_serialized__module_name: openmmtools.states\npressure: null\n"
        f"surface_tension: null\ntemperature: !Quantity {{unit: kelvin, value: 300.0}}\nstandard_system: {packed}\n"
    )


def _xml(beads: MolecularSystem, trap: Path | None) -> str:
    text = openmm.XmlSerializer.serialize(beads.system)
    if trap is None:
        return text
    code = pickle.dumps(Trap(trap)).hex()
    force = f'<Force forceGroup="0" function="{code}" name="a" type="PythonForce" usesPeriodic="0" version="2">'
    return text.replace("<Forces>", f"<Forces>{force}<GlobalParameters/><Particles/></Force>")


def _packed(xml: str) -> str:
    return f"!!binary {base64.b64encode(zlib.compress(xml.encode())).decode()}"


# By what is wrong: the text of one more state, from (the molecule, the trap's path), and what is said to it.
TEXTS = {
    "a packed System": (lambda b, t: _state(_packed(_xml(b, t))), "PythonForce, whose function"),
    "a System as text": (lambda b, t: _state(repr(_xml(b, t)).replace("\\n", "").replace("\\t", " ")), "PythonForce"),
    "a call": (lambda b, t: f"a: !!python/object/apply:os.mkdir [{t}]\n", "something that openmmtools may run"),
    "a call within": (lambda b, t: _state(f"!Quantity {{unit: !!python/object/apply:os.mkdir [{t}]}}"), "may run"),
    "another class": (
        lambda b, t: "_serialized__class_name: Trap\n_serialized__module_name: test_md_storage\n", 
        "got test_md_storage.Trap",
    ),
    "no YAML": (lambda b, t: "a: [", "something that openmmtools may run"),
    "no packed System": (lambda b, t: _state("!!binary aGVsbG8="), "Expected a packed System"),
}  # fmt: skip


@pytest.mark.parametrize("what", TEXTS)
def test_storages_that_would_run_are_refused(beads, run, tmp_path, what) -> None:
    folder, trap = tmp_path / "run", tmp_path / "trap"
    shutil.copytree(run, folder)
    text, said = TEXTS[what]
    with netCDF4.Dataset(folder / "replicas.nc", "a") as file:
        file["thermodynamic_states"].createVariable("state2", str, ("scalar",))[0] = text(beads, trap)
    where = r"thermodynamic_states/state2 of .*replicas\.nc"
    with pytest.raises(ValueError, match=rf"(?s)(?=.*{re.escape(said)}).*{where}"):
        run_reference(beads, folder=folder, resume=True, **SHORT)
    assert not trap.exists()
    if what.startswith("a "):
        with contextlib.suppress(Exception):
            reporter = multistate.MultiStateReporter(str(folder / "replicas.nc"), open_mode="r", checkpoint_interval=1)
            reporter.read_thermodynamic_states()
        assert trap.exists()  # openmmtools would


def test_storages_of_ours_are_read(beads, run, tmp_path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    check_storage(folder / "replicas.nc")
    with netCDF4.Dataset(folder / "replicas.nc", "a") as file:
        file["thermodynamic_states"].createVariable("state2", str, ("scalar",))[0] = _state(_packed(_xml(beads, None)))
    check_storage(folder / "replicas.nc")
    (folder / "replicas.nc").write_bytes(b"no NetCDF")
    with pytest.raises(ValueError, match=r"Expected a replica exchange by openmmtools in .*replicas\.nc"):
        check_storage(folder / "replicas.nc")
