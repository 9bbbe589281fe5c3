"""Fetching from a server on this machine: good files get their names, and nothing else is left."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import hashlib
import io
import os
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pyro_turbovbi import data
from pyro_turbovbi.data import downloads
from pyro_turbovbi.data.sources import Source
from pyro_turbovbi.errors import (
    DownloadError,
    InvalidArgumentError,
    InvalidDataError,
    StorageError,
)
from tests.data.serving import Served, serving

CONTENT = {"one.txt": b"1" * 100_000, "two.txt": b"2"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("no_proxy", "*")  # what is on this machine is asked without a detour
    with serving() as served:
        served.files |= CONTENT
        yield served


@pytest.fixture
def source(server: Served, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A data set of two files."""
    made = Source("set", "set", tuple(CONTENT), (server.url,), sums(CONTENT))
    return known(made, monkeypatch)


def sums(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def known(source: Source, monkeypatch: pytest.MonkeyPatch) -> Source:
    """Makes a source one of those that can be asked for."""
    monkeypatch.setattr(downloads, "find_sources", lambda name: (source,))
    return source


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def archived(server: Served, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A data set in an archive."""
    server.files["set.tar.gz"] = content
    checksum = sums({"set.tar.gz": content})
    made = Source("set", "inside", tuple(CONTENT), (server.url,), checksum, "set.tar.gz")
    return known(made, monkeypatch)


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones among them."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# What goes well --------------------------------------------------------------------------------


def test_files_are_fetched_once(source: Source, server: Served, tmp_path: Path) -> None:
    for _ in range(2):
        assert data.download("set", tmp_path) == tmp_path / "set"
        assert content(tmp_path / "set") == CONTENT
        assert server.asked == list(CONTENT)
    assert [path.name for path in tmp_path.rglob("*")] != [], "and no draft among them"
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == sorted(CONTENT)


def test_only_what_is_missing_or_not_as_published_is_fetched(
    source: Source, server: Served, tmp_path: Path
) -> None:
    data.download("set", tmp_path)
    (tmp_path / "set" / "two.txt").write_bytes(b"damaged")
    data.download("set", tmp_path)
    assert content(tmp_path / "set") == CONTENT
    assert server.asked == [*CONTENT, "two.txt"]


def test_it_goes_where_loaders_look(
    source: Source, server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYRO_TURBOVBI_DATA", str(tmp_path / "chosen"))
    assert data.download("set") == tmp_path / "chosen" / "set"
    assert content(tmp_path / "chosen" / "set") == CONTENT
    (tmp_path / "chosen" / "set" / "two.txt").write_bytes(b"another copy that loaders can read")
    data.download("set")
    assert server.asked == list(CONTENT), "what a loader finds is left alone"


def test_an_archive_is_unpacked(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = {f"inside/{name}": value for name, value in {**CONTENT, "names": b"a b"}.items()}
    archived(server, packed({**inside, "elsewhere/file": b"not asked for"}), monkeypatch)
    for _ in range(2):
        assert data.download("set", tmp_path) == tmp_path / "inside"
        assert content(tmp_path) == inside
    assert server.asked == ["set.tar.gz"]


def test_all_of_a_family_are_fetched(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source("uci/a", "uci/a", ("two.txt",), (server.url,), sums(CONTENT))
    both = (source, dataclasses.replace(source, name="uci/b", directory="uci/b"))
    monkeypatch.setattr(downloads, "find_sources", lambda name: both)
    assert data.download("uci", tmp_path) == tmp_path / "uci"
    assert content(tmp_path) == {"uci/a/two.txt": b"2", "uci/b/two.txt": b"2"}


def test_another_address_is_asked_where_the_first_one_fails(
    source: Source, server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["old/two.txt"] = b"not the published one"
    urls = (f"{server.url}old/", server.url)
    known(dataclasses.replace(source, urls=urls), monkeypatch)
    data.download("set", tmp_path)
    assert content(tmp_path / "set") == CONTENT
    assert server.asked == ["old/one.txt", "one.txt", "old/two.txt", "two.txt"]


def test_a_bar_shows_the_progress(
    source: Source, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data.download("set", tmp_path, progress=True)
    assert "one.txt" in capsys.readouterr().err
    data.download("set", tmp_path / "again")
    assert capsys.readouterr().err == ""


# What does not ---------------------------------------------------------------------------------


def fails(error: type[Exception], message: str, place: Path) -> None:
    """Fetching says this, and leaves nothing where there was nothing."""
    before = content(place)
    with pytest.raises(error) as caught:
        data.download("set", place / "new")
    assert str(caught.value) == message
    assert content(place) == before
    assert not (place / "new").exists()


def test_what_is_not_the_published_file_gets_no_name(
    source: Source, server: Served, tmp_path: Path
) -> None:
    server.files["one.txt"] = b"something else"
    digest, wanted = sums(server.files)["one.txt"], source.sha256["one.txt"]
    message = (
        f"{server.url}one.txt is not the published file; given: SHA-256 {digest}; "
        f"accepted: {wanted}"
    )
    fails(InvalidDataError, message, tmp_path)


def test_a_file_that_is_not_there(source: Source, server: Served, tmp_path: Path) -> None:
    del server.files["one.txt"]
    message = (
        f"{server.url}one.txt cannot be fetched: 404 Not Found; accepted: a connection to it; or "
        f"that file by hand, in {tmp_path}/new/set"
    )
    fails(DownloadError, message, tmp_path)


def test_a_server_that_closes_early(source: Source, server: Served, tmp_path: Path) -> None:
    server.short.add("one.txt")
    message = (
        f"{server.url}one.txt cannot be fetched: the connection ended after 50,000 of 100,000 "
        f"bytes; accepted: a connection to it; or that file by hand, in {tmp_path}/new/set"
    )
    fails(DownloadError, message, tmp_path)


def test_what_came_before_the_failure_is_kept(
    source: Source, server: Served, tmp_path: Path
) -> None:
    server.short.add("two.txt")
    server.files["two.txt"] = b"longer"
    with pytest.raises(DownloadError, match="ended after 3 of 6 bytes"):
        data.download("set", tmp_path)
    assert content(tmp_path) == {"set/one.txt": CONTENT["one.txt"]}


@pytest.mark.parametrize("archive", [False, True])
def test_no_server(
    archive: bool, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
    file = "set.tar.gz" if archive else "one.txt"
    by_hand = f"unpacked into {tmp_path}/new" if archive else f"in {tmp_path}/new/set"
    changes: dict[str, Any] = {"archive": file} if archive else {}
    known(dataclasses.replace(source, urls=(url,), **changes), monkeypatch)
    message = (
        f"{url}{file} cannot be fetched: Connection refused; accepted: a connection to it; or "
        f"that file by hand, {by_hand}"
    )
    fails(DownloadError, message, tmp_path)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError("timed out"), "timed out"),
        (ConnectionResetError(errno.ECONNRESET, "reset"), "reset"),
        (OSError(), "OSError"),
    ],
    ids=["no answer", "reset", "no words"],
)
def test_a_network_that_fails(
    error: OSError, words: str, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("urllib.request.urlopen", fail)
    with pytest.raises(DownloadError, match=f"cannot be fetched: {words}; accepted: a connection"):
        data.download("set", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("call", "number", "words"),
    [
        ("os.fsync", errno.ENOSPC, "No space left on device"),
        ("pathlib.Path.open", errno.EROFS, "Read-only file system"),
        ("pathlib.Path.mkdir", errno.EACCES, "Permission denied"),
        ("pathlib.Path.replace", errno.EACCES, "Permission denied"),
        ("tempfile.mkdtemp", errno.ENOSPC, "No space left on device"),
    ],
)
def test_a_disk_that_does_not_take_it(
    call: str,
    number: int,
    words: str,
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    message = f"the data set cannot be written: {words}; given: {tmp_path}/new/set"
    with monkeypatch.context() as patch:
        patch.setattr(call, refuse)
        with pytest.raises(StorageError) as caught:
            data.download("set", tmp_path / "new")
    assert str(caught.value) == message
    assert caught.value.errno == number
    assert not (tmp_path / "new").exists()


def test_ctrl_c_leaves_nothing(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            data.download("set", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_file_that_may_not_be_read(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.download("set", tmp_path)

    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StorageError) as caught:
        data.download("set", tmp_path)
    monkeypatch.undo()
    assert str(caught.value) == (
        f"the file cannot be read: Permission denied; given: {tmp_path}/set/one.txt"
    )


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (packed({"inside/one.txt": b""}), "set.tar.gz lacks files of inside/; accepted: one.txt, "),
        (b"no archive", "set.tar.gz cannot be unpacked; given: not a gzip file"),
        (packed({"inside/one.txt": bytes(999)})[:-20], "set.tar.gz cannot be unpacked; given: "),
        (gzip.compress(b"no archive"), "set.tar.gz cannot be unpacked; given: "),
        (packed({"../outside.txt": b""}), "set.tar.gz cannot be unpacked; given: '../outside.txt'"),
    ],
    ids=[
        "lacks a file",
        "no archive",
        "cut off",
        "compressed, but no archive",
        "goes elsewhere",
    ],
)
def test_bad_archives(
    archive: bytes, message: str, server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(server, archive, monkeypatch)
    with pytest.raises(InvalidDataError) as caught:
        data.download("set", tmp_path / "new")
    assert str(caught.value).startswith(message)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_while_unpacking(
    server: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived(
        server, packed({f"inside/{name}": text for name, text in CONTENT.items()}), monkeypatch
    )

    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tarfile.TarFile.extractall", refuse)
    message = f"the data set cannot be written: No space left on device; given: {tmp_path}/new"
    with pytest.raises(StorageError) as caught:
        data.download("set", tmp_path / "new")
    assert str(caught.value) == f"{message}/inside"
    assert not list(tmp_path.iterdir())


def test_an_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="nothing to fetch for this name; given: digits"):
        data.download("digits", tmp_path)
    assert not list(tmp_path.iterdir())
