"""The allocator keeps what was freed; seen from a process of its own, whose allocator nobody has told before."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from openmm_fab.tools import memory

SCRIPT = """
import os, runpy, sys
told = runpy.run_path(sys.argv[1])["keep_freed_memory"]()
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
block = bytes(1) + bytearray(50_000_000)
full = resident()
del block
print(told, full - resident() < 25_000_000)
"""


def _run(**environment: str) -> list[str]:
    names = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "OPENMM_FAB_KEEP_MEMORY")
    clean = {k: v for k, v in os.environ.items() if k not in names}
    command = [sys.executable, "-c", SCRIPT, memory.__file__]
    done = subprocess.run(command, env=clean | environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_stays():
    assert _run() == ["True", "True"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_it_can_be_switched_off():
    assert _run(OPENMM_FAB_KEEP_MEMORY="0") == ["False", "False"]


def test_other_platforms_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_freed_memory() is False
