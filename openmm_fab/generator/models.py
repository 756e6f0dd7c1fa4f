"""A trained generator as a file: flow, coordinates, settings, and the fingerprint of the molecule that they are of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from ..coordinates.internal import InternalCoordinates
from ..flow.base import TrainableFlow
from ..flow.coupling import CouplingFlow
from ..molecule.stereo import inverted_centres, stereocentres
from ..molecule.system import MolecularSystem
from ..target import Coordinates
from ..tools.files import write_atomically
from .settings import GeneratorSettings

if TYPE_CHECKING:
    from .generator import BoltzmannGenerator


MODEL_FORMAT = "openmm_fab model 2"


def write(generator: BoltzmannGenerator, path: str | Path, half: bool) -> Path:
    """See `BoltzmannGenerator.save`."""
    weights = generator.flow.state_dict()
    if half:
        weights = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
    tensors = {f"flow.{k}": v for k, v in weights.items()}
    foreign = [] if isinstance(generator.flow, CouplingFlow) else ["flow"]
    if isinstance(generator.coordinates, InternalCoordinates):
        tensors |= {f"coordinates.{k}": v for k, v in generator.coordinates.to_tensors().items()}
    else:
        foreign.append("coordinates")
    header = {
        "format": MODEL_FORMAT,
        "settings": json.dumps(asdict(generator.settings)),
        "system": generator.system.name,
        "fingerprint": generator.system.fingerprint,
        "seed": str(generator.seed),
        "foreign": " ".join(foreign),
        "marks": json.dumps(generator.target.fingerprint.tolist()),
    }
    data = to_safetensors({k: v.detach().clone().contiguous() for k, v in tensors.items()}, header)
    return write_atomically(path, lambda file: file.write(data))


def read(
    kind: type[BoltzmannGenerator],
    path: str | Path,
    system: MolecularSystem,
    coordinates: Coordinates | None,
    flow: TrainableFlow | None,
    device: str | torch.device,
    energy: Callable[[Tensor], Tensor] | None,
) -> BoltzmannGenerator:
    """See `BoltzmannGenerator.load`."""
    try:
        with safe_open(str(path), framework="pt") as file:
            header, tensors = file.metadata() or {}, {k: file.get_tensor(k) for k in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"Expected a model file written by BoltzmannGenerator.save at {path}; {error}.") from error
    if header.get("format") != MODEL_FORMAT:
        raise ValueError(
            f"Expected a file of format {MODEL_FORMAT!r} at {path}; got {header.get('format')!r}. Load it with the "
            "version that wrote it, or train anew."
        )
    if header["fingerprint"] != system.fingerprint:
        raise ValueError(
            f"Expected a model of this molecule, force field and temperature ({system.name}); {path} was trained "
            f"for another one ({header['system']}). Load it with the system it was trained with."
        )
    given = {name for name, part in (("coordinates", coordinates), ("flow", flow)) if part is not None}
    foreign = set(header.get("foreign", "").split())
    if given != foreign:
        raise ValueError(
            f"Expected {sorted(foreign) or 'neither coordinates nor flow'} of another library, as {path} was made "
            f"with; got {sorted(given) or 'none'}. Pass BoltzmannGenerator.load what the model was made with."
        )
    if coordinates is None:
        coordinates = own = InternalCoordinates.from_tensors(_below("coordinates.", tensors))
        own.system = system
        _refuse_other_hands(path, own, system)
    settings = GeneratorSettings.from_dict(json.loads(header["settings"]))
    generator = kind(system, settings, int(header["seed"]), energy, coordinates, flow, device)
    try:
        generator.flow.load_state_dict(_below("flow.", tensors))
    except RuntimeError as error:
        raise ValueError(f"Expected a flow of the shape that {path} was made with; {error}") from error
    if "marks" in header and not generator.target.matches(marks := torch.tensor(json.loads(header["marks"]))):
        raise ValueError(
            f"Expected the energy and coordinates that {path} was made with, which at a few points give log p = "
            f"{marks.tolist()}; got {generator.target.fingerprint.tolist()}. Pass BoltzmannGenerator.load what "
            "it was made with."
        )
    return generator


def _refuse_other_hands(path: str | Path, coordinates: InternalCoordinates, system: MolecularSystem) -> None:
    """Mirror images have the same bonds and force field."""
    x, _ = coordinates.to_cartesian(torch.zeros(1, coordinates.dim, dtype=torch.float64))
    inverted = inverted_centres(x.numpy(), stereocentres(system.graph), system.positions)
    atoms = list(system.md_topology.atoms)
    if wrong := [str(atoms[i]) for i, share in inverted.items() if share]:
        raise ValueError(
            f"Expected a model of this stereoisomer of {system.name}; that of {path} has the other hand at "
            f"{', '.join(wrong)}. Load it with the structure it was trained with."
        )


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
