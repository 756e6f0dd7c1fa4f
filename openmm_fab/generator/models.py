"""Model files: tensors of a flow and its coordinates, with settings and the fingerprint of the molecule."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ..coordinates.internal import InternalCoordinates
from ..flow.base import TrainableFlow
from ..flow.coupling import CouplingFlow
from ..molecule.stereo import inverted_centres, stereocentres
from ..molecule.system import MolecularSystem
from ..target import Coordinates, Target
from ..tools.files import check_format, write_atomically
from .settings import GeneratorSettings

MODEL_FORMAT = "openmm_fab model 4"


@dataclass(frozen=True)
class Model:
    """Content of a model file.

    Attributes
    ----------
    path : path
    settings : GeneratorSettings
    seed : int
    coordinates : InternalCoordinates or None
        None if the model was made with those of another library.
    flow : dict of str to Tensor
        The flow's state.
    fingerprint : Tensor or None
        log p of the target at a few points, see `Target.fingerprint`; files of an early version have none.
    """

    path: str | Path
    settings: GeneratorSettings
    seed: int
    coordinates: InternalCoordinates | None
    flow: dict[str, Tensor]
    fingerprint: Tensor | None

    def restore(self, flow: TrainableFlow, target: Target) -> None:
        """Load the weights into a flow, and check that the target is the one that the model was made for.

        Raises
        ------
        ValueError
            If the flow has another shape, or the energy or the coordinates give other densities.
        """
        try:
            flow.load_state_dict(self.flow)
        except RuntimeError as error:
            raise ValueError(f"Expected a flow of the shape that {self.path} was made with; {error}") from error
        if self.fingerprint is not None and not target.matches(self.fingerprint):
            raise ValueError(
                f"Expected the energy and coordinates that {self.path} was made with, which at a few points give log p "
                f"= {self.fingerprint.tolist()}; got {target.fingerprint.tolist()}. Pass BoltzmannGenerator.load what "
                "it was made with."
            )


def write(
    path: str | Path,
    flow: TrainableFlow,
    coordinates: Coordinates,
    settings: GeneratorSettings,
    system: MolecularSystem,
    seed: int,
    fingerprint: Tensor,
    half: bool,
) -> Path:
    """Write a model file, see `BoltzmannGenerator.save`; returns its path.

    Parameters
    ----------
    fingerprint : Tensor
        Of the target, see `Target.fingerprint`.
    half : bool
        The flow's weights in float16.
    """
    weights = flow.state_dict()
    if half:
        weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    tensors = {f"flow.{k}": v for k, v in weights.items()}
    foreign = [] if isinstance(flow, CouplingFlow) else ["flow"]
    if isinstance(coordinates, InternalCoordinates):
        tensors |= {f"coordinates.{k}": v for k, v in coordinates.to_tensors().items()}
    else:
        foreign.append("coordinates")
    header = {
        "format": MODEL_FORMAT,
        "settings": json.dumps(settings.to_dict()),
        "system": system.name,
        "fingerprint": system.fingerprint,
        "temperature": repr(system.temperature),
        "seed": str(seed),
        "foreign": " ".join(foreign),
        "marks": json.dumps(fingerprint.tolist()),
    }
    data = to_safetensors({k: v.detach().clone().contiguous() for k, v in tensors.items()}, header)
    return write_atomically(path, lambda file: file.write(data))


def read(path: str | Path, system: MolecularSystem, own_coordinates: bool, own_flow: bool) -> Model:
    """Read a model file for this molecule; see `BoltzmannGenerator.load` for its errors.

    Parameters
    ----------
    own_coordinates, own_flow : bool
        Whether the file is to hold coordinates and a flow of this package, as against those of another library.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header, tensors = file.metadata() or {}, {k: file.get_tensor(k) for k in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"Expected a model file written by BoltzmannGenerator.save at {path}; {error}.") from error
    advice = "Load it with the version that wrote it, or train anew."
    check_format(header.get("format"), MODEL_FORMAT, "a file", path, advice)
    if header["fingerprint"] != system.fingerprint:
        kelvin = float(header.get("temperature", "nan"))
        if _only_the_temperature_differs(system, kelvin, header["fingerprint"]):
            raise ValueError(
                f"Expected a model of {system.name} at {system.temperature:g} K; {path} was trained at {kelvin:g} K. "
                "Load it with the system at that temperature; reweight_temperature carries its ensemble to another one."
            )
        raise ValueError(
            f"Expected a model of this molecule, force field and temperature ({system.name}, {system.temperature:g} "
            f"K); {path} was trained for another one ({header['system']}, {kelvin:g} K). Load it with the system it "
            "was trained with."
        )
    given = {name for name, own in (("coordinates", own_coordinates), ("flow", own_flow)) if not own}
    foreign = set(header.get("foreign", "").split())
    if given != foreign:
        raise ValueError(
            f"Expected {sorted(foreign) or 'neither coordinates nor flow'} of another library, as {path} was made "
            f"with; got {sorted(given) or 'none'}. Pass BoltzmannGenerator.load what the model was made with."
        )
    coordinates = None
    if own_coordinates:
        coordinates = InternalCoordinates.from_tensors(_below("coordinates.", tensors))
        coordinates.system = system
        _refuse_other_stereoisomer(path, coordinates, system)
    settings = GeneratorSettings.from_dict(json.loads(header["settings"]))
    fingerprint = torch.tensor(json.loads(header["marks"])) if "marks" in header else None
    return Model(path, settings, int(header["seed"]), coordinates, _below("flow.", tensors), fingerprint)


def _refuse_other_stereoisomer(path: str | Path, coordinates: InternalCoordinates, system: MolecularSystem) -> None:
    """Raise a ValueError if a stereocentre of the coordinates' structure has the other chirality than the system's.

    Mirror images have the same bonds and force field, so that the molecule's fingerprint does not tell.
    """
    inverted = inverted_centres(coordinates.structures(), stereocentres(system.graph), system.positions)
    atoms = list(system.md_topology.atoms)
    if wrong := [str(atoms[i]) for i, share in inverted.items() if share]:
        raise ValueError(
            f"Expected a model of this stereoisomer of {system.name}; that of {path} has the opposite chirality at "
            f"{', '.join(wrong)}. Load it with the structure it was trained with."
        )


def _only_the_temperature_differs(system: MolecularSystem, kelvin: float, fingerprint: str) -> bool:
    """Whether the fingerprint is that of the same molecule at kelvin."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # all was said when the system was made
        return kelvin > 0.0 and replace(system, temperature=kelvin).fingerprint == fingerprint


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors whose names begin with the prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
