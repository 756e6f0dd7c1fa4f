"""Settings of a run: preset, then TOML file, then command line; wrong keys and types are named."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import pytest

from openmm_fab.cli.settings import WHOLE_RUN, checked, parse_assignments, run_settings
from openmm_fab.generator.presets import PRESETS
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.md.settings import METHODS


def _file(folder: Path, text: str) -> Path:
    path = folder / "my.toml"
    path.write_text(text)
    return path


def test_each_layer_overrides_the_one_below(tmp_path) -> None:
    file = _file(
        tmp_path,
        'preset = "smoke"\nminutes = 3\nsamples = 70\nenergy_cut = 50\n[train]\nbatch = 32\n'
        "[train.ais]\nleapfrogs = 5\n",
    )
    found = run_settings(
        file, ["train.ais.alpha=2.5", "flow.layers=6", "coordinates.omega=trans"], minutes=4.0, seed=None
    )
    assert (found.preset, found.minutes, found.samples, found.seed) == ("smoke", 4.0, 70, 0)
    smoke = asdict(PRESETS["smoke"].settings)
    smoke["energy_cut"] = 50.0
    smoke["train"]["batch"] = 32
    smoke["train"]["ais"] |= {"leapfrogs": 5, "alpha": 2.5}
    smoke["flow"]["layers"] = 6
    smoke["coordinates"]["omega"] = "trans"
    assert asdict(found.settings) == smoke
    assert type(found.minutes) is type(found.settings.energy_cut) is float
    assert run_settings(None).settings == PRESETS["laptop"].settings
    assert run_settings(None, device="cuda:1").settings == PRESETS["gpu"].settings
    assert run_settings(None, device="cuda", preset="smoke").settings == PRESETS["smoke"].settings


@pytest.mark.parametrize(
    "text, words",
    [
        (
            "batch = 3",
            ("out of ['preset', 'minutes', 'samples', 'seed', 'coordinates', 'flow', 'train',", "got 'batch'"),
        ),
        ("[train]\nbatches = 3", ("'batch', 'updates'", "in [train] of", "got 'batches'")),
        ("[train.ais]\nsteps = 3", ("in [train.ais] of", "got 'steps'", "'leapfrogs'")),
        ("[flow]\nlayers = 'many'", ("Expected flow.layers in", "of type int", "'many'")),
        ("[flow]\nlayers = 2.5", ("of type int; got 2.5",)),
        ("[flow]\nlayers = true", ("of type int; got True",)),
        ("[coordinates]\nwhiten = 1", ("of type bool; got 1",)),
        ("flow = 3", ("Expected a table [flow]", "got 3")),
        ("[flow]\nlayers = 3", ("even number of layers",)),
        ("minutes = 'long'", ("minutes", "of type float")),
        ("preset = 'huge'", ("Expected a preset out of ['gpu', 'laptop', 'smoke']",)),
        ("samples = 0", ("samples >= 1",)),
        ("[flow", ("Expected a TOML file of settings",)),
    ],
)
def test_mistakes_are_named(tmp_path, text, words) -> None:
    with pytest.raises(ValueError) as error:
        run_settings(_file(tmp_path, text))
    assert all(word in str(error.value) for word in words), error.value


def test_no_file(tmp_path) -> None:
    with pytest.raises(ValueError, match="there is none"):
        run_settings(tmp_path / "nothing.toml")


def test_assignments() -> None:
    given = ["a=1", "b = 0.5", "c=true", "d=text", 'e="quoted text"', "f=[1, 2]", 'torsions=["phi ALA2"]']
    assert parse_assignments(given, "x=1") == {
        **{"a": 1, "b": 0.5, "c": True, "d": "text", "e": "quoted text", "f": [1, 2]},
        "torsions": ["phi ALA2"],
    }
    for wrong in ("a", "=1", "a="):
        with pytest.raises(ValueError, match="Expected key=value, such as x=1"):
            parse_assignments([wrong], "x=1")
    with pytest.raises(ValueError, match="'minutes' is a value"):
        run_settings(None, ["minutes=1", "minutes.more=2"])


def test_a_table_named_as_a_value_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected a table"):
        run_settings(None, ["train=3"])


def test_every_setting_there_is_can_be_given() -> None:
    """The types of all settings, of runs and of MD, are ones that the check knows: each default passes it."""

    def walk(values: dict, path: str = "") -> list[str]:
        found = []
        for key, value in values.items():
            found += walk(value, f"{path}{key}.") if isinstance(value, dict) else [f"{path}{key}"]
        return found

    defaults = asdict(GeneratorSettings())
    for key in walk(defaults):
        value = defaults
        for part in key.split("."):
            value = value[part]
        toml = str(value).lower() if isinstance(value, bool) else list(value) if isinstance(value, tuple) else value
        text = f"{key}={toml}"
        if value is not None:
            assert run_settings(None, [text], preset="laptop").settings == PRESETS["laptop"].settings, text
    for method, kind in METHODS.items():
        given = {f.name: getattr(kind(), f.name) for f in fields(kind)}
        assert checked(kind, given, method) == given
    assert set(WHOLE_RUN).isdisjoint(f.name for f in fields(GeneratorSettings))
