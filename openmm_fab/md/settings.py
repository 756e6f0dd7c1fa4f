"""Settings of the methods of `run_reference`, one frozen dataclass for each, saved beside the frames."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from ..tools.fields import Fields, check_fields, updated

Torsion = str | tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class MethodSettings(Fields):
    """Base of all settings: the method's name, and which settings a resumed run may increase."""

    name: ClassVar[str] = ""
    may_grow: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, kw_only=True)
class Settings(MethodSettings):
    """Lengths, time step and friction of molecular dynamics.

    Parameters
    ----------
    time_ps : float, ps
        Production of each walker (replica); a resumed run may have more.
    equilibration_ps : float, ps
        Dropped before it.
    frame_ps : float, ps
        Between frames that are kept.
    step_fs : float, fs, or None
        None: 2 with constraints or `hydrogen_mass`, else 1.
    friction : float, 1/ps
    """

    may_grow: ClassVar[tuple[str, ...]] = ("time_ps",)

    time_ps: float = 1000.0
    equilibration_ps: float = 50.0
    frame_ps: float = 1.0
    step_fs: float | None = None
    friction: float = 1.0

    def __post_init__(self) -> None:
        check_fields(self, positive=("time_ps", "frame_ps", "step_fs"), at_least={"equilibration_ps": 0, "friction": 0})

    def step_ps(self, rigid: bool) -> float:
        """Time step, ps; `rigid`: there are constraints or heavy hydrogens."""
        return (self.step_fs if self.step_fs is not None else 2.0 if rigid else 1.0) / 1000.0


@dataclass(frozen=True, kw_only=True)
class LangevinSettings(Settings):
    """Settings of one trajectory with OpenMM's LangevinMiddleIntegrator.

    Parameters
    ----------
    platform : str or None
        Name of OpenMM's platform; None: the fastest.
    properties : dict of str to str, optional
        Of the platform: {"Threads": "1"}.
    """

    name: ClassVar[str] = "langevin"
    platform: str | None = None
    properties: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class OPESSettings(LangevinSettings):
    """Settings of OPES by openmm-opes: one trajectory, a bias that is built of kernels, then production under it.

    Parameters
    ----------
    torsions : sequence of names or of four atoms, one or two of them, or None
        None: the first phi and psi, else the first rotatable bond.
    barrier : float, kT
        The free-energy barrier to cross, at least; the bias is no deeper than this.
    build_ps : float, ps
        While the bias is built; then `equilibration_ps` under it, dropped, and production.
    kernel_ps : float, ps
        Between kernels.
    kernel_width : float, rad
        Of the first kernels: the standard deviation of the torsion within a basin, or less.
    bias_factor : float, or None
        F is lowered to F / bias_factor along the torsions; None: the barrier in kT.
    """

    name: ClassVar[str] = "opes"
    torsions: Sequence[Torsion] | None = None
    barrier: float = 12.0
    build_ps: float = 500.0
    kernel_ps: float = 0.5
    kernel_width: float = 0.15
    bias_factor: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, positive=("kernel_width",), at_least={"build_ps": 0})
        if not self.barrier > 1.0 or not (self.bias_factor is None or 1.0 < self.bias_factor < math.inf):
            raise ValueError(
                f"Expected a barrier > 1 kT and a finite bias_factor > 1; got {self.barrier} and {self.bias_factor}."
            )
        _shorter_than_a_frame(self, "kernel_ps")


@dataclass(frozen=True, kw_only=True)
class ReplicaExchangeSettings(LangevinSettings):
    """Settings of parallel tempering with openmmtools.

    Parameters
    ----------
    frame_ps : float, ps
        Between frames, and attempts to exchange: often, for what is found at the top of the ladder has to cool down
        before it falls back.
    temperatures : int
        From the system's to `max_temperature` (K), in geometric order.
    reweight : bool
        Frames of all temperatures, with MBAR weights; False: those at the system's temperature only.
    """

    name: ClassVar[str] = "replica-exchange"
    frame_ps: float = 0.2
    temperatures: int = 6
    max_temperature: float = 500.0
    reweight: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, positive=("max_temperature",), at_least={"temperatures": 2})


@dataclass(frozen=True, kw_only=True)
class WalkersSettings(Settings):
    """Settings of independent walkers on the compiled energy.

    Parameters
    ----------
    walkers : int
    hydrogen_mass : float, dalton, or None
        Hydrogens of this mass, taken from the atom they are bonded to; the equilibrium stays the same.
    precision : "mixed", "single" or "double"
        "mixed": energies in float32, positions and velocities in float64.
    device : str
    compile : bool
        On a GPU, fuse the energy with torch.compile, which takes a while and then is several times faster.
    """

    name: ClassVar[str] = "walkers"
    walkers: int = 256
    hydrogen_mass: float | None = None
    precision: Literal["mixed", "single", "double"] = "mixed"
    device: str = "cpu"
    compile: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, positive=("hydrogen_mass",), at_least={"walkers": 1})


