"""What coordinates keep fixed from the given structure, and what that may cost; it accompanies every ensemble."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..tools.tables import table

TITLE = "What was held fixed, and what that may cost"
UNKNOWN, NONE = "not known", "-"
COLUMNS = ("held", "where", "kept", "other side", "its energy / kT", "barrier / kT")
# By kind, in the order in which they are told: what is missing where it matters.
COSTS = {
    "peptide bond": "The other isomer is missing from every population here; before proline it often holds several "
    'percent. CoordinateSettings(omega="sample") samples both.',
    "stiff bond": "The other isomer is missing. Double bonds stay in MD, too; partial double bonds may turn in its "
    "time: CoordinateSettings(turning=...) names bonds that shall.",
    "stereocentre": "Nothing: the opposite chirality is the mirror image, or another compound. MD keeps it, too.",
    "pyramidal nitrogen": "The other side is missing. MD inverts most amines in its time, if not held by rings.",
    "ring pucker": "Higher minima are missing, and hold about as much weight as their energy says. Where none were "
    "looked for, other puckers are here only if training found them. CoordinateSettings(puckers=...) is the limit.",
    "large ring": "Closed by the energy alone: shapes far from those kept are missing.",
    "bond length": "Nothing beside MD with the same constraints.",
}
NO_STATE = ("stereocentre", "bond length")  # kinds whose other side is no state of the same molecule


@dataclass(frozen=True)
class Held:
    """One property that coordinates keep fixed.

    Parameters
    ----------
    kind : str
        A key of `COSTS`.
    where : str
        Names of atoms.
    kept, other : str
        The side that is sampled and the one that is not: "trans", "cis".
    energy : float, kT
        Of the other side's minimum, above that of the side kept; nan where it is not known.
    barrier : float, kT
        Between the two, above the minimum of the side kept; nan where it is not known.
    atoms : tuple of int
        Of the bond, the centre or the ring; empty where there are several.
    """

    kind: str
    where: str
    kept: str
    other: str
    energy: float = math.nan
    barrier: float = math.nan
    atoms: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in COSTS:
            raise ValueError(f"Expected a kind out of {list(COSTS)}; got {self.kind!r}.")

    @property
    def missing(self) -> float:
        """Estimated share of the weight of the other side, if both were equally wide; nan where its energy is
        unknown."""
        return 1.0 / (1.0 + math.exp(min(self.energy, 700.0)))

    @property
    def row(self) -> tuple[str, ...]:
        """Table cells in the order of `COLUMNS`."""
        energy = barrier = NONE if self.kind in NO_STATE else UNKNOWN
        if not math.isnan(self.energy):
            energy = f"{self.energy:.1f} (some {100 * self.missing:.2g} % of the weight)"
        if not math.isnan(self.barrier):
            barrier = f"{self.barrier:.0f}"
        return (self.kind, self.where, self.kept, self.other, energy, barrier)


def in_one_line(held: Sequence[Held]) -> str:
    """Summary in one line: "held fixed: 2 peptide bonds, 1 stereocentre"."""
    counts = {kind: sum(one.kind == kind for one in held) for kind in COSTS}
    found = [f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in counts.items() if n]
    return f"held fixed: {', '.join(found) or 'nothing'}"


def costs(held: Sequence[Held]) -> list[str]:
    """One sentence for each kind of property among `held`, with its possible cost."""
    kinds = {one.kind for one in held}
    return [f"{kind}: {cost}" for kind, cost in COSTS.items() if kind in kinds]


def in_full(held: Sequence[Held]) -> str:
    """Text with a title, a row for each property, and the possible cost of each kind."""
    if not held:
        return f"{TITLE}: nothing is held."
    return "\n".join([f"{TITLE}:", table(COLUMNS, [one.row for one in held]), *costs(held)])


def to_json(held: Sequence[Held]) -> str:
    return json.dumps([asdict(one) for one in held])


def from_json(text: str) -> tuple[Held, ...]:
    return tuple(Held(**{**one, "atoms": tuple(one.get("atoms", ()))}) for one in json.loads(text))
