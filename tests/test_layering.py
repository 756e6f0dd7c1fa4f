"""Imports point one way, the atoms stop at target.py, and optional packages are loaded only when used.

See docs/architecture.md. A new module is added to ORDER here, at the place where the story needs it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "openmm_fab"
ROOT = Path(__file__).parents[1] / PACKAGE

# A room (a module, or a subpackage as a whole) may import those that stand before it.
ORDER = (
    # tools that know nothing of molecules or flows
    *("memory", "devices", "files", "fusing", "graphs", "sparse", "weights"),
    # the molecule
    *("topology", "checks", "inputs", "system", "preparation", "energy"),
    *(
        "rings",
        "zmatrix",
        "amides",
        "amines",
        "symmetry",
        "constraints",
        "placement",
        "scales",
        "summary",
        "coordinates",
    ),
    # the seam, and the sampler behind it
    *("target", "splines", "resampled", "flow", "path", "hmc", "latent", "kernels", "ais", "buffer", "basins", "watch"),
    *("pathwise", "distributed", "objectives", "train", "snf", "metrics", "progress"),
    # what comes of it
    *(
        "free_energy",
        "export",
        "netcdf",
        "ensemble",
        "stream",
        "generator",
        "presets",
        "pretrained",
        "md",
        "compare",
        "moves",
        "drawing",
        "plots",
        "view",
        "explore",
        "report",
        "interop",
    ),
    # the doors
    *("__init__", "cli", "__main__"),
)
# Methods such as ensemble.view() open these from an earlier room, inside the function.
OPENED_ON_USE = {"plots", "view", "explore"}

# Nothing here has seen an atom.
BEHIND_SEAM = {
    "graphs",
    "splines",
    "resampled",
    "flow",
    "weights",
    "path",
    "hmc",
    "latent",
    "kernels",
    "ais",
    "buffer",
    "basins",
}
BEHIND_SEAM |= {"watch", "pathwise", "distributed", "objectives", "train", "snf", "metrics"}
ATOMS = {"openmm", "mdtraj"}
ATOM_ROOMS = {"topology", "system", "energy", "zmatrix", "coordinates"}

OPTIONAL = {"matplotlib", "nglview", "openmmtools", "pdbfixer", "pymbar", "bgflow", "arviz_stats", "arviz"} | {
    *("arviz_base", "ipympl", "ipywidgets", "pandas", "wandb", "xarray"),
}


@dataclass(frozen=True)
class Import:
    """One imported name: its dotted path, where it stands, and whether importing the module runs it."""

    name: str
    where: str
    at_module_level: bool

    @property
    def room(self) -> str | None:
        """Room of the package that is imported; None for other packages."""
        parts = self.name.split(".")
        if parts[0] != PACKAGE:
            return None
        return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "__init__"


def room_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(source: str, file: Path) -> Iterator[Import]:
    """Every import that can run: those below `if TYPE_CHECKING:` are left out."""
    package = [PACKAGE, *file.relative_to(ROOT).parent.parts]

    def walk(node: ast.AST, at_module_level: bool) -> Iterator[Import]:
        where = f"{file.relative_to(ROOT.parent)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, where, at_module_level)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield Import(f"{prefix}.{alias.name}", where, at_module_level)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.orelse:
                yield from walk(child, at_module_level)
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from walk(child, at_module_level and not inside)

    yield from walk(ast.parse(source), True)


FILES = sorted(ROOT.rglob("*.py"))
ROOMS = {room_of(file) for file in FILES}


def wrong_direction(imports: Iterator[Import], room: str) -> list[str]:
    wrong = []
    for found in imports:
        if found.room is None or found.room == room:
            continue
        if found.room in OPENED_ON_USE and not found.at_module_level:
            continue
        if found.room in ORDER and ORDER.index(found.room) > ORDER.index(room):
            wrong.append(f"{found.where} imports {found.name}")
    return wrong


def atoms_behind_seam(imports: Iterator[Import]) -> list[str]:
    return [
        f"{found.where} imports {found.name}"
        for found in imports
        if found.room in ATOM_ROOMS or found.name.split(".")[0] in ATOMS
    ]


def eager_optionals(imports: Iterator[Import]) -> list[str]:
    return [
        f"{found.where} imports {found.name}"
        for found in imports
        if found.at_module_level and found.name.split(".")[0] in OPTIONAL
    ]


def test_every_module_has_its_place() -> None:
    assert ROOMS, f"no module below {ROOT}"
    unknown = sorted(ROOMS - set(ORDER))
    assert not unknown, f"add {unknown} to ORDER in this file, after all that they import, and to docs/architecture.md"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file: Path) -> None:
    room = room_of(file)
    if room not in ORDER:
        pytest.skip("reported by test_every_module_has_its_place")
    source = file.read_text(encoding="utf-8")
    assert not wrong_direction(imports_of(source, file), room)
    if room in BEHIND_SEAM:
        assert not atoms_behind_seam(imports_of(source, file))
    if room not in {"plots", "view"}:
        assert not eager_optionals(imports_of(source, file))


def test_the_checks_see_what_they_should() -> None:
    """The same checks on made-up sources, so that an empty result above means something."""
    flow = ROOT / "flow.py"
    bridge = ROOT / "energy" / "bridge.py"

    def found(check: str, source: str, file: Path) -> int:
        imports = imports_of(source, file)
        if check == "direction":
            return len(wrong_direction(imports, room_of(file)))
        return len(atoms_behind_seam(imports) if check == "atoms" else eager_optionals(imports))

    assert found("direction", "from .train import Trainer", flow) == 1
    assert found("direction", "from . import train, splines", flow) == 1
    assert found("direction", "import openmm_fab.train", flow) == 1
    assert found("direction", "from openmm_fab import MolecularSystem", flow) == 1
    assert found("direction", "def f():\n    from .train import Trainer", flow) == 1
    assert found("direction", "from ..coordinates import InternalCoordinates", bridge) == 1
    assert found("direction", "from ..system import MolecularSystem\nfrom . import bridge", bridge) == 0
    assert found("direction", "from .plots import curve", flow) == 1
    assert found("direction", "def f():\n    from .plots import curve", flow) == 0
    assert found("direction", "if TYPE_CHECKING:\n    from .train import Trainer", flow) == 0

    assert found("atoms", "def f():\n    import mdtraj", flow) == 1
    assert found("atoms", "from openmm import unit", flow) == 1
    assert found("atoms", "from .coordinates import InternalCoordinates", flow) == 1
    assert found("atoms", "from .target import Target\nimport torch", flow) == 0

    assert found("optional", "import matplotlib.pyplot as plt", flow) == 1
    assert found("optional", "try:\n    import pymbar\nexcept ImportError:\n    pass", flow) == 1
    assert found("optional", "class A:\n    def f(self):\n        import pymbar", flow) == 0


def test_import_loads_no_optional_package() -> None:
    code = f"import sys, {PACKAGE}; print(sorted(set(sys.modules) & {OPTIONAL!r}))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.strip() == "[]"
