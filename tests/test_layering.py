"""Imports point one way, the atoms stop at target.py, and optional packages are loaded only when used.

A wing is a folder or a file right below the package: a stage of the pipeline. See docs/architecture.md. Each check
takes sources, path -> text, so that it can be tried on made-up ones.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

import pytest

PACKAGE = "openmm_fab"
ROOT = Path(__file__).parents[1] / PACKAGE
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}

LONGEST = 450  # lines of a file

# A wing may import those before it.
ORDER = (
    *("tools", "weights"),
    *("molecule", "preparation", "drawing", "energy", "coordinates"),
    "target",  # the seam
    *("flow", "ais", "train"),
    *("free_energy", "ensemble", "plots", "generator", "md", "comparison", "report", "interop"),
    *("__init__", "cli", "__main__"),
)
# Nothing here has seen an atom.
WITHOUT_ATOMS = {"tools", "weights", "target", "flow", "ais", "train"}
ATOMS = {"openmm", "mdtraj", "openmmtools", "pdbfixer", "nglview"}
ATOM_WINGS = {"molecule", "preparation", "drawing", "energy", "coordinates"}

# Not loaded by `from openmm_fab import *`: extras, and dependencies that are slow to load.
OPTIONAL = {
    *("IPython", "arviz", "arviz_base", "arviz_stats", "bgflow", "ipympl", "ipywidgets", "matplotlib", "netCDF4"),
    *("networkx", "nglview", "normflows", "openmmtools", "pandas", "pdbfixer", "pymbar", "tensorboard", "wandb"),
    *("xarray", "zuko"),
}
# Loaded by `import openmm_fab` and by the command line only once there is something to calculate.
SLOW = {"torch", "openmm", "mdtraj", "numpy", "scipy"}
# Files that no other loads, for those who have the package.
NEEDED_BY = {"md/moves.py": {"openmmtools"}}


@dataclass(frozen=True)
class Import:
    """One imported name: its dotted path, where it stands, how it is written, and when it runs."""

    name: str
    where: str
    relative: bool
    runs: str  # "on loading", "in a function", "for types"

    def __str__(self) -> str:
        return f"{self.where} imports {self.name} {self.runs}"


def module_of(path: str) -> str:
    """Dotted name of the module in a file, its path relative to the package."""
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join((PACKAGE, *(parts[:-1] if parts[-1] == "__init__" else parts)))


def wing_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(path: str, source: str) -> Iterator[Import]:
    """Every import of a file: on loading, in functions, below `if TYPE_CHECKING`, and by a constant string."""
    package = [PACKAGE, *PurePosixPath(path).parent.parts]

    def absolute(name: str | None, level: int) -> str:
        return ".".join([*(package[: len(package) - level + 1] if level else []), *([name] if name else [])])

    def walk(node: ast.AST, runs: str) -> Iterator[Import]:
        where = f"{PACKAGE}/{path}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, where, False, runs)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(f"{absolute(node.module, node.level)}.{alias.name}", where, node.level > 0, runs)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from walk(child, "for types")
            for child in node.orelse:
                yield from walk(child, runs)
        else:
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"import_module", "__import__"}:
                for constant in node.args[:1]:
                    if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                        name = constant.value.lstrip(".")
                        level = len(constant.value) - len(name)
                        yield Import(absolute(name, level), where, level > 0, runs)
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from walk(child, "in a function" if inside and runs == "on loading" else runs)

    yield from walk(ast.parse(source), "on loading")


def own_imports(sources: dict[str, str]) -> Iterator[tuple[str, Import]]:
    """Every import of something in the package, with the path of its file."""
    for path, source in sources.items():
        for found in imports_of(path, source):
            if found.name.split(".")[0] == PACKAGE:
                yield path, found


def home_of(name: str, modules: set[str]) -> str:
    """The module that a dotted name is taken from: itself, or the one above it."""
    while name not in modules and "." in name:
        name = name.rpartition(".")[0]
    return name


def wrong_direction(sources: dict[str, str]) -> list[str]:
    modules = {module_of(path) for path in sources}
    wrong = []
    for path, found in own_imports(sources):
        here, there = wing_of(module_of(path)), wing_of(home_of(found.name, modules))
        if here in ORDER and there in ORDER and ORDER.index(there) > ORDER.index(here):
            wrong.append(str(found))
    return wrong


def circles(sources: dict[str, str]) -> list[str]:
    """Groups of files of which each imports, by way of the others, itself: with the imports that tie them.

    An `__init__` is looked through: what is imported from it comes from the file behind it.
    """
    modules = {module_of(path): path for path in sources}
    faces: dict[str, dict[str, str]] = {
        module_of(path): {
            found.name.rpartition(".")[2]: found.name
            for found in imports_of(path, source)
            if found.name.split(".")[0] == PACKAGE
        }
        for path, source in sources.items()
        if path.endswith("__init__.py")
    }

    def files_of(name: str) -> set[str]:
        home = home_of(name, set(modules))
        if home not in faces:
            return {home}
        if home == name:  # the whole face
            return set().union(*(files_of(shown) for shown in faces[home].values()))
        shown = faces[home].get(name.removeprefix(f"{home}.").split(".")[0])
        return files_of(shown) if shown else set()

    arrows: dict[str, dict[str, Import]] = {module: {} for module in modules if module not in faces}
    for path, found in own_imports(sources):
        if module_of(path) not in faces:
            for there in files_of(found.name):
                arrows[module_of(path)].setdefault(there, found)

    def reached_from(module: str) -> set[str]:
        reached: set[str] = set()
        ahead = [module]
        while ahead:
            new = arrows[ahead.pop()].keys() - reached
            reached |= new
            ahead += new
        return reached

    reached = {module: reached_from(module) for module in arrows}
    knots = {frozenset(n for n in reached[m] if m in reached[n]) for m in arrows if m in reached[m]}
    return [
        "\n    ".join(
            [f"{len(knot)} files: {', '.join(sorted(knot))}"]
            + [f"{found}" for here in sorted(knot) for there, found in arrows[here].items() if there in knot]
        )
        for knot in sorted(knots, key=sorted)
    ]


def not_relative(sources: dict[str, str]) -> list[str]:
    return [str(found) for _, found in own_imports(sources) if not found.relative]


def through_a_face(sources: dict[str, str]) -> list[str]:
    """Imports that do not name the file which holds what they want; an `__init__` may, to show it."""
    faces = {module_of(path) for path in sources if path.endswith("__init__.py")}
    modules = {module_of(path) for path in sources}
    return [
        str(found)
        for path, found in own_imports(sources)
        if not path.endswith("__init__.py")
        and home_of(found.name, modules) in faces
        and found.name != f"{PACKAGE}.__version__"
    ]


def not_a_face(sources: dict[str, str]) -> list[str]:
    """What an `__init__` holds besides its docstring, imports and `__all__`, the list of what is imported.

    The package's own may hold `__version__`, and load what it shows when it is used: `if TYPE_CHECKING:` with the
    imports, and `if not TYPE_CHECKING:` with nothing but a call of `load_when_used` that names the same modules.
    """
    wrong = []
    for path, source in sources.items():
        if not path.endswith("__init__.py"):
            continue
        tree = ast.parse(source)
        shown: list[str] = []
        for_types: dict[str, str] = {}
        when_used: dict[str, str] = {}
        if ast.get_docstring(tree) is None:
            wrong.append(f"{path} has no docstring")
        for node in tree.body[1:]:
            names = [ast.unparse(target) for target in node.targets] if isinstance(node, ast.Assign) else []
            if names == ["__all__"]:
                shown = ast.literal_eval(ast.unparse(node.value))  # type: ignore[attr-defined]
            elif path == "__init__.py" and (found := _lazily(node)) is not None:
                for_types |= found[0]
                when_used |= found[1]
            elif not isinstance(node, ast.Import | ast.ImportFrom) and not (
                names == ["__version__"] and path == "__init__.py"
            ):
                wrong.append(f"{path}:{node.lineno} is more than a face")
        imported = [*for_types] + [
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", None) != "__future__"
            if not (path == "__init__.py" and ast.unparse(node) in FOR_A_LAZY_ROOT)
            for alias in node.names
        ]
        for name in set(shown) ^ set(imported):
            wrong.append(f"{path}: {name} is {'not imported' if name in shown else 'not in __all__'}")
        for name, module in sorted(for_types.items() ^ when_used.items()):
            wrong.append(f"{path}: {name} is of {module} {'for types' if name in for_types else 'when used'} only")
    return wrong


FOR_A_LAZY_ROOT = ("from typing import TYPE_CHECKING", "from .tools.lazy import load_when_used")


def _lazily(node: ast.stmt) -> tuple[dict[str, str], dict[str, str]] | None:
    """Names and their modules in one half of a lazy `__init__`: for type checkers, and when used; None of all else."""
    if not isinstance(node, ast.If) or node.orelse:
        return None
    if ast.unparse(node.test) == "TYPE_CHECKING":
        if not all(isinstance(line, ast.ImportFrom) and line.level == 1 for line in node.body):
            return None
        lines = [line for line in node.body if isinstance(line, ast.ImportFrom)]
        return {alias.asname or alias.name: f"{line.module}" for line in lines for alias in line.names}, {}
    call = re.fullmatch(
        r"\(?__getattr__, __dir__\)? = load_when_used\(__name__, (\{.*\})\)", ast.unparse(node.body[0]), re.DOTALL
    )
    if ast.unparse(node.test) != "not TYPE_CHECKING" or len(node.body) > 1 or call is None:
        return None
    homes = ast.literal_eval(call[1])
    return {}, {name: module for module, names in homes.items() for name in names.split()}


def with_atoms(sources: dict[str, str]) -> list[str]:
    """Imports of packages and wings that know molecules, from those that do not."""
    return [
        str(found)
        for path, source in sources.items()
        if wing_of(module_of(path)) in WITHOUT_ATOMS
        for found in imports_of(path, source)
        if found.name.split(".")[0] in ATOMS
        or (found.name.split(".")[0] == PACKAGE and wing_of(found.name) in ATOM_WINGS)
    ]


def eager(sources: dict[str, str]) -> list[str]:
    """Optional packages that are loaded with the module."""
    return [
        str(found)
        for path, source in sources.items()
        for found in imports_of(path, source)
        if found.runs == "on loading" and found.name.split(".")[0] in OPTIONAL - NEEDED_BY.get(path, set())
    ]


def none(faults: list[str]) -> None:
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


def test_every_wing_has_its_place() -> None:
    assert len(SOURCES) > 100
    wings = {wing_of(module_of(path)) if path != "__init__.py" else "__init__" for path in SOURCES}
    assert wings == set(ORDER), "a wing is a stage of the pipeline: see docs/architecture.md"
    page = (ROOT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `(\w+)/?` \|", page, re.MULTILINE)) == tuple(w for w in ORDER if "__" not in w)


def test_imports_point_one_way() -> None:
    none(wrong_direction(SOURCES))


def test_no_circle_of_files() -> None:
    none(circles(SOURCES))


def test_imports_are_relative_and_name_the_file() -> None:
    none(not_relative(SOURCES) + through_a_face(SOURCES))


def test_files_that_modules_read_travel_with_them() -> None:
    """In the wheel, too: it takes all files of the package that git knows."""
    beside = {
        (path, name) for path, source in SOURCES.items() for name in re.findall(r'with_name\("([\w.]+)"\)', source)
    }
    assert {name for _, name in beside} >= {"placement.c", "coupling.c"}
    for path, name in beside:
        file = resources.files(module_of(path).rpartition(".")[0]) / name
        assert file.is_file() and file.read_text(encoding="utf-8"), f"{path} reads {name}"
    ignored = subprocess.run(
        ["git", "check-ignore", "-v", *(f"{PACKAGE}/{PurePosixPath(path).with_name(name)}" for path, name in beside)],
        cwd=ROOT.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ignored.stdout == ""


def test_an_init_is_a_face() -> None:
    none(not_a_face(SOURCES))


def test_files_are_short() -> None:
    """A file that is longer holds two subjects: each can have its own, under a name that says which."""
    lengths = {path: len(source.splitlines()) for path, source in SOURCES.items()}
    assert not {path: length for path, length in lengths.items() if length > LONGEST}


def test_the_atoms_stop_at_the_seam() -> None:
    none(with_atoms(SOURCES))


def test_optional_packages_are_imported_when_used() -> None:
    none(eager(SOURCES))
    modules = {module_of(path) for path in SOURCES}
    for path, found in own_imports(SOURCES):
        assert home_of(found.name, modules) not in map(module_of, NEEDED_BY), f"{path} loads {found.name}"


def test_import_loads_no_optional_package() -> None:
    code = f"import sys; from {PACKAGE} import *; print(sorted(set(sys.modules) & {OPTIONAL!r}))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "line", [f"import {PACKAGE}", f"import {PACKAGE}.cli.commands", f"import runpy; runpy.run_module({PACKAGE!r})"]
)
def test_the_command_line_answers_without_the_slow_packages(line: str) -> None:
    """Neither `import openmm_fab` nor `openmm-fab --help` takes seconds."""
    code = (
        "import atexit, sys; sys.argv[1:] = ['--help']\n"
        f"atexit.register(lambda: print('loaded:', sorted(set(sys.modules) & {SLOW!r})))\n{line}"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip().endswith("loaded: []"), shown.stdout
    assert ("Usage:" in shown.stdout) == ("runpy" in line)


# The same checks on made-up sources, so that an empty list above means something.

HOUSE = {
    "__init__.py": '"""."""\nfrom .flow.base import Flow\n__all__ = ["Flow"]\n__version__ = "1"',
    "weights.py": "import math",
    "energy/__init__.py": '"""."""\nfrom .bridge import Energy\n__all__ = ["Energy"]',
    "energy/bridge.py": "import openmm\nfrom ..weights import ess",
    "flow/__init__.py": '"""."""\nfrom .base import Flow\n__all__ = ["Flow"]',
    "flow/base.py": "import torch",
    "flow/coupling.py": "from . import base\nfrom .base import Flow\nfrom ..weights import ess",
    "train/__init__.py": '"""."""\nfrom .trainer import Trainer\n__all__ = ["Trainer"]',
    "train/trainer.py": "from ..flow.coupling import CouplingFlow",
    "cli/app.py": "from .. import __version__\nfrom ..train.trainer import Trainer",
}
LAZY = "def f():\n    {}"
TYPES = "if TYPE_CHECKING:\n    {}\nelse:\n    import math"
STRING = "x = importlib.import_module({!r})"


def with_line(path: str, line: str) -> dict[str, str]:
    return {**HOUSE, path: f"{HOUSE.get(path, '')}\n{line}"}


def test_a_sound_house_has_no_faults() -> None:
    for check in (wrong_direction, circles, not_relative, through_a_face, not_a_face, with_atoms, eager):
        assert check(HOUSE) == [], check.__name__


def test_a_wrong_direction_is_seen() -> None:
    up = "from ..train.trainer import Trainer"
    for line in (up, LAZY.format(up), TYPES.format(up), "from .. import train", "from ..train import Trainer"):
        assert len(wrong_direction(with_line("flow/base.py", line))) == 1, line
    assert len(wrong_direction(with_line("flow/base.py", f"import {PACKAGE}.train.trainer"))) == 1
    assert len(wrong_direction(with_line("flow/base.py", f"from {PACKAGE} import Flow"))) == 1
    assert len(wrong_direction(with_line("flow/base.py", "from .. import Flow, train"))) == 2
    for name in ("..train.trainer", f"{PACKAGE}.train.trainer"):
        assert len(wrong_direction(with_line("flow/base.py", STRING.format(name)))) == 1, name
        assert len(wrong_direction(with_line("flow/base.py", f"def f():\n    __import__({name!r})"))) == 1, name
    assert wrong_direction(with_line("train/trainer.py", "from ..flow import Flow\nfrom . import trainer")) == []
    assert (
        len(wrong_direction(with_line("weights.py", "class A:\n    def f(self):\n        from .flow import Flow"))) == 1
    )


def test_a_circle_is_seen() -> None:
    back = "from .coupling import CouplingFlow"
    for line in (back, LAZY.format(back), TYPES.format(back), STRING.format(".coupling"), "from . import coupling"):
        (knot,) = circles(with_line("flow/base.py", line))
        assert f"2 files: {PACKAGE}.flow.base, {PACKAGE}.flow.coupling\n" in knot
        assert "flow/base.py" in knot and "flow/coupling.py:1" in knot
    # through a face, by name and as a whole, and over three files
    for line in ("from ..train import Trainer", "from .. import train", f"import {PACKAGE}.train"):
        (knot,) = circles(with_line("flow/base.py", TYPES.format(line)))
        assert knot.startswith("3 files"), line
    # what a face does not take from the other file, it does not tie to it
    assert circles(with_line("flow/base.py", "from .. import __version__")) == []
    two = {**HOUSE, "a.py": LAZY.format("from . import b"), "b.py": "from .a import f", "c.py": "from . import a"}
    (knot,) = circles(two)
    assert knot.startswith(f"2 files: {PACKAGE}.a, {PACKAGE}.b\n")
    assert len(circles({**two, "d.py": "from .e import f", "e.py": TYPES.format("from .d import f")})) == 2


def test_an_absolute_import_is_seen() -> None:
    for line in (
        f"import {PACKAGE}.flow.base",
        f"from {PACKAGE}.flow.base import Flow",
        f"from {PACKAGE}.flow import base",
    ):
        assert len(not_relative(with_line("train/trainer.py", LAZY.format(line)))) == 1, line
    assert len(not_relative(with_line("train/trainer.py", STRING.format(f"{PACKAGE}.flow.base")))) == 1
    assert len(not_relative(with_line("flow/__init__.py", f"from {PACKAGE}.flow.base import Flow"))) == 1
    assert len(through_a_face(with_line("train/trainer.py", "from ..flow import Flow"))) == 1
    assert len(through_a_face(with_line("train/trainer.py", "from .. import flow"))) == 1
    assert through_a_face(with_line("train/trainer.py", "from ..flow import base\nfrom . import trainer")) == []


def test_a_face_that_works_is_seen() -> None:
    for line in ("def f(): pass", "X = 1", "if TYPE_CHECKING:\n    from .base import A", "__version__ = '1'"):
        assert len(not_a_face(with_line("flow/__init__.py", line))) == 1, line
    assert len(not_a_face(with_line("flow/__init__.py", "from .base import Other"))) == 1
    assert len(not_a_face({**HOUSE, "flow/__init__.py": "from .base import Flow\n__all__ = ['Flow']"})) == 1
    assert len(not_a_face({**HOUSE, "flow/__init__.py": '"""."""\n__all__ = ["Flow"]'})) == 1
    assert not_a_face({**HOUSE, "flow/__init__.py": '"""."""\nfrom __future__ import annotations'}) == []


LAZY_ROOT = """
'.'
from typing import TYPE_CHECKING
from .tools.lazy import load_when_used
if TYPE_CHECKING:
    from .flow.base import Flow
