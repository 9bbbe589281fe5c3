"""The outer form: every section comes back, everything else is refused."""

from __future__ import annotations

import hashlib
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyro_turbovbi.compression.container import (
    MAGIC,
    MANIFEST_LIMIT,
    VERSION,
    Sections,
    pack,
    unpack,
)
from pyro_turbovbi.errors import ArtifactError


def sealed(body: bytes) -> bytes:
    """A file around any body, with a digest that fits."""
    version = bytes([VERSION])
    return MAGIC + version + hashlib.sha256(version + body).digest()[:8] + body


def deflated(text: bytes) -> bytes:
    packed = zlib.compress(text, wbits=-15)
    length, size = b"", len(packed)
    while size >= 128:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    return length + bytes([size]) + packed


@given(
    manifest=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
        max_leaves=10,
    ),
    coded=st.binary(max_size=300),
    exact=st.binary(max_size=300),
)
def test_sections_come_back(manifest: object, coded: bytes, exact: bytes) -> None:
    sections = Sections(manifest, coded, exact)
    assert unpack(pack(sections)) == sections


def test_little_besides_the_sections() -> None:
    layers = [["0", "Linear", {"bias": True, "in_features": 7, "out_features": 3}, [{}, {}]]]
    assert len(pack(Sections({"layers": layers}, b"", b""))) < 45


def test_every_cut_and_every_flipped_bit_is_refused() -> None:
    content = pack(Sections({"layers": []}, b"1234", b"56"))
    damaged = [content[:n] for n in range(len(content))] + [content + b"0"]
    for n in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[n // 8] ^= 1 << n % 8
        damaged.append(bytes(flipped))
    for one in damaged:
        with pytest.raises(ArtifactError):
            unpack(one)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff" * 20,
        b"\x05ab",
        b"\x01\x00",
        deflated(b"{}"),
        deflated(b"{}") + b"\x09ab",
        deflated(b"{}")[:-1],
        b"\x80" * 10,
    ],
)
def test_bodies_that_do_not_hold_together_are_refused(body: bytes) -> None:
    with pytest.raises(ArtifactError):
        unpack(sealed(body))


def test_a_manifest_that_swells_is_refused_unread() -> None:
    bomb = sealed(deflated(b"[" + b" " * (64 * MANIFEST_LIMIT) + b"]") + b"\x00")
    assert len(bomb) < 100_000
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="too long"):
        unpack(bomb)
    assert tracemalloc.get_traced_memory()[1] < 4 * MANIFEST_LIMIT
    tracemalloc.stop()


def test_unknown_versions_are_refused() -> None:
    content = pack(Sections({}, b"", b""))
    with pytest.raises(ArtifactError, match="unknown version"):
        unpack(content[:4] + b"\x63" + content[5:])
