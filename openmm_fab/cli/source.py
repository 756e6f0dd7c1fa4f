"""The molecule that a command line, or the [molecule] table of a file of settings, names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tools.fields import checked
from .common import digest, run_settings_of, warn_if_cold

if TYPE_CHECKING:
    from ..molecule.system import MolecularSystem


PDB, SDF = (".pdb", ".cif", ".mmcif", ".pdbx"), (".sdf", ".sd", ".mol")
AMBER, CHARMM, XML = (".prmtop", ".parm7"), (".psf",), (".xml",)
TOP = ".top"  # of GROMACS, or of Amber, whose files begin with %VERSION
SOLVENTS = {"gbn2": "GBn2", "obc2": "OBC2", "gbn": "GBn", "obc1": "OBC1", "hct": "HCT", "none": ""}
NO_FORCEFIELD = (
    "Expected --forcefield, which decides every energy and has no default. Of proteins and nucleic acids: "
    "--forcefield amber14-all.xml --forcefield implicit/gbn2.xml, or charmm36.xml in place of amber14-all.xml; "
    "amber96.xml and implicit/obc1.xml are those of the FAB paper. Of other molecules: files of your own. "
    "Without a file of implicit/ there is no solvent."
)


@dataclass(frozen=True)
class Source:
    """The SYSTEM argument and, for a file, its options: where a molecule comes from."""

    system: str
    forcefield: list[str] | None = None
    temperature: float | None = None
    positions: str | None = None
    solvent: str | None = None

    @classmethod
    def of(
        cls,
        system: str | None,
        forcefield: list[str] | None = None,
        temperature: str | None = None,
        positions: str | None = None,
        solvent: str | None = None,
        table: Mapping[str, Any] | None = None,
    ) -> Source:
        """Source of the molecule that a command line names, or else the [molecule] table of its settings.

        Raises
        ------
        ValueError
            Neither names one; keys that a [molecule] table does not have, or values of another type.
        """
        given: dict[str, Any] = {
            "forcefield": forcefield or None,
            "temperature": kelvin(temperature),
            "positions": positions,
            "solvent": solvent,
        }
        given = {key: value for key, value in given.items() if value is not None}
        if system is not None:
            return cls(system, **given)
        if not table or "system" not in table:
            raise ValueError(
                "Expected SYSTEM, the name of a molecule or a file, or --smiles; got neither, and no [molecule] table "
                "of a file of settings names one."
            )
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(table) - set(known)):
            raise ValueError(f"Expected keys out of {known} in [molecule]; got {unknown}.")
        return cls(**{**checked(cls, table, "[molecule]"), **given})

    def load(self) -> MolecularSystem:
        from ..molecule.system import MolecularSystem

        path, suffix = Path(self.system), Path(self.system).suffix.lower()
        is_file = path.is_file() and path.name != "system.toml"
        if not is_file and suffix not in (*PDB, *SDF, *AMBER, *CHARMM, *XML, TOP):
            if self._options:
                raise ValueError(
                    f"Expected {', '.join(self._options)} with a file of a molecule; got {self.system!r}, which says "
                    "them in its system.toml. Change them there, in a copy of the folder."
                )
            return MolecularSystem.load(self.system)
        if not path.is_file():
            raise ValueError(f"Expected a file at {path}; there is none (working directory {Path.cwd()}).")
        options: dict[str, Any] = {"temperature": 300.0 if self.temperature is None else self.temperature}
        warn_if_cold(options["temperature"])
        if suffix in SDF:
            self._refuse("positions", why="an SDF file has its positions")
            options |= {"forcefield": self.forcefield} if self.forcefield else {}
            return MolecularSystem.from_sdf(self.system, solvent=self.solvent, **options)
        if suffix in PDB:
            self._refuse("positions", "solvent", why="a PDB file has its positions, and --forcefield names its solvent")
            return MolecularSystem.from_pdb(self.system, required(self.forcefield), **options)
        amber = suffix in AMBER or (suffix == TOP and path.is_file() and _begins(path, "%VERSION"))
        if not amber and suffix not in (*CHARMM, *XML, TOP):
            raise ValueError(
                f"Expected a file of a molecule ({', '.join((*PDB, *SDF, *AMBER, *CHARMM, TOP, *XML))}), or a folder "
                f"with a system.toml; got the file {self.system}. What OpenMM, openmmforcefields or OpenFF has made of "
                "others is read in Python, MolecularSystem.from_openmm, or here as XML of openmm.XmlSerializer."
            )
        if self.positions is None:
            raise ValueError(f"Expected --positions with {self.system}: a file that says where its atoms are.")
        if suffix in CHARMM:
            if not self.forcefield:
                raise ValueError(f"Expected --forcefield with {self.system}: CHARMM's rtf, prm and str files.")
            return MolecularSystem.from_charmm(
                self.system, self.positions, self.forcefield, **options, **self._implicit()
            )
        self._refuse("forcefield", why=f"{path.name} holds its parameters")
        if amber:
            return MolecularSystem.from_amber(self.system, self.positions, **options, **self._implicit())
        self._refuse("solvent", why=f"{path.name} says all that there is of it")
        read = MolecularSystem.from_xml if suffix in XML else MolecularSystem.from_gromacs
        return read(self.system, self.positions, **options)

    def as_in(self, run: Path) -> Source:
        """This source with the options of a run of the same file, if none is given; of a small molecule, its folder."""
        source = run_settings_of(run).get("source") or {}
        file, kept = Path(self.system), Path(source.get("system", ""))
        if self._options or not file.is_file():
            return self
        if f"-{digest(file)}-" in kept.name and (kept / "system.toml").exists():
            return Source(str(kept))
        if source.get("system") != str(file.resolve()):
            return self
        return replace(Source(**source), system=self.system)

    def absolute(self) -> dict[str, Any]:
        """Fields with absolute paths, which are valid from any folder."""
        values = asdict(self)
        for key in ("system", "positions"):
            values[key] = values[key] and _absolute(values[key])
        values["forcefield"] = [_absolute(name) for name in self.forcefield] if self.forcefield else None
        return values

    @property
    def _options(self) -> list[str]:
        """Options that are given."""
        return [f"--{f.name}" for f in fields(self)[1:] if getattr(self, f.name) is not None]

    def _refuse(self, *names: str, why: str) -> None:
        if given := [f"--{name}" for name in names if getattr(self, name) is not None]:
            raise ValueError(f"Expected no {' or '.join(given)} with {self.system}: {why}.")

    def _implicit(self) -> dict[str, Any]:
        from openmm import app

        chosen = "none" if self.solvent is None else self.solvent.lower()
        if chosen not in SOLVENTS:
            raise ValueError(f"Expected --solvent out of {', '.join(SOLVENTS)}; got {self.solvent!r}.")
        return {"implicitSolvent": getattr(app, SOLVENTS[chosen])} if SOLVENTS[chosen] else {}


def required(forcefield: list[str] | None) -> list[str]:
    """The values of --forcefield; without one a ValueError that lists what could be meant."""
    if not forcefield:
        raise ValueError(NO_FORCEFIELD)
    return forcefield


def kelvin(text: str | None) -> float | None:
    """The value of --temperature, in K."""
    if text is None:
        return None
    try:
        return float(text.strip().removesuffix("K"))
    except ValueError:
        raise ValueError(f"Expected --temperature in K, such as 300; got {text!r}.") from None


def kelvins(text: str | None) -> list[float] | None:
    """The values of --temperatures, in K."""
    if text is None:
        return None
    try:
        return [float(part.strip().removesuffix("K")) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"Expected --temperatures in K, such as 300,400,600; got {text!r}.") from None


def _absolute(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).exists() else name


def _begins(path: Path, mark: str) -> bool:
    with open(path, encoding="utf-8", errors="replace") as lines:
        return lines.readline().startswith(mark)
