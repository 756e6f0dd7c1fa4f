"""Where benchmark figures are kept: RESULTS.md, a section a benchmark, each naming its command, machine and commit."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def record(
    name: str,
    title: str,
    command: str,
    body: str,
    commit: str | None = None,
    where: str | None = None,
    day: str | None = None,
) -> None:
    """Replace section `name` of RESULTS.md, or add it at the end.

    `commit` is what ran, `where` the `machine` and `day` the date, if not what is here now.
    """
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads and where is None:
        command = f"OMP_NUM_THREADS={threads} {command}"
    section = (
        f"<!-- {name} -->\n## {title}\n\n"
        f"`{command}`, {day or date.today()}, commit {commit or current_commit()}, {where or machine()}\n\n"
        f"{body.strip()}\n<!-- /{name} -->\n"
    )
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else "# Results\n"
    old = re.compile(rf"<!-- {name} -->.*?<!-- /{name} -->\n", re.DOTALL)
    text = old.sub(lambda _: section, text) if old.search(text) else f"{text.rstrip()}\n\n{section}"
    RESULTS.write_text(text, encoding="utf-8")


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
    """Short hash, with -dirty where tracked files differ from it, other than results themselves."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=RESULTS.parent, capture_output=True, text=True).stdout.strip()

    results = (f":(top,exclude)benchmarks/{name}" for name in (RESULTS.name, "figures"))
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", *results)
    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + ("-dirty" if changed else "")
