"""The trained generator that a shipped molecule brings along."""

from __future__ import annotations

from pathlib import Path

import torch

from .generator import BoltzmannGenerator
from .system import MolecularSystem, available_systems


def load_pretrained(system: MolecularSystem | str | Path, device: str | torch.device = "cpu") -> BoltzmannGenerator:
    """The generator that lies beside a system's PDB file, ready to sample.

    ``[pretrained]`` in its system.toml names a `model`, a file written by `BoltzmannGenerator.save`.

    Parameters
    ----------
    system : MolecularSystem, or the folder or name that `MolecularSystem.load` takes
    device : str or torch.device
        Where it computes, see `BoltzmannGenerator`.

    Raises
    ------
    ValueError
        The system brings none, or one of another molecule, force field or temperature.
    """
    molecule = system if isinstance(system, MolecularSystem) else MolecularSystem.load(system)
    table = molecule.settings.get("pretrained")
    if not table or molecule.folder is None:
        raise ValueError(
            f"Expected a system with a pretrained generator; {molecule.name} has none. "
            f"Train one with BoltzmannGenerator(system).train(), read one with BoltzmannGenerator.load (--run in a "
            f"shell), or take one of {_with_model()}."
        )
    return BoltzmannGenerator.load(molecule.folder / table["model"], molecule, device=device)


def _with_model() -> list[str]:
    return [name for name in available_systems() if MolecularSystem.load(name).settings.get("pretrained")]