__all__ = ["Flow"]
if not TYPE_CHECKING:
    __getattr__, __dir__ = load_when_used(__name__, {"flow.base": "Flow"})
"""


def test_a_lazy_root_is_a_face_and_nothing_else_is() -> None:
    assert not_a_face({"__init__.py": LAZY_ROOT}) == []
    assert len(not_a_face({"flow/__init__.py": LAZY_ROOT})) > 1
    for old, new in (
        ("    from .flow.base import Flow", "    X = 1"),
        ("    from .flow.base import Flow", "    from flow.base import Flow"),
        ('"flow.base": "Flow"', '"flow.coupling": "Flow"'),
        ('"flow.base": "Flow"', '"flow.base": "Flow CouplingFlow"'),
        ('"flow.base": "Flow"', ""),
        ("import Flow\n", "import Flow, CouplingFlow\n"),
        ('["Flow"]', "[]"),
        ("load_when_used(__name__", "other(__name__"),
        ("    __getattr__", "    X = 1\n    __getattr__"),
        ("if not TYPE_CHECKING", "if True"),
    ):
        assert old in LAZY_ROOT and not_a_face({"__init__.py": LAZY_ROOT.replace(old, new)}), new
    up = {**HOUSE, "__init__.py": LAZY_ROOT, "flow/base.py": f"from {PACKAGE} import Flow"}
    assert wrong_direction(up) and through_a_face(up)


def test_atoms_behind_the_seam_are_seen() -> None:
    for line in ("from openmm import unit", LAZY.format("import mdtraj"), TYPES.format("from ..energy import Energy")):
        assert len(with_atoms(with_line("flow/base.py", line))) == 1, line
    assert with_atoms(with_line("flow/base.py", "from ..target import Target")) == []


def test_an_eager_import_is_seen() -> None:
    for line in ("import matplotlib.pyplot as plt", "try:\n    import pymbar\nexcept ImportError:\n    pass"):
        assert len(eager(with_line("flow/base.py", line))) == 1, line
    assert len(eager(with_line("flow/base.py", STRING.format("bgflow")))) == 1
    assert eager(with_line("flow/base.py", "class A:\n    def f(self):\n        import pymbar")) == []
    assert eager(with_line("flow/base.py", TYPES.format("from matplotlib.axes import Axes"))) == []
    assert eager(with_line("md/moves.py", "import openmmtools")) == []
    assert len(eager(with_line("md/moves.py", "import pymbar"))) == 1
