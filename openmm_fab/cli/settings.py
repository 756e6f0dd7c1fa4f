"""Settings of a run: a preset, changed by a TOML file, then by the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tools.fields import checked_value, updated

if TYPE_CHECKING:
    from ..generator.settings import GeneratorSettings


WHOLE_RUN = {"preset": str, "minutes": float, "samples": int, "seed": int, "objective": str, "device": str}
WHOLE_RUN |= {"error": float, "at_most": float}  # kT, minutes: in place of minutes and samples
AT_MOST = 120.0  # minutes
MOLECULE = "molecule"  # table of a file of settings: the fields of `Source`
DEFAULT_PRESET, GPU_PRESET = "laptop", "gpu"


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run, and what its file of settings says of the molecule.

    The one place where the length of a run is decided: `minutes`, `samples` and `seed` are those of the command's flag
    (--samples), else of --set, else of the TOML file, else of the preset (`Preset.samples`); the seed is 0 otherwise.
    With an `error` (kT) it ends when that is reached, or after `at_most` minutes.
    """

    preset: str
    minutes: float
    samples: int
    seed: int
    settings: GeneratorSettings
    objective: str = "auto"
    device: str = "cpu"
    molecule: Mapping[str, Any] = field(default_factory=dict)
    error: float | None = None
    at_most: float = AT_MOST

    def to_dict(self) -> dict[str, Any]:
        """Settings by their names in a settings file, without the molecule."""
        left_out = ("error", "at_most") if self.error is None else ("minutes", "samples")
        return {key: getattr(self, key) for key in WHOLE_RUN if key not in left_out} | asdict(self.settings)


def run_settings(file: Path | None, assignments: Sequence[str] = (), **flags: Any) -> RunSettings:
    """Combine the settings of a preset, a TOML file, assignments, and flags that are not None, in this order.

    Parameters
    ----------
    assignments : sequence of str
        Values of --set, such as "train.batch=512".
    **flags
        preset, minutes, samples, seed, temperatures, objective, device, error and at_most of the command line; the
        device chooses the preset where none is named.

    Raises
    ------
    ValueError
        A file that is no TOML; keys that do not exist; values of another type or that a part refuses.
    """
    from ..generator.presets import PRESETS
    from ..train.settings import parse_minutes

    given = {} if file is None else read_toml(file)
    where = " and ".join([*([str(file)] if file else []), *(["--set"] if assignments else [])]) or "the settings"
    for key, value in parse_assignments(assignments, "train.batch=512").items():
        *tables, last = key.split(".")
        table = given
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise ValueError(f"Expected a table of settings before the dot in {key!r}; {name!r} is a value.")
        table[last] = value
    given |= {key: value for key, value in flags.items() if value is not None}
    whole = {key: given.pop(key) for key in WHOLE_RUN if key in given}
    molecule = given.pop(MOLECULE, {})
    if not isinstance(molecule, dict):
        raise ValueError(f"Expected a table [{MOLECULE}] in {where}; got {molecule!r}.")
    for key in ("minutes", "at_most"):
        if isinstance(text := whole.get(key), str):  # of --minutes, or of the file
            whole[key] = parse_minutes(float(text) if text.replace(".", "", 1).isdigit() else text)
    for key, value in whole.items():
        whole[key] = checked_value(value, WHOLE_RUN[key], key, where)
    if "error" in whole and (both := sorted({"minutes", "samples"} & whole.keys())):
        raise ValueError(
            f"Expected an error to reach, or {' and '.join(both)}; got both. An error takes at_most alone."
        )
    if "at_most" in whole and "error" not in whole:
        raise ValueError("Expected at_most with an error to reach; without one give minutes.")
    if not whole.get("error", 1.0) > 0.0:
        raise ValueError(f"Expected error > 0, in kT; got {whole['error']:g}.")
    device = whole.get("device", "cpu")
    preset = whole.get("preset", GPU_PRESET if device.startswith("cuda") else DEFAULT_PRESET)
    if preset not in PRESETS:
        raise ValueError(f"Expected a preset out of {sorted(PRESETS)}; got {preset!r}.")
    chosen = PRESETS[preset]
    samples = whole.get("samples", chosen.samples)
    if samples < 1:
        raise ValueError(f"Expected samples >= 1; got {samples}.")
    return RunSettings(
        preset,
        whole.get("minutes", chosen.minutes),
        samples,
        whole.get("seed", 0),
        updated(chosen.settings, given, where, also=(*WHOLE_RUN, MOLECULE)),
        whole.get("objective", "auto"),
        device,
        molecule,
        whole.get("error"),
        whole.get("at_most", AT_MOST),
    )


def read_toml(path: Path) -> dict[str, Any]:
    """Read the tables of a TOML file; raises ValueError if it is missing or invalid."""
    from ..tools.toml import tomllib

    if not path.is_file():
        raise ValueError(f"Expected a TOML file of settings at {path}; there is none.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected a TOML file of settings at {path}; {error}.") from error


def parse_assignments(assignments: Sequence[str], example: str) -> dict[str, Any]:
    """Parse assignments `key=value`, the value as in TOML; strings may omit their quotes."""
    from ..tools.toml import tomllib

    found: dict[str, Any] = {}
    for text in assignments:
        key, sign, value = (part.strip() for part in text.partition("="))
        if not sign or not key or not value:
            raise ValueError(f"Expected key=value, such as {example}; got {text!r}.")
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found
