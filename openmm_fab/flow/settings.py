"""Settings of the flow."""

from __future__ import annotations

from dataclasses import dataclass

from ..tools.fields import Fields, check_fields


@dataclass(frozen=True, kw_only=True)
class FlowSettings(Fields):
    """Architecture of the flow.

    Attributes
    ----------
    layers : int
        Coupling layers of splines; each pair moves every coordinate once.  Where torsions come first, these layers move
        the other coordinates, given the torsions.
    hidden : int
        Units in each of the two hidden layers of a conditioner.
    bins : int
        Bins of each spline.
    bound : float
        Splines of straight coordinates act on [-bound, bound] times scale.
    scale : float
        Unit of the straight coordinates: the base's standard deviation in them.
    resampled : bool
        The base learns where to keep its samples, see `flow.resampled`.
    torsion_layers : int
        0: every layer moves torsions and other coordinates alike.  Else the flow is q(t) q(s | t), t the circular and s
        the straight coordinates: so many layers of circular splines move t alone, and all others s given t.
    affine_layers : int
        Further layers that move s by a scale and a shift without a spline, the nearest to the data; a tenth of the
        arithmetic.  Only where torsions come first.
    """

    layers: int = 16
    hidden: int = 128
    bins: int = 8
    bound: float = 5.0
    scale: float = 1.0
    resampled: bool = False
    torsion_layers: int = 0
    affine_layers: int = 0

    def __post_init__(self) -> None:
        none = {"torsion_layers": 0, "affine_layers": 0}
        check_fields(self, positive=("bound", "scale"), at_least={"layers": 2, "hidden": 1, "bins": 2, **none})
        if self.layers % 2:
            raise ValueError(f"Expected an even number of layers; got {self.layers}.")
        if self.torsion_layers % 2 or self.affine_layers % 2:
            raise ValueError(f"Expected even numbers of torsion_layers and affine_layers, 0 or more; got {self}.")
        if self.affine_layers and not self.torsion_layers:
            raise ValueError(f"Expected torsion_layers >= 2 where there are affine_layers; got {self}.")
