"""Runs one benchmark, `python -m benchmarks NAME [--quick] [--record] [options of NAME]`, or lists them all.

A benchmark is a module of this package with a docstring, whose first line is what the list says of it, and

- `measure(options) -> dict`: its figures, of what JSON can hold;
- `table(figures) -> str`: the table that RESULTS.md shows, in Markdown;
- `title(figures) -> str`: its heading;
- `add_options(parser)`: its own options, if it has any;
- `section_name(figures) -> str`: the name of the record, if it is not the benchmark's;
- `failure(figures) -> str | None`: what has failed, if anything can.

The figures, `commit` among them if they were made earlier than now, are printed as one line of JSON at the end.
`--record` keeps them in results/NAME.json, beside the command, machine, date and commit that they came from, and makes
RESULTS.md anew of all records, as `python -m benchmarks page` does (see `page.py`).
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

from . import page, records
from .records import FIGURES, HERE, MODULES, PAGE, RESULTS, load


class Skip(Exception):
    """A benchmark cannot run here: says what is missing. The runner then ends with status 0 and records nothing."""


def main() -> None:
    """Run the benchmark that the command line names; without a name, list all."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("python -m benchmarks NAME [--quick] [--record] [options of NAME; --help shows them]")
        print("python -m benchmarks page    makes RESULTS.md of the records\n")
        print("\n".join(f"{name:14s} {line}" for name, line in listed().items()))
        return
    name, arguments = sys.argv[1], sys.argv[2:]
    if name == "page":
        page.main(arguments)
        return
    if name not in MODULES:
        raise SystemExit(f"Expected one of {', '.join(MODULES)}, or page; got {name!r}.")
    module = load(name)
    options = _parser(name, module).parse_args(arguments)
    if options.quick and options.record:
        raise SystemExit("--quick measures nothing worth keeping: leave out --record.")
    commit = options.commit or current_commit()
    try:
        found = json.loads(options.read.read_text("utf-8")) if options.read else None
        if found and found["benchmark"] != name:
            raise SystemExit(f"Expected a record of {name} in {options.read}; got one of {found['benchmark']}.")
        figures = found["figures"] if found else module.measure(options)
    except Skip as reason:
        print(f"Skipped: {reason}")
        print(json.dumps({"benchmark": name, "quick": options.quick, "skipped": str(reason)}))
        return
    if options.record:
        found = found or {
            "benchmark": name,
            "command": _command(name, arguments),
            "machine": machine(getattr(options, "device", "cpu")),
            "date": str(date.today()),
            "commit": figures.get("commit", commit),
        }
        record(module, found | {"figures": figures})
    print(module.table(figures))
    print(json.dumps({"benchmark": name, "quick": options.quick, **figures}))
    if failed := getattr(module, "failure", lambda _: None)(figures):
        raise SystemExit(failed)


def listed() -> dict[str, str]:
    """The first line of each benchmark's docstring, by name; none is imported."""
    found = {}
    for name, module in MODULES.items():
        path = HERE.joinpath(*module.split(".")).with_suffix(".py")
        found[name] = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").partition("\n")[0]
    return found


def _parser(name: str, module: ModuleType) -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(f"python -m benchmarks {name}", description=module.__doc__, formatter_class=form)
    parser.add_argument("--quick", action="store_true", help="a small run that only shows that all works")
    parser.add_argument("--record", action="store_true", help="keep the figures in results/, the table in RESULTS.md")
    parser.add_argument("--read", type=Path, metavar="FILE", help="read a file of results/ instead of measuring")
    parser.add_argument("--commit", help="of what runs, where the machine has no git")
    getattr(module, "add_options", lambda _: None)(parser)
    return parser


def _command(name: str, arguments: Sequence[str]) -> str:
    threads = os.environ.get("OMP_NUM_THREADS")
    shown = [f"../{Path(part).name}" if Path(part).is_absolute() else part for part in arguments]  # not this machine's
    return (f"OMP_NUM_THREADS={threads} " if threads else "") + shlex.join(["python", "-m", "benchmarks", name, *shown])


def record(module: ModuleType, found: dict[str, Any]) -> None:
    """Keep a record in results/, and make RESULTS.md anew.

    Parameters
    ----------
    module : ModuleType
        The benchmark.
    found : dict
        Keys benchmark, command, machine, date, commit, figures.
    """
    name = section_name(module, found)
    found = {**found, "title": found.get("title") or module.title(found["figures"])}
    records.RESULTS.mkdir(exist_ok=True)
    (records.RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    page.write()


def section_name(module: ModuleType, found: dict[str, Any]) -> str:
    """The name of a record's file."""
    return getattr(module, "section_name", lambda _: found["benchmark"])(found["figures"])


def machine(device: str = "cpu") -> str:
    """GPU if the device is one, processor and its instructions, cores, Python and PyTorch, in words."""
    import torch

    from openmm_fab.tools.devices import rounds_quickly

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        cpu = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[0]
    instructions = torch.backends.cpu.get_cpu_capability()
    if rounds_quickly(torch.device("cpu")):
        instructions += " and bfloat16"
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.startswith("cuda") else ""
    return f"{gpu}{cpu} ({instructions}), {threads}, Python {platform.python_version()}, PyTorch {torch.__version__}"


def current_commit() -> str:
    """Short hash, with -dirty where tracked files differ from it, other than results themselves; or "unknown"."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=HERE, capture_output=True, text=True).stdout.strip()

    try:
        kept = (f":(top,exclude)benchmarks/{path.name}" for path in (PAGE, FIGURES, RESULTS))
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", *kept)
        return (git("rev-parse", "--short=10", "HEAD") or "unknown") + ("-dirty" if changed else "")
    except FileNotFoundError:  # no git
        return "unknown"
