"""The outer form of a compact file: sections whose lengths and digest are checked before use.

    4 bytes   magic, 0x89 "PTV"
    1 byte    version
    8 bytes   SHA-256 of the version byte and everything behind the digest, truncated
    varint    length of the manifest section, then the manifest: canonical JSON, raw deflate with a
              preset dictionary
    varint    length of the coded section, then the decisions (see `bit_coding`)
    the rest  exact values, little endian

The first eight bytes of a safetensors file are a length, which this magic could not be for any file
below a gigabyte: a reader tells the two apart by the first four bytes.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from typing import Any, NamedTuple

from pyro_turbovbi.errors import ArtifactError

MAGIC = b"\x89PTV"
VERSION = 1
"""Version of the compact form; a reader refuses versions that it does not know."""
MANIFEST_LIMIT = 1 << 20
"""Bytes of a manifest before compression; a larger one is refused unread."""

_DIGEST_BYTES = 8
_HEAD = len(MAGIC) + 1 + _DIGEST_BYTES
# Words that manifests are made of, the likeliest last. Part of version 1: never to be changed.
_DICTIONARY = (
    b'"Hardshrink""Softshrink""Threshold""threshold":"value":"lambd":"Hardswish""Hardsigmoid"'
    b'"LogSigmoid""Hardtanh""min_val":"max_val":"Tanhshrink""Softsign""Softplus""beta":"Mish"'
    b'"CELU""ELU""alpha":1.0"SELU""SiLU""GELU"{"approximate":"none"}"PReLU"{"num_parameters":1}'
    b'"LeakyReLU"{"negative_slope":0.01}"ReLU6""Sigmoid""Tanh""Softmax""LogSoftmax"{"dim":1}'
    b'"AdaptiveAvgPool1d""AdaptiveAvgPool2d"{"output_size":"AvgPool1d""AvgPool2d""MaxPool1d"'
    b'"count_include_pad":true,"divisor_override":null,"BatchNorm1d""BatchNorm2d"{"affine":true,'
    b'"eps":1e-05,"momentum":0.1,"num_features":[{},{},{},{},{}]"Flatten"{"end_dim":-1,'
    b'"start_dim":1},[]],"MaxPool2d"{"ceil_mode":false,"dilation":1,"kernel_size":2,"padding":0,'
    b'"stride":2},[]],"Conv1d""Conv2d"{"bias":true,"dilation":[1,1],"in_channels":,"kernel_size":'
    b'[3,3],"out_channels":,"padding":[0,0],"padding_mode":"zeros","stride":[1,1]},"dtype":'
    b'"float64","step":[{"layers":[["select0","InputSelect",{"count":,"size":784},[{"columns":28,'
    b'"support":2}]],["0","Linear",{"bias":true,"in_features":,"out_features":},[{"scale":120,'
    b'"step":[12,-9],"support":1},{"step":[12,-9],"support":0}]],["1","ReLU",{},[]],["2","Linear",'
    b'{"bias":true,"in_features":'
)


class Sections(NamedTuple):
    """The three sections of a compact file.

    Attributes:
        manifest: What the file describes; plain lists, dicts, strings and numbers.
        coded: The decisions, a multiple of four bytes.
        exact: Values that are stored as they are.
    """

    manifest: Any
    coded: bytes
    exact: bytes


def pack(sections: Sections) -> bytes:
    """Writes the sections of a file.

    Args:
        sections: What to write.

    Returns:
        The content of the file; equal sections give equal bytes.
    """
    manifest = json.dumps(sections.manifest, separators=(",", ":"), sort_keys=True).encode()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=_DICTIONARY)
    packed = deflate.compress(manifest) + deflate.flush()
    parts = [_varint(len(packed)), packed, _varint(len(sections.coded)), sections.coded]
    body = b"".join([*parts, sections.exact])
    version = bytes([VERSION])
    return MAGIC + version + _digest(version + body) + body


def unpack(content: bytes) -> Sections:
    """Reads the sections of a file and checks their lengths and the digest.

    Args:
        content: What `pack` returned.

    Returns:
        The sections.

    Raises:
        ArtifactError: If the content is damaged, of an unknown version, or of another kind.
    """
    if len(content) < _HEAD or not content.startswith(MAGIC):
        raise ArtifactError("the file is no compact network", given=f"{len(content)} bytes")
    version, digest, body = content[4:5], content[5:_HEAD], content[_HEAD:]
    if version[0] != VERSION:
        raise ArtifactError("the file has an unknown version", given=version[0], accepted=[VERSION])
    if _digest(version + body) != digest:
        raise ArtifactError("the file is damaged: its content does not have the recorded digest")
    packed, rest = _section(body)
    coded, exact = _section(rest)
    return Sections(_manifest(packed), coded, exact)


def _manifest(packed: bytes) -> Any:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS, zdict=_DICTIONARY)
    try:
        manifest = inflate.decompress(packed, MANIFEST_LIMIT)
    except zlib.error as error:
        raise ArtifactError("the manifest cannot be decompressed") from error
    if not inflate.eof or inflate.unused_data:
        raise ArtifactError(
            "the manifest is too long or incomplete", accepted=f"at most {MANIFEST_LIMIT:,} bytes"
        )
    return json.loads(manifest)


def _section(content: bytes) -> tuple[bytes, bytes]:
    """The section at the beginning, and what is behind it."""
    length, start = 0, 0
    for start, byte in enumerate(content[:8], 1):
        length |= (byte & 0x7F) << 7 * (start - 1)
        if byte < 0x80:
            break
    else:
        raise ArtifactError("a section of the file has no length")
    if length > len(content) - start:
        raise ArtifactError(
            "a section is longer than the file", given=length, accepted=f"{len(content) - start}"
        )
    return content[start : start + length], content[start + length :]


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that another byte follows."""
    parts = []
    while number >= 0x80:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:_DIGEST_BYTES]
