"""One tree in one file."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from pyro_turbovbi.errors import ArtifactError
from pyro_turbovbi.persistence.container import VERSION, digest, pack, unpack
from tests.persistence.test_trees import TREE, same

CONTENT = pack("thing", TREE)


def test_a_tree_comes_back_bit_for_bit() -> None:
    assert same(TREE, unpack("thing", CONTENT))
    assert same({}, unpack("thing", pack("thing", {})))


def test_equal_trees_give_equal_bytes() -> None:
    assert pack("thing", TREE) == CONTENT
    assert pack("thing", TREE | {"none": 0}) != CONTENT


@given(st.data())
def test_any_change_is_noticed(choice: st.DataObject) -> None:
    """One changed bit, or an end that is missing: refused, or without any effect at all."""
    place = choice.draw(st.integers(0, 8 * len(CONTENT) - 1))
    damaged = bytearray(CONTENT)
    damaged[place // 8] ^= 1 << place % 8
    for content in (bytes(damaged), CONTENT[: place // 8]):
        try:
            tree = unpack("thing", content)
        except ArtifactError:
            continue
        assert same(TREE, tree)


@pytest.mark.parametrize("content", [b"", b"text", save({"a": torch.ones(2)}), pack("other", TREE)])
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(ArtifactError, match="no thing"):
        unpack("thing", content)


def test_it_is_said_in_words_why_a_file_is_none() -> None:
    foreign = "the file holds no thing: it is not a file of this package, or it is damaged"
    bare = (
        "the file holds no thing: it has no metadata of this package; "
        "given: a safetensors file of something else"
    )
    numbers = b"\2" + bytes(7) + b"[]"
    for content, message in {
        b"": foreign,
        b"text, and not a little of it": foreign,
        bytes(range(256)): foreign,
        b"\xff" * 64: foreign,
        CONTENT[:100]: foreign,
        numbers: bare,
        save({"a": torch.ones(2)}): bare,
    }.items():
        with pytest.raises(ArtifactError) as error:
            unpack("thing", content)
        assert str(error.value) == message


def forged(change: dict[str, Any]) -> bytes:
    """The content with another manifest that has the right digest."""
    tensors = load(CONTENT)
    size = int.from_bytes(CONTENT[:8], "little")
    header = json.loads(CONTENT[8 : 8 + size])["__metadata__"]
    manifest = json.loads(header["pyro_turbovbi.thing"]) | change
    manifest.pop("sha256")
    checksum = digest(manifest, tensors)
    return save(tensors, {"pyro_turbovbi.thing": json.dumps(manifest | {"sha256": checksum})})


def test_an_unknown_version_is_refused() -> None:
    assert same(TREE, unpack("thing", forged({})))
    with pytest.raises(ArtifactError, match=f"unknown version; given: 99; accepted: {VERSION}"):
        unpack("thing", forged({"version": 99}))


def test_a_forged_manifest_is_refused() -> None:
    for tree in ({"$tensor": "none"}, {"$tensor": ["0"]}):
        with pytest.raises(ArtifactError, match="damaged or holds no thing"):
            unpack("thing", forged({"tree": tree}))
