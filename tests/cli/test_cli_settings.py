"""Settings of a run: preset, then TOML file, then command line; wrong keys and types are named."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

from openmm_fab.ais.annealing import AISSettings
from openmm_fab.cli.settings import WHOLE_RUN, parse_assignments, run_settings
from openmm_fab.cli.source import kelvins
from openmm_fab.coordinates.settings import CoordinateSettings
from openmm_fab.flow.settings import FlowSettings
from openmm_fab.generator.presets import PRESETS, Preset
from openmm_fab.generator.settings import GeneratorSettings
from openmm_fab.md.settings import METHODS, WalkersSettings, settings_of
from openmm_fab.tools.fields import checked
from openmm_fab.tools.toml import to_toml, tomllib
from openmm_fab.train.settings import Budget, TrainSettings, parse_budget

pytestmark = pytest.mark.base


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


def test_temperatures_of_a_file_and_of_the_command_line(tmp_path) -> None:
    file = _file(tmp_path, 'preset = "smoke"\ntemperatures = [600, 300]\n')
    assert run_settings(file).settings.temperatures == (300.0, 600.0)
    assert run_settings(file, temperatures=kelvins("300, 400K,500")).settings.temperatures == (300.0, 400.0, 500.0)
    assert run_settings(file, ["temperatures=[300, 310]"]).settings.temperatures == (300.0, 310.0)
    assert run_settings(None, temperatures=kelvins(None)).settings.temperatures == ()
    again = tmp_path / "again.toml"
    again.write_text(to_toml(run_settings(file).to_dict()))
    assert run_settings(again) == run_settings(file)
    with pytest.raises(ValueError, match="Expected --temperatures in K, such as 300,400,600; got 'hot'"):
        kelvins("hot")
    with pytest.raises(ValueError, match="two or more different temperatures"):
        run_settings(None, temperatures=[300.0])


@pytest.mark.parametrize(
    "text, words",
    [
        (
            "batch = 3",
            (
                "out of ['preset', 'minutes', 'samples', 'seed', 'objective', 'device', 'error', 'at_most',",
                "got 'batch'",
            ),
        ),
        ("[train]\nbatches = 3", ("'batch', 'updates'", "in [train] of", "got 'batches'")),
        ("[train.ais]\nsteps = 3", ("in [train.ais] of", "got 'steps'", "'leapfrogs'")),
        ("[flow]\nlayers = 'many'", ("Expected flow.layers in", "of type int", "'many'")),
        ("[flow]\nlayers = 2.5", ("of type int; got 2.5",)),
        ("[flow]\nlayers = true", ("of type int; got True",)),
        ("[coordinates]\nwhiten = 1", ("of type bool; got 1",)),
        ("flow = 3", ("Expected a table [flow]", "got 3")),
        ("[flow]\nlayers = 3", ("even number of layers",)),
        ("[train]\nbatchs = 3", ("Did you mean batch?",)),
        ("[train]\nlearning_rate = inf", ("train.learning_rate", "finite number; got inf")),
        ("minutes = 'long'", ("Expected a time such as", "'long'")),
        ("minutes = []", ("minutes", "of type float")),
        ("molecule = 3", ("Expected a table [molecule]",)),
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


def test_a_dictionary_a_dataclass_a_file_and_assignments_say_the_same(tmp_path) -> None:
    text = "energy_cut = 50\n[flow]\nhidden = 64\n[train]\nbatch = 32\n[train.ais]\nleapfrogs = 5\n"
    nested = tomllib.loads(text)
    flow = replace(GeneratorSettings().flow, hidden=64)
    spelled = GeneratorSettings(flow=flow, train=TrainSettings(batch=32, ais=AISSettings(leapfrogs=5)), energy_cut=50.0)
    assert GeneratorSettings.of(nested) == GeneratorSettings(**nested) == spelled == GeneratorSettings.of(spelled)
    assert run_settings(_file(tmp_path, text), preset="laptop").settings == spelled
    assigned = ["energy_cut=50", "flow.hidden=64", "train.batch=32", "train.ais.leapfrogs=5"]
    assert run_settings(None, assigned, preset="laptop").settings == spelled
    assert GeneratorSettings.of(None) == GeneratorSettings()
    for wrong in ({"flow": 3}, {"flows": {}}, {"flow": {"layer": 4}}, "laptop"):
        with pytest.raises(ValueError):
            GeneratorSettings.of(wrong)


def test_settings_of_dynamics_are_given_in_the_same_ways() -> None:
    chosen = WalkersSettings(walkers=8, time_ps=5.0)
    assert settings_of("walkers", {"walkers": 8, "time_ps": 5}) == chosen == settings_of(chosen, {})
    assert settings_of(chosen, {"walkers": 9}) == replace(chosen, walkers=9)
    with pytest.raises(ValueError, match=r"got 'walker'\. Did you mean walkers\?"):
        settings_of(chosen, {"walker": 9})


CLASSES = (CoordinateSettings, FlowSettings, AISSettings, TrainSettings, GeneratorSettings, Preset, *METHODS.values())


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_no_number_goes_unchecked(kind) -> None:
    """Of every field that is a number: what is none, is not finite, or is below anything that makes sense."""
    made = kind(minutes=1.0, samples=1) if kind is Preset else kind()
    numbers = [f.name for f in fields(made) if type(getattr(made, f.name)) in (int, float)]
    optional = [f.name for f in fields(made) if getattr(made, f.name) is None and "float" in str(f.type)]
    for name in (*numbers, *optional):
        for wrong in ("fast", [1.0], True, math.nan, math.inf, -math.inf, -1.0, -1):
            if name == "energy_cut" and wrong in (-1, -1.0):  # from thermal motion: it may be below
                continue
            with pytest.raises(ValueError, match=name):
                replace(made, **{name: wrong})
    for name in (n for n in numbers if type(getattr(made, n)) is int):
        with pytest.raises(ValueError, match=name):
            replace(made, **{name: 2.5})


@pytest.mark.parametrize("kind", [GeneratorSettings, TrainSettings, AISSettings, FlowSettings, CoordinateSettings])
def test_a_misspelt_keyword_is_told_with_the_nearest(kind: type) -> None:
    name = fields(kind)[0].name
    with pytest.raises(TypeError, match=rf"Expected keywords of {kind.__name__} out of .*\. Did you mean {name}\?"):
        kind(**{f"{name}s": 5})
    again = pickle.loads(pickle.dumps(kind()))
    assert again == kind() and replace(again) == again and copy.deepcopy(again) == again


@pytest.mark.parametrize(
    ("text", "minutes"), [("20 mins", 20), ("20 minutes", 20), ("1 hour", 60), ("90s", 1.5), (".5 h", 30), (7, 7)]
)
def test_times(text, minutes) -> None:
    assert parse_budget(text).minutes == Budget(minutes=text).minutes == minutes
    for wrong in ("20 parsecs", "fast", "", [20], True, -3, 0, math.nan, math.inf):
        with pytest.raises(ValueError):
            parse_budget(wrong)


def test_an_error_stands_in_place_of_minutes_and_samples(tmp_path) -> None:
    file = _file(tmp_path, 'error = 0.05\nat_most = "30 min"')
    found = run_settings(file, at_most="2h")
    assert (found.error, found.at_most) == (0.05, 120.0)
    kept = found.to_dict()
    assert kept["at_most"] == 120.0 and not {"minutes", "samples"} & kept.keys()
    assert run_settings(file).at_most == 30.0
    assert not {"error", "at_most"} & run_settings(None).to_dict().keys()
    with pytest.raises(ValueError, match="got both"):
        run_settings(file, minutes="5")
    with pytest.raises(ValueError, match="Expected error > 0, in kT; got -1"):
        run_settings(None, error=-1.0)
    with pytest.raises(ValueError, match="without one give minutes"):
        run_settings(None, at_most="5")
