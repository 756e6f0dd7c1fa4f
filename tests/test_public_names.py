"""The names that a user may rely on: those of docs/api.md, each there, each with a docstring."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator

import pytest
from test_docs import DOCS
from test_layering import PACKAGE, ROOT, SOURCES

import openmm_fab as fab

# import openmm_fab as fab; fab.X
ROOT_NAMES = """
    OpenMMFabError MolecularSystem PAPER_FORCEFIELD UnsupportedSystemError available_systems find_problems
    reduced_energy OpenMMEnergy
    ZMatrix build_zmatrix InternalCoordinates
    BoltzmannGenerator GeneratorSettings CoordinateSettings FlowSettings TrainSettings AISSettings
    load_pretrained PRESETS
    Budget Trainer TrainingError
    Ensemble StreamedEnsemble Estimate load_reference run_reference ReferenceEnsemble Convergence
    Profile profile surface basin_difference basin_populations BasinPopulations
    FreeEnergy log_z_ais log_z_bar refine
    free_energy_difference free_energy_difference_bar temperature_difference reweight_temperature mbar
    Comparison compare
""".split()
FACES = [path.parent for path in sorted(ROOT.rglob("__init__.py")) if path.parent != ROOT]
PUBLIC = {
    module: re.findall(r"`(\w+)`", names)
    for module, names in re.findall(
        r"^\| `(openmm_fab[\w.]*)` \| (.*) \|$", (DOCS / "api.md").read_text(), re.MULTILINE
    )
}
# Its class derives from one of openmmtools.
NEEDS = {"openmm_fab.md.moves": "openmmtools"}


def test_the_root_has_its_names() -> None:
    assert len(ROOT_NAMES) == 46
    assert fab.__all__ == ROOT_NAMES == PUBLIC[PACKAGE]


def in_a_fresh_process(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_name_of_the_root_in_every_way_of_asking() -> None:
    in_a_fresh_process(
        "import openmm_fab as fab, sys\n"
        "assert [n for n in dir(fab) if n[0] != '_'] == sorted(fab.__all__), dir(fab)\n"
        "assert 'torch' not in sys.modules\n"
        "for n in fab.__all__: assert getattr(fab, n).__class__.__name__ != 'module', n\n"
        "from openmm_fab import *\n"
        "from openmm_fab import BoltzmannGenerator as B\n"
        "assert B is BoltzmannGenerator is fab.BoltzmannGenerator and compare is fab.compare"
    )


# The package is loaded anew for each, the libraries that it imports once.
ANEW = """
import sys, mdtraj, openmm, torch
for first in {firsts}:
    for name in [name for name in sys.modules if name.partition(".")[0] == "openmm_fab"]:
        del sys.modules[name]
    try:
        exec(first + {then!r}, {{}})
    except Exception as error:
        raise AssertionError(first) from error
