"""openmm-fab doctor: findings on this machine, and on machines that something is wrong with."""

from __future__ import annotations

from importlib import metadata

import pytest
import torch
from typer.testing import CliRunner

from openmm_fab.cli import checkup
from openmm_fab.cli.commands import app
from openmm_fab.energy.agreement import DisagreementError
from openmm_fab.energy.compiled import CompiledEnergy
from openmm_fab.tools import fusing, memory, native
from openmm_fab.tools.install import install
from openmm_fab.tools.version import VERSION

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="needs a C compiler")


def _doctor(*options: str):
    return CliRunner().invoke(app, ["doctor", *options])


def test_a_sound_machine() -> None:
    result = _doctor("--no-compile")
    assert result.exit_code == 0, result.output
    for word in (
        f"openmm_fab: {VERSION}, in ",
        "torch",
        "openmm",
        "OpenMM's platforms: Reference",
        "cores for this process",
        "agrees with OpenMM",
    ):
        assert word in result.output
    if native.compiler():
        assert f"C compiler: {native.compiler()} works" in result.output and "in C\n" in result.output
    assert "BAD" not in result.output and "torch.compile" not in result.output


def test_a_wrong_energy_is_found(monkeypatch) -> None:
    original = CompiledEnergy.value_and_gradient

    def off(self, x):
        u, gradient = original(self, x)
        return u + 1.0, gradient

    monkeypatch.setattr(CompiledEnergy, "value_and_gradient", off)
    result = _doctor("--no-compile")
    assert result.exit_code == 1 and "BAD  compiled energy: Expected OpenMM's energies; 8 of 8" in result.output
    assert result.output.rstrip().endswith("Not ready: see the lines marked BAD.")
    assert DisagreementError.__name__ not in result.output  # told in words


def test_a_check_that_breaks_does_not_stop_the_others(monkeypatch) -> None:
    def broken() -> bool:
        raise RuntimeError("no libc")

    monkeypatch.setattr(memory, "keep_freed_memory", broken)
    result = _doctor("--no-compile")
    assert result.exit_code == 1
    assert "BAD  memory: RuntimeError: no libc" in result.output and "agrees with OpenMM" in result.output


def _only(check) -> list[str]:
    return [str(finding) for finding in check()]


def test_what_is_missing_comes_with_the_command(monkeypatch) -> None:
    def version(name: str) -> str:
        if name in ("nglview", "pymbar"):
            raise metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(metadata, "version", version)
    text = "\n".join(_only(checkup._packages))
    assert "note nglview: not installed\n       -> For structures in notebooks and reports: pip install " in text
    assert install("md") in text and "ok   torch: 1.0" in text


def test_too_many_threads(monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 9999)
    (text,) = _only(checkup._threads)
    assert text.startswith("note threads: 9999 of torch") and "export OMP_NUM_THREADS=" in text


@pytest.mark.parametrize("kept, setting, words", [(True, "1", "ok"), (False, "0", "OPENMM_FAB_KEEP_MEMORY=0")])
def test_memory(monkeypatch, kept, setting, words) -> None:
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: kept)
    monkeypatch.setenv("OPENMM_FAB_KEEP_MEMORY", setting)
    assert words in _only(checkup._memory)[0]


@needs_compiler
def test_a_compiler_and_what_it_has_made(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = _only(checkup._compiler)
    assert first.startswith(f"ok   C compiler: {native.compiler()} works") and "OPENMM_FAB_NATIVE=0" in first
    folder = tmp_path / "openmm_fab"
    assert second.startswith(f"ok   compiled code: kept in {folder}, where only you may write: 0 libraries, 0.0 MiB")
    (folder / "a.so").write_bytes(bytes(2**20))
    assert "only you may write: 1 library, 1.0 MiB" in _only(checkup._compiler)[1]
    folder.chmod(0o777)
    assert _only(checkup._compiler)[1].startswith(f"note compiled code: not kept: others may write in {folder}\n")


def test_no_compiler(monkeypatch) -> None:
    monkeypatch.setattr(native, "compiler", lambda: None)
    (text,) = _only(checkup._compiler)
    assert text.startswith("note C compiler: none of") and "apt install gcc" in text
    monkeypatch.setattr(native, "compiler", lambda: "false")
    (text,) = _only(checkup._compiler)
    assert (
        text.startswith("note C compiler: a CPU calculates by PyTorch. Expected false to compile C") and "CC=" in text
    )
    monkeypatch.setenv("OPENMM_FAB_NATIVE", "0")
    (text,) = _only(checkup._compiler)
    assert text.startswith("note C compiler: OPENMM_FAB_NATIVE=0 switches C off")
    native._compiled.cache_clear()
    result = _doctor()
    assert result.exit_code == 0 and "energy and gradient, in PyTorch" in result.output
    assert "Warning" not in result.output


def test_fusing_is_tried_where_there_is_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _only(checkup._fusing) == []
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    ones = torch.ones
    monkeypatch.setattr(torch, "ones", lambda *shape, device: ones(*shape))

    def compile(*_: object, **__: object):
        raise RuntimeError("Failed to find C compiler")

    monkeypatch.setattr(torch, "compile", compile)
    (text,) = _only(checkup._fusing)
    assert text.startswith("note torch.compile") and "is not fused" in text and "Failed to find C compiler" in text
    monkeypatch.setattr(fusing, "fuse", lambda function, example, what: function)
    (text,) = _only(checkup._fusing)
    assert text.startswith("ok   torch.compile: works on the GPU")
