"""openmm-fab prepare."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from .common import ForcefieldOption, errors_in_words
from .source import required

FileArgument = Annotated[Path, typer.Argument(help="PDB or PDBx/mmCIF file.")]
OutOption = Annotated[Path | None, typer.Option(help="Correct what is safe, and write here; ends in .pdb or .cif.")]
FixOption = Annotated[
    list[str] | None,
    typer.Option("--fix", help="Correct this kind of problem, or 'safe': all that keep the formula. Repeatable."),
]
PHOption = Annotated[float, typer.Option("--ph", help="Decides the protonation of residues that lack hydrogens.")]


def prepare(
    file: FileArgument,
    out: OutOption = None,
    forcefield: ForcefieldOption = None,
    fix: FixOption = None,
    ph: PHOption = 7.0,
) -> None:
    """List what a structure file lacks for a force field; with --out, correct it. The file itself stays as it is.

    What would change the formula by more than hydrogens (solvent, other molecules, modified residues, missing heavy
    atoms) is changed only where --fix names it.

    \b
    Examples:
      openmm-fab prepare my.pdb --forcefield amber14-all.xml --forcefield implicit/gbn2.xml
      openmm-fab prepare my.pdb --forcefield amber14-all.xml --forcefield implicit/gbn2.xml --out fixed.pdb
      openmm-fab prepare my.pdb --forcefield charmm36.xml --out fixed.pdb --fix safe --fix "solvent and ions" --ph 4.5
    """
    with errors_in_words():
        from ..preparation.findings import find_problems

        if fix and out is None:
            raise ValueError("Expected --out with --fix: name the file to write.")
        if out is not None and out.exists():
            raise ValueError(f"Expected a new file to write; {out} exists. Move it, or name another with --out.")
        found = find_problems(file, required(forcefield))
        typer.echo(str(found))
        options = shlex.join([part for name in forcefield or [] for part in ("--forcefield", name)])
        if out is None:
            command = f"openmm-fab prepare {file} --out fixed{file.suffix} {options}".rstrip()
            if set(found.kinds) - set(found.asked):
                typer.echo(f"In a shell: {command}")
            if found.asked:
                kinds = shlex.join([part for kind in ("safe", *found.asked) for part in ("--fix", kind)])
                typer.echo(f"With another formula: {command} {kinds}")
            return
        mended = found.fix(fix or "safe", ph)
        mended.write(out)
    typer.echo(f"{mended}\nWritten: {out}")
    if not mended.left:
        typer.echo(f"Next: openmm-fab run {out} --dry-run {options}".rstrip())
