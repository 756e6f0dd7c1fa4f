"""Settings of a generator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..coordinates.settings import CoordinateSettings
from ..flow.settings import FlowSettings
from ..tools.fields import Fields, check_fields, updated
from ..train.settings import TrainSettings
from .temperatures import in_order

# q(t) q(s | t): the torsions' own shape, then few splines and more affine layers for the stiff coordinates.
TORSIONS_FIRST = FlowSettings(layers=4, torsion_layers=6, affine_layers=8)


@dataclass(frozen=True, kw_only=True)
class GeneratorSettings(Fields):
    """Settings of a generator: of its coordinates, flow, training and regularised energy.

    Attributes
    ----------
    coordinates, flow, train
        Settings of the parts, or dictionaries of what differs from their defaults: `train={"batch": 512}`.
    energy_cut : float, kT
        In training, energies higher than this above thermal motion, which is dim / 2 over the minimum, count as dim
        times a logarithm; see `energy.regularization.regularize`.
    temperatures : sequence of float, K
        Two or more that one flow learns together, each a text or Quantity, too; in rising order after the checks. None
        for the system's own alone.
    """

    coordinates: CoordinateSettings = field(default_factory=CoordinateSettings)
    flow: FlowSettings = TORSIONS_FIRST
    train: TrainSettings = field(default_factory=TrainSettings)
    energy_cut: float = 70.0
    temperatures: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "temperatures", in_order(self.temperatures))

    @classmethod
    def of(cls, given: GeneratorSettings | Mapping[str, Any] | None) -> GeneratorSettings:
        """Make settings of nested dictionaries that change the defaults, as TOML files and --set give them.

        Raises
        ------
        ValueError
            Keys that do not exist; values of another type, or that a part refuses.
        """
        if isinstance(given, Mapping):
            return updated(cls(), given, "the settings")
        if not isinstance(given, cls | None):
            raise ValueError(f"Expected GeneratorSettings, or a dictionary of them; got {given!r}.")
        return given or cls()

    def to_dict(self) -> dict[str, Any]:
        """Settings by their names in files; see `TrainSettings.to_dict`."""
        return {**asdict(self), "train": self.train.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GeneratorSettings:
        """Make settings from the result of `to_dict`."""
        return cls(
            coordinates=CoordinateSettings(**values["coordinates"]),
            flow=FlowSettings(**{"torsion_layers": 0, "affine_layers": 0, **values["flow"]}),  # as files had none
            train=TrainSettings.from_dict(values["train"]),
            energy_cut=values["energy_cut"],
            temperatures=values.get("temperatures", ()),
        )
