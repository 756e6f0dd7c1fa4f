"""Files are whole or not there."""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from openmm_fab.tools import files
from openmm_fab.tools.files import (
    DamagedFileError,
    FormatError,
    NotWrittenError,
    check_format,
    latest,
    load_json,
    load_npz,
    load_torch,
    previous,
    save_torch,
    write_atomically,
)

STATE = {"z": torch.arange(40.0).reshape(8, 5), "step": 3, "names": ["a", "b"], "inner": {"k": torch.ones(2) / 3}}


def _names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "folder" / "data.bin"
    assert write_atomically(path, lambda file: file.write(b"one")) == path
    assert path.read_bytes() == b"one"
    write_atomically(str(path), lambda file: file.write(b"two"))
    assert path.read_bytes() == b"two"
    assert _names(path.parent) == ["data.bin"]


def test_text_mode(tmp_path):
    write_atomically(tmp_path / "a.txt", lambda file: file.write("phi\n"), mode="w")
    assert (tmp_path / "a.txt").read_text() == "phi\n"


def test_the_place_is_untouched_until_the_file_is_whole(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(b"old")

    def write(file) -> None:
        file.write(b"new" * 100_000)
        file.flush()
        assert path.read_bytes() == b"old"
        (other,) = (n for n in _names(tmp_path) if n != "data.bin")
        assert other.startswith(".data.bin.")  # beside its place: a rename within one disk

    write_atomically(path, write)
    assert path.read_bytes() == b"new" * 100_000


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_after_an_error_the_old_file_stays(tmp_path, error):
    path = tmp_path / "data.bin"
    path.write_bytes(b"old")

    def write(file) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(type(error)) as caught:
        write_atomically(path, write, keep_previous=True)
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["data.bin"]
    if isinstance(error, OSError):
        assert isinstance(caught.value, NotWrittenError) and caught.value.errno == errno.ENOSPC
        assert str(path) in str(caught.value) and "untouched" in str(caught.value)
    else:
        assert any(str(path) in note for note in caught.value.__notes__)


def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "data.bin").mkdir()
    with pytest.raises(OSError):
        write_atomically(tmp_path / "data.bin", lambda file: file.write(b"x"))
    assert _names(tmp_path) == ["data.bin"]


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o022)
    try:
        path = write_atomically(tmp_path / "data.bin", lambda file: file.write(b"x"))
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


# --- the file before ---


def test_the_file_before_is_kept(tmp_path):
    path = tmp_path / "checkpoint.pt"
    for text in (b"one", b"two", b"three"):
        write_atomically(path, lambda file, text=text: file.write(text), keep_previous=True)
    assert path.read_bytes() == b"three" and previous(path).read_bytes() == b"two"
    assert _names(tmp_path) == ["checkpoint.previous.pt", "checkpoint.pt"]


