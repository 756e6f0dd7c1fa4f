"""C is compiled once, kept where only its user may write, and does without where there is no compiler."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from openmm_fab.tools import native
from openmm_fab.tools.native import LANES, NotCompiledError, in_threads, library, work_space

SOURCE = """
#include <stdint.h>
void add(const double *x, double *y, int64_t start, int64_t stop, double what) {
  for (int64_t k = start; k < stop; k++) y[k] = x[k] + what;
}
"""
ARGUMENTS = [*[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2, ctypes.c_double]

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="needs a C compiler")


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """A process that has compiled nothing yet, with a cache folder of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for cached in (native._compiled, native._folder):
        cached.cache_clear()
    yield tmp_path / "openmm_fab"
    for cached in (native._compiled, native._folder):
        cached.cache_clear()


def added(what: float) -> torch.Tensor:
    x, y = torch.arange(10.0, dtype=torch.float64), torch.zeros(10, dtype=torch.float64)
    library(SOURCE, {"add": ARGUMENTS}).add(x.data_ptr(), y.data_ptr(), 2, 8, what)
    return y


def test_compiles_once_and_finds_it_again(fresh, monkeypatch) -> None:
    expected = torch.tensor([0.0, 0, 3, 4, 5, 6, 7, 8, 0, 0], dtype=torch.float64)
    torch.testing.assert_close(added(1.0), expected, rtol=0, atol=0)
    (kept,) = fresh.iterdir()
    assert not stat.S_IMODE(fresh.stat().st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    native._compiled.cache_clear()
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("compiled again"))
    torch.testing.assert_close(added(1.0), expected, rtol=0, atol=0)
    assert list(fresh.iterdir()) == [kept]


def test_other_macros_make_another_library(fresh) -> None:
    source = SOURCE.replace("+ what", "* what").replace("void", "#ifdef TWICE\n#endif\nvoid")
    for definitions in ((), ("TWICE",)):
        library(source, {"add": ARGUMENTS}, *definitions)
    assert len(list(fresh.iterdir())) == 2


def test_a_folder_that_others_may_write_is_not_used(fresh) -> None:
    fresh.mkdir(parents=True)
    fresh.chmod(0o777)
    with pytest.warns(UserWarning, match="others may write in "):
        assert float(added(1.0)[2]) == 3.0
    assert not list(fresh.iterdir())


@pytest.mark.parametrize("home", ["a file", "none"])
def test_without_a_home_to_write_in_it_works_with_one_warning(fresh, tmp_path, monkeypatch, home) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    if home == "none":
        monkeypatch.setattr(Path, "home", no_home)
    with pytest.warns(UserWarning) as warned:
        assert float(added(1.0)[2]) == 3.0
        library(SOURCE, {"add": ARGUMENTS}, "ANOTHER")
    reason = "Could not determine home" if home == "none" else "Not a directory"
    assert [reason in str(w.message) and "compiled in every process" in str(w.message) for w in warned] == [True]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written_is_told(fresh, monkeypatch) -> None:
    assert native.cache_fault() == "" and fresh.is_dir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert native.cache_fault() == f"{fresh} is read-only"


def test_a_trial_leaves_nothing(fresh, monkeypatch) -> None:
    assert native.try_compiler() == native.compiler()
    assert not list(fresh.iterdir())
    monkeypatch.setattr(native, "compiler", lambda: "false")
    with pytest.raises(NotCompiledError, match="Expected false to compile C"):
        native.try_compiler()


def test_a_library_that_does_not_load_is_told_and_removed(fresh) -> None:
    added(1.0)
    (kept,) = fresh.iterdir()
    kept.unlink()  # another file: this process has the library mapped, and dies of one that is cut short
    kept.write_bytes(b"no library")
    code = f"import sys; sys.path[:0] = {sys.path!r}; from test_native import added; added(1.0)"
    environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "NotCompiledError" in done.stderr and str(kept) in done.stderr
    assert not kept.exists()


def test_without_a_compiler_the_message_says_what_to_install(fresh, monkeypatch) -> None:
    monkeypatch.setattr(native, "compiler", lambda: None)
    with pytest.raises(NotCompiledError, match="apt-get install gcc"):
        added(1.0)


def test_what_the_compiler_says_is_passed_on(fresh) -> None:
    with pytest.raises(NotCompiledError, match="to compile C; it says: "):
        library("no C at all", {"add": ARGUMENTS})
    assert not list(fresh.iterdir())


def test_the_compiler_of_the_environment_goes_first(monkeypatch) -> None:
    monkeypatch.setenv("CC", f"{native.compiler()} -O1")
    assert native.compiler().endswith(" -O1")
    monkeypatch.setenv("CC", "no-such-compiler")
    assert native.compiler() != "no-such-compiler"


@pytest.mark.parametrize("n", [0, 1, LANES, 5 * LANES - 1, 1000])
def test_threads_share_a_batch_without_gap_or_overlap(n, monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    pieces = []
    in_threads(lambda start, stop: pieces.append((start, stop)), n)
    assert sorted(k for start, stop in pieces for k in range(start, stop)) == list(range(n))
    assert all(start % LANES == 0 for start, _ in pieces)
    assert len(pieces) == (3 if n >= 1000 else 1)


def test_an_error_in_a_thread_is_raised(monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda start, stop: start // 0, 1000)


def test_work_space_is_aligned() -> None:
    for n in (1, 7, 100):
        work = work_space(n)
        assert work.data_ptr() % 64 == 0 and len(work) >= n and work.dtype == torch.float64
