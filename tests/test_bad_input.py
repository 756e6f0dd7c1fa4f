"""Files that are malformed or odd: an error that names the file, and the line where it can, or a right result.

A corpus that is made here, and hypothesis. Never another exception, a hang or a silent wrong answer.
"""

from __future__ import annotations

import io
import json
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import mdtraj
import numpy as np
import pytest
import torch
from examples import chain, write_chain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openmm_fab.cli.settings import run_settings
from openmm_fab.ensemble.ensemble import Ensemble
from openmm_fab.ensemble.shipped import load_reference
from openmm_fab.molecule.folders import read_settings
from openmm_fab.molecule.system import MolecularSystem
from openmm_fab.preparation.findings import find_problems
from openmm_fab.tools.files import load_torch, save_torch

ALLOWED = (ValueError, OSError)  # FileNotFoundError and all our named errors among them

Maker = Callable[[Path], object]  # writes a file and reads it


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_chain(tmp_path_factory.mktemp("chain"))


def quietly(read: Callable[[], object]) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read()


# --- PDB ---


def damaged_lines(text: str) -> Iterator[tuple[str, str | bytes]]:
    """Malformed and odd PDB files, each with a name."""
    lines = text.splitlines()
    atoms = [k for k, line in enumerate(lines) if line.startswith("HETATM")]

    def with_line(k: int, line: str) -> str:
        return "\n".join([*lines[:k], line, *lines[k + 1 :]]) + "\n"

    columns = {
        "serial": (6, 11),
        "name": (12, 16),
        "residue": (17, 20),
        "chain": (21, 22),
        "number": (22, 26),
        "x": (30, 38),
        "y": (38, 46),
        "z": (46, 54),
        "occupancy": (54, 60),
        "b": (60, 66),
        "element": (76, 78),
    }
    for what, (a, b) in columns.items():
        for label, value in (
            ("blank", ""),
            ("nan", "nan"),
            ("stars", "*" * 8),
            ("word", "abcdefgh"),
            ("huge", "9" * 8),
        ):
            line = lines[atoms[2]].ljust(80)
            yield f"{what} {label}", with_line(atoms[2], line[:a] + value[: b - a].rjust(b - a) + line[b:])
    for size in (0, 3, 6, 11, 20, 27, 30, 33, 38, 47, 53, 54, 60, 77):
        yield f"line cut at {size}", with_line(atoms[1], lines[atoms[1]][:size])
    for k in range(len(lines)):
        yield f"without line {k}", "\n".join(lines[:k] + lines[k + 1 :]) + "\n"
        yield f"line {k} twice", "\n".join([*lines[: k + 1], *lines[k:]]) + "\n"
    for size in np.linspace(0, len(text) - 2, 25).astype(int):
        yield f"cut at {size}", text[:size]
    yield "empty", ""
    yield "blank lines", "\n" * 50
    yield "only END", "END\n"
    yield "no bonds", "\n".join(line for line in lines if not line.startswith("CONECT")) + "\n"
    yield "bond to nowhere", text.replace("CONECT    1    2", "CONECT    1   77")
    yield "bond of words", text.replace("CONECT    1    2", "CONECT    1   xx")
    yield "bond to itself", text.replace("CONECT    1    2", "CONECT    1    1")
    yield "reversed", "\n".join(reversed(lines)) + "\n"
    yield "lower case", text.lower()
    yield "CRLF", text.replace("\n", "\r\n")
    yield "CR", text.replace("\n", "\r")
    yield "BOM", "\ufeff" + text
    yield "trailing garbage", text + "\x00\x01garbage" * 20
    yield "two models", f"MODEL        1\n{text.replace('END', 'ENDMDL')}MODEL        2\n{text}"
    yield "endless model", f"MODEL        1\n{text}"
    yield "all at the origin", "\n".join(f"{line[:30]}{'   0.000' * 3}{line[54:]}" if k in atoms else line for k, line in enumerate(lines))  # noqa: E501 # fmt: skip
    yield "crystal of words", "CRYST1  aa  bb  cc\n" + text
    yield "box of zeros", "CRYST1    0.000    0.000    0.000  90.00  90.00  90.00 P 1           1\n" + text
    yield "long line", with_line(atoms[0], lines[atoms[0]] + "x" * 100_000)
    yield "latin-1", text.replace("HETATM    1", "REMARK \xe9\nHETATM    1").encode("latin-1")
    yield "bytes", bytes(range(256)) * 20
    yield "zeros", bytes(4096)
    yield "XML", "<xml><a/></xml>"
    yield "JSON", '{"pdb": 1}'