@dataclass(frozen=True, kw_only=True)
class WalkersExchangeSettings(WalkersSettings):
    """Settings of parallel tempering with many independent ladders of walkers.

    Parameters
    ----------
    walkers : int
        Ladders times `temperatures`.
    temperatures : int
        From the system's to `max_temperature` (K), in geometric order.
    exchange_ps : float, ps
        Between attempts, of even and odd neighbours in turn.
    reweight : bool
        Frames of all temperatures, with MBAR weights; False: those at the system's temperature only, which are worth
        less and take 1 / `temperatures` of the memory.
    """

    name: ClassVar[str] = "walkers-exchange"
    temperatures: int = 8
    max_temperature: float = 600.0
    exchange_ps: float = 0.2
    reweight: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, positive=("max_temperature",), at_least={"temperatures": 2})
        if self.walkers % self.temperatures:
            raise ValueError(
                f"Expected walkers in whole ladders of {self.temperatures} temperatures; got {self.walkers} walkers."
            )
        _shorter_than_a_frame(self, "exchange_ps")


@dataclass(frozen=True, kw_only=True)
class MetadynamicsSettings(WalkersSettings):
    """Settings of well-tempered metadynamics with a bias shared by all walkers, then production with a fixed bias.

    Parameters
    ----------
    torsions : sequence of names or of four atoms, one or two of them, or None
        None: the first phi and psi, else the first rotatable bond.
    build_ps : float, ps
        Of each walker, while the bias grows.
    hill_ps : float, ps
        Between deposits.
    hill_height : float, kT
        Of all walkers' hills of one deposit together.
    hill_width : float, rad
    bias_factor : float
        F is lowered to F / bias_factor along the torsions.
    """

    name: ClassVar[str] = "metadynamics"
    torsions: Sequence[Torsion] | None = None
    walkers: int = 64
    build_ps: float = 200.0
    hill_ps: float = 0.2
    hill_height: float = 0.6
    hill_width: float = 0.3
    bias_factor: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, at_least={"build_ps": 0})
        if not self.bias_factor > 1.0 or not self.hill_height > 0.0 or not 0.05 <= self.hill_width <= 2.0:
            raise ValueError(
                "Expected bias_factor > 1, hill_height > 0 kT and 0.05 <= hill_width <= 2 rad; got "
                f"{self.bias_factor}, {self.hill_height} and {self.hill_width}."
            )
        _shorter_than_a_frame(self, "hill_ps")


@dataclass(frozen=True, kw_only=True)
class HybridSettings(MethodSettings):
    """Settings of Markov chains with flow proposals and Hamiltonian Monte Carlo in internal coordinates.

    Both moves are Metropolised, so there is no time step whose error would stay.

    Parameters
    ----------
    walkers : int
    sweeps : int
        Of production; each proposes a flow sample to every walker. A resumed run may have more.
    burn_in : int
        Sweeps dropped before it; the step size is adapted there.
    frame_every : int
        Sweeps from one kept frame to the next.
    walk_every : int
        Sweeps from one trajectory of Hamiltonian Monte Carlo to the next: it brings walkers to where the flow has
        next to no density, and away from there.
    leapfrogs : int
    step_size : float
        The first, in units of z.
    """

    name: ClassVar[str] = "hybrid"
    may_grow: ClassVar[tuple[str, ...]] = ("sweeps",)

    walkers: int = 1024
    sweeps: int = 500
    burn_in: int = 50
    frame_every: int = 5
    walk_every: int = 1
    leapfrogs: int = 5
    step_size: float = 0.1

    def __post_init__(self) -> None:
        ones = dict.fromkeys(("walkers", "sweeps", "frame_every", "walk_every", "leapfrogs"), 1)
        check_fields(self, positive=("step_size",), at_least={**ones, "burn_in": 0})


METHODS: dict[str, type[MethodSettings]] = {
    kind.name: kind
    for kind in (
        LangevinSettings,
        ReplicaExchangeSettings,
        WalkersSettings,
        WalkersExchangeSettings,
        MetadynamicsSettings,
        OPESSettings,
        HybridSettings,
    )
}


def settings_of(method: str | MethodSettings, given: Mapping[str, Any]) -> MethodSettings:
    """Make the settings of a method by its name.

    Raises
    ------
    ValueError
        Unknown method, settings that it does not have, or values it cannot use.
    """
    if isinstance(method, MethodSettings):
        return updated(method, given, f"the settings of {method.name!r}")
    if method not in METHODS:
        raise ValueError(f"Expected a method out of {sorted(METHODS)}; got {method!r}.")
    known = [field.name for field in fields(METHODS[method])]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"Expected settings of {method!r} out of {known}; got {unknown}.")
    return METHODS[method](**given)


def _shorter_than_a_frame(settings: Any, key: str) -> None:
    value, frame = getattr(settings, key), settings.frame_ps
    if not value > 0.0 or value > frame * (1 + 1e-9) or abs(frame / value - round(frame / value)) > 1e-6:
        raise ValueError(f"Expected frame_ps to be a multiple of {key}; got frame_ps {frame} and {key} {value}.")