"""


def test_a_wing_is_an_attribute_whatever_was_imported_first() -> None:
    wings = sorted({path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")})
    wings = [wing for wing in wings if "__" not in wing]
    firsts = (
        "",
        "import openmm_fab.comparison.sides",
        "from openmm_fab.comparison import compare",
        "import openmm_fab; openmm_fab.report",
    )
    then = (
        f"\nimport openmm_fab as fab, sys\nfor n in {wings}: assert getattr(fab, n) is sys.modules['openmm_fab.' + n]\n"
        "from openmm_fab.comparison.comparing import compare as itself\n"
        "assert fab.compare is itself"
    )
    in_a_fresh_process(ANEW.format(firsts=firsts, then=then))


@pytest.mark.parametrize("folder", FACES, ids=lambda folder: folder.relative_to(ROOT).as_posix())
def test_names_of_a_wing_are_sorted_and_there(folder) -> None:
    name = ".".join([PACKAGE, *folder.relative_to(ROOT).parts])
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    # CONSTANTS, then Classes, then functions
    assert names == sorted(set(names), key=lambda n: (not n.isupper(), n[0].islower(), n))
    assert all(hasattr(module, n) for n in names)
    if name in PUBLIC:
        assert PUBLIC[name] == names, f"docs/api.md has to say: | `{name}` | {', '.join(f'`{n}`' for n in names)} |"


def test_no_name_stands_for_a_module_and_for_something_else() -> None:
    """Or `from package import name` gives one or the other, by what was imported before."""
    twice = {}
    for init in ROOT.rglob("__init__.py"):
        beside = {path.stem for path in init.parent.iterdir()}
        name = ".".join([PACKAGE, *init.parent.relative_to(ROOT).parts])
        if both := beside & set(getattr(importlib.import_module(name), "__all__", ())):
            twice[name] = both
    assert not twice


def test_one_word_for_each_of_generator_and_rng() -> None:
    """`generator` is a BoltzmannGenerator, `rng` a stream of random numbers, `seed` an int that starts one."""
    wrong = []
    for path, source in SOURCES.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.arg) and node.annotation is not None:
                stream = re.search(r"\b(torch|np\.random)\.Generator\b", ast.unparse(node.annotation)) is not None
                if stream != (node.arg == "rng"):
                    wrong.append(f"{path}:{node.lineno} {ast.unparse(node)}")
    assert not wrong


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_there_and_say_what_they_are(module: str) -> None:
    for package in filter(None, [NEEDS.get(module)]):
        pytest.importorskip(package)
    found = {name: getattr(importlib.import_module(module), name) for name in PUBLIC[module]}
    assert found
    for name, value in found.items():
        if inspect.isclass(value) and not getattr(value, "_is_protocol", False) and module not in NEEDS:
            assert value.__repr__ is not object.__repr__, f"{name} is shown as an address of memory"
        if inspect.isclass(value) or inspect.isfunction(value):
            assert len(vars(value).get("__doc__") or inspect.getdoc(value) or "") > 20, f"{module}.{name}"


def test_wings_that_users_import_from_are_public() -> None:
    wings = "coordinates flow ais train ensemble energy target free_energy plots md comparison generator".split()
    assert {f"{PACKAGE}.{wing}" for wing in wings} < PUBLIC.keys()
    assert {f"{PACKAGE}.interop.flows", f"{PACKAGE}.interop.bgflow"} < PUBLIC.keys()


# What others call: openmmtools, and kernels on their inmost lines; and a number with its range.
CALLED_BY_OTHERS = {"FlowProposalMove.apply", "Path.gradient", "Points.at", "Range.line", "Range.circle"}
CALLED_BY_OTHERS |= {"TorsionBias.__init__", "HybridWalkers.__init__"}
CALLED_BY_OTHERS |= {f"CouplingFlow.{name}" for name in ("replayed", "couple", "rsample_torsions_first")}


def functions_of(module: str) -> Iterator[tuple[str, Callable[..., object]]]:
    """Functions of a module's public names, and methods of their classes, by name."""
    for name in PUBLIC[module]:
        value = getattr(importlib.import_module(module), name)
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for key, member in vars(value).items():
                made = key == "__init__" and not dataclasses.is_dataclass(value)
                if made or (not key.startswith("_") and isinstance(member, classmethod | types.FunctionType)):
                    yield f"{name}.{key}", getattr(value, key)


@pytest.mark.parametrize("module", sorted(PUBLIC.keys() - NEEDS.keys()))
def test_options_have_names(module: str) -> None:
    """No more than two arguments may stand without their names, but for those that have no default."""
    loose = {}
    for name, function in functions_of(module):
        found = [p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls")]
        positional = [p for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY)]
        if any(p.kind is p.VAR_POSITIONAL for p in found) or name in CALLED_BY_OTHERS:
            continue
        if options := [p.name for p in positional[2:] if p.default is not p.empty]:
            loose[name] = options
    assert not loose
