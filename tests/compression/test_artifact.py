"""The file: exact round trips, refusal of everything damaged or foreign, all-or-nothing writing."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor, nn

from pyro_turbovbi.compression import artifact, load, shrink
from pyro_turbovbi.compression.artifact import KEY, deserialise, save, serialise
from pyro_turbovbi.compression.layers import LAYERS, InputSelect, config_of
from pyro_turbovbi.errors import ArtifactError, UnsupportedError
from tests.compression.nets import random_masks, randomise


def conv_net() -> tuple[nn.Sequential, Tensor]:
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding="same", padding_mode="circular", bias=False),
        nn.BatchNorm2d(5),
        nn.PReLU(5),
        nn.AvgPool2d((2, 1), ceil_mode=True),
        nn.AdaptiveAvgPool2d((3, None)),
        nn.Sequential(nn.Flatten(), nn.Linear(90, 12), nn.LeakyReLU(0.3), nn.Linear(12, 3)),
        nn.LogSoftmax(dim=1),
    )
    x = torch.randn(4, 2, 6, 6)
    return shrink(randomise(net, 4), random_masks(net, 4), x), x


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    assert repr(one) == repr(other)
    states = one.state_dict(), other.state_dict()
    assert list(states[0]) == list(states[1])
    for a, b in zip(states[0].values(), states[1].values(), strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    net, x = conv_net()
    size = save(net, tmp_path / "net.ptv")
    loaded = load(str(tmp_path / "net.ptv"))
    assert size == (tmp_path / "net.ptv").stat().st_size
    assert_equal(net, loaded)
    assert torch.equal(net(x), loaded(x))
    assert not loaded.training
    assert serialise(loaded) == serialise(net)


ARGUMENTS: dict[type[nn.Module], tuple[object, ...]] = {
    nn.Linear: (3, 2),
    nn.Conv1d: (3, 2, 3, 2, 1, 2),
    nn.Conv2d: (3, 2, (3, 1), 2, "valid"),
    nn.BatchNorm1d: (3, 0.01, None),
    nn.BatchNorm2d: (3, 0.01, 0.3, False),
    nn.Softmax: (1,),
    nn.LogSoftmax: (-1,),
    nn.Threshold: (0.1, 20.0),
    nn.AdaptiveAvgPool1d: (3,),
    nn.AdaptiveAvgPool2d: ((3, None),),
    nn.MaxPool1d: (2, 3),
    nn.MaxPool2d: ((2, 3), None, 1),
    nn.AvgPool1d: (2, 3, 1),
    nn.AvgPool2d: (2, 3, 0, True, False, 5),
    nn.Hardtanh: (-torch.inf, 2.0),
    InputSelect: (5, 3),
}


@pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: cls.__name__)
def test_every_listed_layer_round_trips(cls: type[nn.Module]) -> None:
    layer = cls(*ARGUMENTS.get(cls, ()))
    loaded = deserialise(serialise(nn.Sequential(layer)))[0]
    assert type(loaded) is cls
    assert config_of(loaded) == config_of(layer)
    assert_equal(layer, loaded)


def test_reading_leaves_the_random_state_alone() -> None:
    content = serialise(conv_net()[0])
    state = torch.get_rng_state()
    deserialise(content)
    assert torch.equal(torch.get_rng_state(), state)


def test_sparse_weights_take_little_space() -> None:
    layer = nn.Linear(500, 500)
    layer.weight.data[torch.rand(500, 500) > 0.02] = 0.0
    kept = int((layer.weight != 0).sum())
    size = len(serialise(nn.Sequential(layer)))
    assert 4 * kept + 250_000 / 8 + 2000 < size < 4 * kept + 250_000 / 8 + 3000


def mutate(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    position = rng.randrange(len(data))
    kind = rng.choice(["flip", "byte", "cut", "insert", "remove", "swap", "append"])
    if kind == "flip":
        data[position] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        data[position] = rng.randrange(256)
    elif kind == "cut":
        del data[position:]
    elif kind == "insert":
        data.insert(position, rng.randrange(256))
    elif kind == "remove":
        del data[position]
    elif kind == "swap":
        other = rng.randrange(len(data))
        data[position], data[other] = data[other], data[position]
    else:
        data += rng.randbytes(rng.randrange(1, 9))
    return bytes(data)


@pytest.mark.parametrize("region", ["anywhere", "header"])
def test_damage_is_refused_or_harmless(region: str) -> None:
    net, _ = conv_net()
    content = serialise(net)
    header = 8 + int.from_bytes(content[:8], "little")
    rng = random.Random(0)
    refused = 0
    for _ in range(300):
        if region == "header":
            damaged = mutate(content[:header], rng) + content[header:]
        else:
            damaged = mutate(content, rng)
        try:
            assert_equal(deserialise(damaged), net)
        except ArtifactError:
            refused += 1
    assert refused > 250


def forge(content: bytes, **changes: object) -> bytes:
    """Rewrites the manifest with a digest that fits, as an attacker could."""
    size = int.from_bytes(content[:8], "little")
    manifest = json.loads(json.loads(content[8 : 8 + size])["__metadata__"][KEY])
    tensors = parse_safetensors(content)
    for name, value in changes.items():
        if name == "version":
            manifest["version"] = value
        else:
            manifest["layers"][0][name] = value
    manifest["sha256"] = artifact._digest(manifest["layers"], tensors)
    return write_safetensors(tensors, {KEY: json.dumps(manifest)})


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"type": "LSTM"},
        {"type": ["Linear"]},
        {"type": "Conv2d"},
        {"name": "a.b"},
        {"name": "forward"},
        {"config": {"in_features": 10**9, "out_features": 10**9, "bias": True}},
        {"config": {"in_features": 3, "out_features": 2, "bias": False}},
        {"config": {"in_features": "3", "out_features": 2, "bias": True}},
        {"config": {"device": "cuda", "in_features": 3, "out_features": 2, "bias": True}},
        {"config": None},
        {"tensors": {}},
        {"tensors": {"weight": {"coding": "sparse", "shape": [2, 3]}}},
    ],
)
def test_forged_manifests_are_refused(changes: dict[str, object]) -> None:
    content = serialise(nn.Sequential(nn.Linear(3, 2)))
    assert_equal(deserialise(forge(content)), deserialise(content))
    with pytest.raises(ArtifactError):
        deserialise(forge(content, **changes))


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 7, b"PK\3\4 zip", b"\xff" * 64, write_safetensors({"w": torch.ones(2)})],
    ids=["empty", "short", "zip", "ones", "other"],
)
def test_foreign_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ArtifactError):
        load(tmp_path / "x")


def test_missing_file_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing")


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.ptv"
    save(nn.Sequential(nn.Linear(3, 2)), path)
    before = path.read_bytes()

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save(nn.Sequential(nn.Linear(4, 2)), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "net", [nn.Linear(2, 2), nn.Sequential(nn.LSTM(2, 2)), nn.Sequential(nn.Sequential())]
)
def test_only_flat_sequences_of_listed_layers_are_saved(net: nn.Module) -> None:
    with pytest.raises(UnsupportedError):
        serialise(net)