def test_pdb_files(folder, tmp_path) -> None:
    """Each gives an error with the file's name, or the molecule with the file's own coordinates."""
    text = (folder / "chain.pdb").read_text()
    whole = MolecularSystem.from_pdb(folder / "chain.pdb", str(folder / "chain.xml"))
    forcefield, count, refused, lined = str(folder / "chain.xml"), 0, 0, 0
    for k, (name, content) in enumerate(damaged_lines(text)):
        path = tmp_path / f"case{k}.pdb"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        for read in (lambda path=path: MolecularSystem.from_pdb(path, forcefield), lambda path=path: find_problems(path, forcefield)):  # noqa: E501 # fmt: skip
            count += 1
            try:
                found = quietly(read)
            except ALLOWED as error:
                assert f"case{k}" in str(error), f"{name}: {error}"
                refused, lined = refused + 1, lined + ("line " in str(error))
                continue
            except Exception as error:
                raise AssertionError(f"{name}: {type(error).__name__}: {error}") from error
            if isinstance(found, MolecularSystem):
                # A right result: this molecule; where a coordinate was changed to another number, that number.
                assert found.elements == whole.elements and found.bonds.tolist() == whole.bonds.tolist(), name
                moved = np.abs(found.positions - whole.positions).max(axis=1)
                allowed = 5 if name == "all at the origin" else 1 if name[0] in "xyz" and " " in name else 0
                assert (moved > 1e-6).sum() <= allowed, name
    assert count >= 200 and refused > 80 and lined > 40, (count, refused, lined)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(data=st.data())
