"""A file under its name is the old one or the new one, whatever happens."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from pyro_turbovbi.errors import StorageError
from pyro_turbovbi.persistence.files import DRAFT, read, remove_drafts, write_atomically


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"first", b"", bytes(range(256))):
        write_atomically(path, content)
        assert read(path) == content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.open"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_failure_leaves_the_old_file_and_no_draft(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Disk full, read-only file system, no permission: at every call that may say so."""
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(call, fail)
    with pytest.raises(StorageError, match=os.strerror(number)) as error:
        write_atomically(path, b"new")
    monkeypatch.undo()
    assert error.value.errno == number
    assert str(path) in str(error.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_disk_has_the_content_before_the_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content, then name, then directory: no other order survives a power failure."""
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synchronised(descriptor: int) -> None:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        calls.append("directory" if is_directory else "content")
        fsync(descriptor)

    def renamed(draft: Path, target: Path) -> Path:
        calls.append("name")
        return replace(draft, target)

    monkeypatch.setattr("os.fsync", synchronised)
    monkeypatch.setattr("pathlib.Path.replace", renamed)
    write_atomically(tmp_path / "file", b"content")
    assert calls == ["content", "name", "directory"]


def test_a_file_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read: No such file"):
        read(tmp_path / "none")
    with pytest.raises(StorageError, match="cannot be written: No such file"):
        write_atomically(tmp_path / "none" / "file", b"")


def test_a_directory_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (".", "..", tmp_path):
        with pytest.raises(StorageError) as error:
            write_atomically(path, b"")
        assert str(error.value) == f"the file cannot be written: Is a directory; given: {path}"
        with pytest.raises(StorageError) as error:
            read(path)
        assert str(error.value) == f"the file cannot be read: Is a directory; given: {path}"
    assert list(tmp_path.iterdir()) == []


def test_drafts_of_interrupted_writes_are_removed(tmp_path: Path) -> None:
    kept = tmp_path / f"own{DRAFT}"
    for path in (kept, tmp_path / f".file.0123{DRAFT}"):
        path.write_bytes(b"half")
    remove_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == [kept], "only hidden ones are ours"
