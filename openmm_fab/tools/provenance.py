"""What made a result: versions, commit, command, machine and threads, as plain text by name."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import torch

from .devices import core_count
from .version import VERSION

LIBRARIES = ("torch", "openmm", "numpy", "mdtraj")


def provenance(device: str = "cpu") -> dict[str, str]:
    """Versions, commit, command, machine, device, threads and date of this process, in the order to show them.

    Parameters
    ----------
    device : str
        Where it computes.
    """
    found = {"openmm_fab": VERSION}
    if commit := commit_of(Path(__file__).parents[2]):
        found["commit"] = commit
    found |= {"Python": platform.python_version(), **{name: metadata.version(name) for name in LIBRARIES}}
    found |= {
        "command": command(),
        "machine": f"{platform.system()} {platform.release()}, {processor()}, {core_count()} cores for this process",
        "device": f"{device}, {torch.cuda.get_device_name()}" if device.startswith("cuda") else device,
        "threads": f"{torch.get_num_threads()}, OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}",
    }
    return found | {"date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")}


def command() -> str:
    """The command line of this process; a notebook's or an interpreter's own where there is no other."""
    program, *arguments = sys.argv or [""]
    name = Path(program).name
    called = ["python", "-m", Path(program).parent.name] if name == "__main__.py" else [name or "python"]
    return shlex.join([*called, *arguments])


def commit_of(checkout: Path) -> str:
    """The commit of a git checkout, with a word on changes since; empty for any other folder, or without git."""
    if not (checkout / ".git").exists():
        return ""

    def git(*arguments: str) -> str:
        asked = ["git", "-C", str(checkout), *arguments]
        return subprocess.run(asked, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "openmm_fab")
        return git("rev-parse", "HEAD") + (", with changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def processor() -> str:
    """The processor's name as the system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
