"""Force fields: files of OpenMM's or of a user, read once they are known to run no code, or an app.ForceField."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from openmm import app

from .checks import residue_parts, some
from .names import residue_label, residue_run
from .openmm_private import residue_templates
from .options import OptionError
from .safe_xml import check_forcefield
from .structures import naming

Forcefield: TypeAlias = str | Path | Sequence[str | Path] | app.ForceField


NO_FORCEFIELD = (
    "Expected forcefield=..., which decides every energy and has no default. Of proteins and nucleic acids: "
    '["amber14-all.xml", "implicit/gbn2.xml"] or ["charmm36.xml", "implicit/gbn2.xml"]; openmm_fab.PAPER_FORCEFIELD, '
    "amber96 with OBC1, is that of the shipped alanine dipeptide. "
    "Of other molecules: files of your own, or an app.ForceField. Without a file of implicit/ there is no solvent."
)


def open_forcefield(forcefield: Forcefield | None) -> tuple[app.ForceField, list[str]]:
    """Force field, read from its files or as given, with its names, one for each file.

    Raises
    ------
    OptionError
        None is given: the message lists what could be meant.
    ValueError
        See `read_forcefield`.
    """
    if forcefield is None or (not isinstance(forcefield, app.ForceField) and not forcefield):
        raise OptionError(NO_FORCEFIELD)
    if isinstance(forcefield, app.ForceField):
        return forcefield, ["the ForceField given"]
    files = [str(forcefield)] if isinstance(forcefield, str | Path) else [str(file) for file in forcefield]
    return read_forcefield(files), files


def forcefield_in_words(forcefield: Forcefield | None) -> str:
    """The names of its files, without their folders but for OpenMM's own."""
    if forcefield is None or isinstance(forcefield, app.ForceField):
        return "an app.ForceField"
    files = [forcefield] if isinstance(forcefield, str | Path) else forcefield
    return ", ".join(Path(file).name if Path(file).is_file() else str(file) for file in files)


def choose_templates(
    field: app.ForceField, files: Sequence[str], topology: app.Topology, chosen: Mapping[Any, str]
) -> None:
    """Have the force field take named templates for residues ("ALA 2") and for whole molecules ("ACE-ALA-NME")."""
    if not chosen:
        return
    templates, residues = residue_templates(field), list(topology.residues())
    named = {key if isinstance(key, str) else residue_label(key): name for key, name in chosen.items()}
    known = {residue_label(residue) for residue in residues} | {residue_run(part) for part in residue_parts(topology)}
    unknown = [name for name in named.values() if name not in templates]
    missing = [key for key in named if key not in known]
    if unknown:
        raise OptionError(f"Expected residueTemplates out of {', '.join(files)}; it has no template {some(unknown)}.")
    if missing:
        raise OptionError(
            f"Expected residueTemplates for residues of the structure, or for its molecule; got {some(missing)}. "
            f"There are {some(sorted(known))}."
        )

    def choose(_: app.ForceField, residue: Any, *__: Any) -> Any:
        parts = getattr(residue, "residues", None)  # of a molecule that OpenMM tries as a whole
        name = named.get(residue_run(sorted(parts, key=lambda r: r.index)) if parts else residue_label(residue))
        return None if name is None else templates[name]

    field.registerTemplateMatcher(choose)


def read_forcefield(files: Sequence[str]) -> app.ForceField:
    """Read OpenMM force-field files; files that are not OpenMM's own may hold numbers and expressions, but no scripts.

    Raises
    ------
    ValueError
        A file that does not exist, is no force field, or holds a script or a document type.
    """
    for file in files:
        if Path(file).is_file():
            check_forcefield(Path(file))
    with naming(", ".join(map(str, files)), "force-field files"):
        try:
            return app.ForceField(*map(str, files))
        except ValueError as error:
            if "Could not locate file" in str(error):
                raise ValueError(f"{error}. {_nearest(files)}") from error
            raise


def _nearest(files: Sequence[str]) -> str:
    """Suggestions, from OpenMM's own force-field files, for names that do not exist."""
    folder = Path(app.__file__).parent / "data"
    shipped = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.xml"))
    unknown = [str(file) for file in files if not Path(file).is_file() and str(file) not in shipped]
    near = [name for file in unknown for name in difflib.get_close_matches(file, shipped, 3, 0.6)]
    if any(str(file).startswith(("openff-", "gaff-")) for file in unknown):
        return f"{unknown[0]} is for small molecules, from SDF or SMILES: MolecularSystem.from_sdf, from_smiles"
    common = [name for name in ("amber14-all.xml", "amber19-all.xml", "charmm36.xml") if name in shipped]
    return f"Of OpenMM's own there {'is' if len(near or common) == 1 else 'are'} {', '.join(near or common)}"