def test_the_file_before_is_kept_without_links(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    test_the_file_before_is_kept(tmp_path)


def test_what_a_killed_writer_left_is_swept_up(tmp_path):
    old, new, other = (tmp_path / name for name in (".data.bin.0123abcd", ".data.bin.4567cdef", ".other.bin.0123abcd"))
    for path in (old, new, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (time.time() - 2 * files.LEFT_BEHIND,) * 2)
    write_atomically(tmp_path / "data.bin", lambda file: file.write(b"x"))
    assert not old.exists() and new.exists() and other.exists()


def _two(tmp_path: Path) -> Path:
    path = tmp_path / "state.pt"
    for step in (1, 2):
        save_torch(path, STATE | {"step": step}, keep_previous=True)
    return path


def _load(path: Path) -> int:
    return load_torch(path, "a state")["step"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign", "missing"])
def test_where_the_last_is_damaged_the_one_before_is_used(tmp_path, damage):
    path = _two(tmp_path)
    assert latest(path, _load) == 2
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        flipped = bytearray(data)
        flipped[data.index(STATE["z"].numpy().tobytes()) + 9] ^= 4
        bad = {"truncated": data[: len(data) // 2], "flipped": flipped, "empty": b"", "foreign": b"%PDF-1.7 " * 99}
        path.write_bytes(bad[damage])
        with pytest.raises(DamagedFileError, match=r"Expected a state at .*state\.pt; the file is truncated, damaged"):
            _load(path)
    with pytest.warns(UserWarning, match=r"Goes on from .*state\.previous\.pt"):
        assert latest(path, _load) == 1
    # What is written next leaves the good one as the one before.
    save_torch(path, STATE | {"step": 3}, keep_previous=True)
    assert _load(path) == 3 and _load(previous(path)) == 1


def test_two_damaged_files(tmp_path):
    path = _two(tmp_path)
    path.write_bytes(b"")
    previous(path).write_bytes(b"")
    with pytest.raises(DamagedFileError) as caught:
        latest(path, _load)
    assert any("state.previous.pt" in note for note in caught.value.__notes__)
    with pytest.raises(FileNotFoundError, match="Expected a state at"):
        latest(tmp_path / "none.pt", _load)


# --- damage ---


def _same(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, torch.Tensor | np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return a == b


@pytest.mark.parametrize("kind", ["pt", "npz"])
def test_no_flipped_bit_changes_what_is_read(tmp_path, kind):
    """A bit here and there, every tenth byte and all of the archive's directory: refused, or of no consequence."""
    path = tmp_path / f"a.{kind}"
    if kind == "pt":
        save_torch(path, STATE)
    else:
        np.savez(path, x=np.arange(20.0), name=np.array("abc"), empty=np.zeros((0, 3)))

    def read():
        return load_torch(path, "it") if kind == "pt" else load_npz(path, "it")

    expected, data, refused = read(), path.read_bytes(), 0
    directory = data.index(b"PK\1\2")
    places = [*range(0, directory, 10), *range(directory, len(data))]
    for k, place in enumerate(places):
        flipped = bytearray(data)
        flipped[place] ^= 1 << (k % 8)
        path.write_bytes(flipped)
        try:
            assert _same(read(), expected), f"byte {place}"
        except DamagedFileError:
            refused += 1
    assert 0.3 * len(places) < refused <= len(places)


def test_checkpoints_carry_a_checksum_and_stay_archives_of_torch(tmp_path):
    path = save_torch(tmp_path / "a.pt", STATE)
    assert _same(torch.load(path, weights_only=True), STATE) and zipfile.ZipFile(path).comment[:7] == b"sha256 "
    torch.save(STATE, tmp_path / "unsealed.pt")
    assert _same(load_torch(tmp_path / "unsealed.pt", "it"), STATE)
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match="its checksum is wrong"):
        load_torch(path, "it")


@pytest.mark.parametrize("kind", ["pt", "npz"])
def test_truncated_files_are_refused(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    save_torch(path, STATE) if kind == "pt" else np.savez(path, x=np.arange(20.0))
    data = path.read_bytes()
    for size in np.linspace(0, len(data) - 1, 40).astype(int):
        path.write_bytes(data[:size])
        with pytest.raises(DamagedFileError, match="Expected it at"):
            load_torch(path, "it") if kind == "pt" else load_npz(path, "it")


def test_json_that_is_none(tmp_path):
    path = tmp_path / "settings.json"
    for text in (b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000):
        path.write_bytes(text)
        with pytest.raises(DamagedFileError, match=r"settings\.json"):
            load_json(path, "settings")
    path.write_text('{"a": 1}')
    assert load_json(path, "settings") == {"a": 1}


# --- disks ---


class Full(io.BytesIO):
    """Takes so many bytes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_RDONLY)


@pytest.mark.parametrize("write", [lambda p, s: save_torch(p, s, keep_previous=True), lambda p, s: _npz(p)])
def test_a_disk_that_fills_up_at_any_byte(tmp_path, monkeypatch, write):
    path = tmp_path / "state.pt"
    write(path, STATE)
    before = path.read_bytes()
    random = np.random.default_rng(0)
    real = open
    for room in random.integers(0, len(before) - 1, 60):
        monkeypatch.setattr(files, "open", lambda *a, room=room, **k: Full(int(room)), raising=False)
        with pytest.raises(NotWrittenError, match=r"No space left on device.*was not written"):
            write(path, STATE | {"step": 9})
        monkeypatch.setattr(files, "open", real, raising=False)
        assert path.read_bytes() == before and _names(tmp_path) == ["state.pt"]


class Once:
    """A file whose n-th write finds the disk full, and no other; says what was asked of it."""

    def __init__(self, file, failing: int, asked: list[int]) -> None:
        self.file, self.failing, self.asked = file, failing, asked

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data) -> int:
        self.asked.append(len(data))
        if len(self.asked) == self.failing + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)


@pytest.mark.parametrize("failing", [0, 3, 9])
def test_a_disk_that_is_full_for_one_write_only(tmp_path, monkeypatch, failing):
    """Room again right afterwards: no file with a hole takes the good one's place."""
    path = save_torch(tmp_path / "state.pt", STATE)
    before, asked = path.read_bytes(), []

    def opened(*args, **kwargs):
        return Once(open(*args, **kwargs), failing, asked)

    monkeypatch.setattr(files, "open", opened, raising=False)
    with pytest.raises(NotWrittenError, match="No space left on device"):
        save_torch(path, STATE | {"step": 9})
    assert len(asked) == failing + 1  # nothing is written behind the hole
    assert path.read_bytes() == before and _names(tmp_path) == ["state.pt"]


def _npz(path: Path) -> None:
    write_atomically(path, lambda file: np.savez(file, x=np.arange(50.0), y=np.ones(7)))


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    path = save_torch(tmp_path / "state.pt", STATE)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(NotWrittenError, match="was not written"):
            save_torch(path, STATE | {"step": 9})
        assert load_torch(path, "a state")["step"] == 3
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["open", "replace", "fsync"])
def test_any_step_of_writing_may_fail(tmp_path, monkeypatch, code, call):
    path = save_torch(tmp_path / "state.pt", STATE, keep_previous=True)

    def fails(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files if call == "open" else os, call, fails, raising=False)
    with pytest.raises(NotWrittenError, match=r"state\.pt was not written") as caught:
        save_torch(path, STATE | {"step": 9})
    monkeypatch.undo()
    assert caught.value.errno == code and load_torch(path, "a state")["step"] == 3
    assert _names(tmp_path) == ["state.pt"]


def test_zip_archives_of_others_are_read_all_the_same(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(100_000), label=np.arange(3))
    assert load_npz(tmp_path / "a.npz", "it")["x"].shape == (100_000,)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.txt", "text")
    with pytest.raises(DamagedFileError):
        load_torch(tmp_path / "b.npz", "it")


def test_a_disk_that_is_full(tmp_path):
    """A real one, of 256 KiB in memory, where the system lets us have it."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("needs the right to mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount here")
    try:
        path = save_torch(disk / "state.pt", STATE, keep_previous=True)
        before = path.read_bytes()
        for size in (70_000, 100_000, 1_000_000):
            with pytest.raises(NotWrittenError, match="No space left on device"):
                save_torch(path, STATE | {"z": torch.zeros(size)}, keep_previous=True)
            assert path.read_bytes() == before and _names(disk) == ["state.pt"]
        save_torch(path, STATE | {"step": 4}, keep_previous=True)
        assert load_torch(path, "a state")["step"] == 4
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    "found, expected, got",
    [
        (2, 3, "of format 3 at a/b; got format 2 of an older version. Train anew."),
        (4, 3, "of format 3 at a/b; got format 4 of a newer version. Train anew."),
        ("model 1", "model 2", "of format 'model 2' at a/b; got 'model 1'. Train anew."),
        (None, "model 2", "of format 'model 2' at a/b; got None. Train anew."),
    ],
)
def test_formats(found, expected, got) -> None:
    check_format(expected, expected, "a thing", "a/b", "Train anew.")
    with pytest.raises(FormatError) as error:
        check_format(found, expected, "a thing", "a/b", "Train anew.")
    assert str(error.value) == f"Expected a thing {got}"
