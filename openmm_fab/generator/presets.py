"""Named settings of a whole run, for kinds of machines."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..molecule.folders import available_systems, find_folder, read_settings
from ..molecule.system import MolecularSystem
from ..tools.fields import check_fields
from ..train.settings import TrainSettings
from .generator import BoltzmannGenerator
from .settings import TORSIONS_FIRST, GeneratorSettings


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings of a run.

    Attributes
    ----------
    minutes : float
        Training time; set-up does not count.
    samples : int
        Flow samples in the final ensemble.
    settings : GeneratorSettings
    """

    minutes: float
    samples: int
    settings: GeneratorSettings = field(default_factory=GeneratorSettings)

    def __post_init__(self) -> None:
        check_fields(self, positive=("minutes",), at_least={"samples": 1})


class _Presets(dict[str, Preset]):
    """Presets by name; the error for an unknown name lists them."""

    def __missing__(self, name: str) -> Preset:
        raise KeyError(f"Expected a preset out of {sorted(self)}; got {name!r}.")


PRESETS: dict[str, Preset] = _Presets(
    {
        "smoke": Preset(
            minutes=1.2,
            samples=10_000,
            settings=GeneratorSettings(
                flow=replace(TORSIONS_FIRST, hidden=64),
                # Path gradients and long steps: quicker at first, which is all there is here.
                train=TrainSettings(
                    batch=128, updates=2, buffer_min=8, learning_rate=2e-3, path_gradient=0.7, path_above=0.0
                ),
            ),
        ),
        "laptop": Preset(minutes=18.0, samples=200_000),
        # A small batch would leave a GPU idle; a large one is worth longer steps of a larger flow.
        "gpu": Preset(
            minutes=5.0,
            samples=200_000,
            settings=GeneratorSettings(
                flow=replace(TORSIONS_FIRST, hidden=256),
                train=TrainSettings(batch=16384, updates=4, buffer_min=4, buffer_max=32, learning_rate=1e-3),
            ),
        ),
    }
)


def load_pretrained(system: MolecularSystem | str | Path, device: str | torch.device = "cpu") -> BoltzmannGenerator:
    """Load the trained generator that comes with a shipped molecule.

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
    return [n for n in available_systems() if read_settings(find_folder(n) / "system.toml").get("pretrained")]
