"""Run the tests marked `base` with nothing installed but what `pip install openmm_fab` brings, and pytest.

A virtual environment is made of links to packages of the interpreter that runs this: those that pyproject.toml asks for
without an extra, those that they ask for in turn, and no others. An import of any other package fails in it, in child
processes, too. No network and no space are needed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


def asked_for(requirements: list[str]) -> set[str]:
    """Names of the distributions that these requirements bring, as pip would."""
    found: set[tuple[str, str]] = set()
    ahead = [(Requirement(line), "") for line in requirements]
    while ahead:
        wanted, extra = ahead.pop()
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        for own in ("", *wanted.extras):
            key = (re.sub(r"[-_.]+", "-", wanted.name).lower(), own)
            if key not in found:
                found.add(key)
                ahead += [(Requirement(line), own) for line in distribution(wanted.name).requires or ()]
    return {name for name, _ in found}


def link(names: set[str], packages: Path) -> None:
    """Link what these distributions have installed beside each other into another folder of packages."""
    for name in names:
        for file in distribution(name).files or ():
            first = file.parts[0]
            if first not in ("..", "__pycache__") and not (packages / first).exists():
                (packages / first).symlink_to(Path(str(distribution(name).locate_file(first))))


def main() -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=False)
        (packages,) = Path(folder).glob("lib/python*/site-packages")
        names = asked_for([*project["dependencies"], "pytest"])
        link(names, packages)
        print(f"{len(names)} packages: {', '.join(sorted(names))}", flush=True)
        files = [
            str(p) for p in sorted(ROOT.glob("tests/**/test_*.py")) if "mark.base" in p.read_text(encoding="utf-8")
        ]
        command = [f"{folder}/bin/python", "-m", "pytest", "-q", "-m", "base", "-p", "no:cacheprovider", *files]
        return subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
