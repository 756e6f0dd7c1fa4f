"""Files are whole or not there."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from openmm_fab.files import write_atomically


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
        write_atomically(path, write)
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["data.bin"]
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