def test_pdb_files_by_chance(folder, tmp_path, data) -> None:
    text = bytearray((folder / "chain.pdb").read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        place = data.draw(st.integers(0, len(text) - 1))
        kind = data.draw(st.sampled_from(["set", "cut", "insert", "swap"]))
        if kind == "set":
            text[place] = data.draw(st.integers(0, 255))
        elif kind == "cut":
            del text[place : place + data.draw(st.integers(1, 40))]
        elif kind == "insert":
            text[place:place] = data.draw(st.binary(max_size=20))
        else:
            text[:place], text[place:] = text[place:], text[:place]
        if not text:
            break
    path = tmp_path / "chance.pdb"
    path.write_bytes(text)
    for read in (lambda: MolecularSystem.from_pdb(path, str(folder / "chain.xml")), lambda: find_problems(path, str(folder / "chain.xml"))):  # noqa: E501 # fmt: skip
        try:
            quietly(read)
        except ALLOWED as error:
            assert "chance" in str(error)


# --- TOML ---

WRONG_VALUES = (
    "1",
    "-1.5",
    "true",
    '""',
    "[]",
    "{}",
    "[1]",
    "1979-05-27",
    "nan",
    "inf",
    '"\\u0000"',
    "[[]]",
    "{a = 1}",
)
WRONG_TEXTS = ("", "=", "pdb", "pdb =", "pdb = chain.pdb", '[pdb]\nx = 1', 'pdb = "a"\npdb = "b"', "\x00", "[" * 2000,
               'pdb = "chain.pdb"\n[reference', 'pdb = "chain.pdb"\nnonsense = 1', 'pdb = "none.pdb"', 'pdb = "."',
               'pdb = "chain.pdb"\nforcefield = "none.xml"', 'pdb = "chain.pdb"\nforcefield = "chain.pdb"',
               'pdb = "chain.xml"\nforcefield = "chain.xml"', 'pdb = "chain.pdb"\nconstraints = "all"',
               'pdb = "../../../../etc/hostname"', "a." * 500 + "a = 1")  # fmt: skip


def test_toml_files(folder) -> None:
    """Of a molecule and of a run: the file is named, or the value fits."""
    whole, path = (folder / "system.toml").read_text(), folder / "system.toml"
    texts = [
        f'pdb = "chain.pdb"\nforcefield = "chain.xml"\n{key} = {value}\n'
        for value in WRONG_VALUES
        for key in ("name", "temperature", "constraints", "reference", "pretrained", "reference.trajectory")
    ]
    texts += [f'{key} = {value}\n{rest}' for value in WRONG_VALUES
              for key, rest in (("pdb", ""), ("forcefield", 'pdb = "chain.pdb"'))]  # fmt: skip
    texts += WRONG_TEXTS
    refused = 0
    try:
        for text in texts:
            path.write_text(text)
            try:
                found = quietly(lambda: MolecularSystem.load(folder))
            except ALLOWED as error:
                refused += 1
                named = [
                    part for part in ("system.toml", "chain", "none.", "etc/hostname", "amber96") if part in str(error)
                ]
                assert named or "system.toml" in str(error), f"{text!r}: {error}"
            except Exception as error:
                raise AssertionError(f"{text!r}: {type(error).__name__}: {error}") from error
            else:
                assert found.n_atoms == 5 and 0 < found.temperature < np.inf
            run = folder / "run.toml"
            run.write_text(text.replace("pdb", "train"))
            try:
                run_settings(run)
            except ALLOWED as error:
                assert "run.toml" in str(error), f"{text!r}: {error}"
    finally:
        path.write_text(whole)
    assert len(texts) > 100 and refused > 80, (len(texts), refused)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(text=st.one_of(st.text(max_size=80), st.binary(max_size=80)))
def test_toml_files_by_chance(tmp_path, text) -> None:
    path = tmp_path / "system.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"system\.toml"):
        read_settings(path)


# --- trajectories, ensembles, checkpoints ---


def test_ensembles_and_trajectories(tmp_path) -> None:
    """Truncated, altered, foreign, of another molecule: refused by name, or read as they were written."""
    system = chain(tmp_path / "chain")
    rng = np.random.default_rng(0)
    x = system.minimum + rng.normal(scale=0.003, size=(12, 5, 3))
    ensemble = Ensemble.from_mdtraj(mdtraj.Trajectory(x, system.md_topology), system)
    good = ensemble.save(tmp_path / "good.npz").read_bytes()
    count = 0
    for k, content in enumerate(_damaged_bytes(good, rng, 40)):
        path = tmp_path / f"case{k}.npz"
        path.write_bytes(content)
        count += 1
        try:
            found = Ensemble.load(path)
        except ALLOWED as error:
            assert f"case{k}" in str(error)
        else:
            np.testing.assert_array_equal(found.x, ensemble.x)
            np.testing.assert_array_equal(found.log_w, ensemble.log_w)
    # The reference that a system names.
    (tmp_path / "chain/system.toml").open("a").write('[reference]\ntrajectory = "md.dcd"\nweights = "w.npz"\n')
    named = MolecularSystem.load(tmp_path / "chain")
    np.savez(tmp_path / "chain/w.npz", log_w=np.zeros(12))
    weights = (tmp_path / "chain/w.npz").read_bytes()
    mdtraj.Trajectory(x, system.md_topology).save_dcd(str(tmp_path / "chain/md.dcd"))
    dcd = (tmp_path / "chain/md.dcd").read_bytes()
    assert load_reference(named).n == 12
    for content in _damaged_bytes(weights, rng, 20):
        (tmp_path / "chain/w.npz").write_bytes(content)
        count += _read_or_refused(lambda: load_reference(named), ("w.npz", "md.dcd"))
    (tmp_path / "chain/w.npz").write_bytes(weights)
    other = dcd.replace(struct.pack("<i", 5), struct.pack("<i", 6))
    for content in [b"", b"abc", dcd[:50], dcd[: len(dcd) // 2], bytes(500), other, b"\x00" * 90 + dcd]:
        (tmp_path / "chain/md.dcd").write_bytes(content)
        count += _read_or_refused(lambda: load_reference(named), ("md.dcd", "w.npz"))
    (tmp_path / "chain/md.dcd").unlink()
    count += _read_or_refused(lambda: load_reference(named), ("md.dcd",))
    assert count >= 65


def _read_or_refused(read: Callable[[], object], names: tuple[str, ...]) -> int:
    try:
        found = quietly(read)
    except ALLOWED as error:
        assert any(name in str(error) for name in names), error
    else:
        assert isinstance(found, Ensemble) and found.n == 12
    return 1


def _damaged_bytes(data: bytes, rng: np.random.Generator, n: int) -> Iterator[bytes]:
    for size in rng.integers(0, len(data), n):
        yield data[:size]
    for place in rng.integers(0, len(data), n):
        yield data[:place] + bytes([data[place] ^ int(2 ** rng.integers(8))]) + data[place + 1 :]
    for place in rng.integers(0, len(data), n // 4):
        yield data[:place] + rng.bytes(9) + data[place:]
    yield from (b"", bytes(100), b"PK\5\6" + bytes(18), json.dumps({"x": 1}).encode(), data + data, data[::-1])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(data=st.data())
def test_checkpoints_by_chance(tmp_path, data) -> None:
    state = {"z": torch.arange(12.0), "n": 3}
    path = tmp_path / "a.pt"
    content = bytearray(save_torch(path, state).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, max(len(content) - 1, 0)))
        if data.draw(st.booleans()):
            content[place : place + 1] = data.draw(st.binary(max_size=4))
        else:
            del content[place:]
    path.write_bytes(content)
    try:
        found = load_torch(path, "a checkpoint")
    except ALLOWED as error:
        assert "a.pt" in str(error)
    else:
        assert torch.equal(found["z"], state["z"]) and found["n"] == 3


def test_bytes_of_any_kind_are_no_checkpoint(tmp_path) -> None:
    rng, path = np.random.default_rng(0), tmp_path / "a.pt"
    for size in (1, 22, 100, 5000):
        path.write_bytes(rng.bytes(size))
        with pytest.raises(ValueError, match=r"a\.pt"):
            load_torch(path, "a checkpoint")
    buffer = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"a\.pt"):
        load_torch(path, "a checkpoint")
