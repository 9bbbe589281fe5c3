"""The file: exact round trips, refusal of everything damaged or foreign, all-or-nothing writing."""

from __future__ import annotations

import json
import random
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as parse_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor, nn

from pyro_turbovbi.compression import load, load_posterior, shrink
from pyro_turbovbi.compression.artifact import deserialise, read, save, serialise
from pyro_turbovbi.compression.container import Sections, pack, unpack
from pyro_turbovbi.compression.layers import LAYERS, InputSelect, config_of
from pyro_turbovbi.compression.plain import KEY
from pyro_turbovbi.compression.quantisation import Step, quantised
from pyro_turbovbi.errors import (
    ArtifactError,
    InvalidArgumentError,
    MissingFileError,
    StorageError,
    UnsupportedError,
)
from pyro_turbovbi.persistence.container import digest
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


CODINGS = ["plain", "compact"]

VERSION_1 = (
    "a8020000000000007b225f5f6d657461646174615f5f223a7b227079726f5f747572626f766269223a227b5c"
    "2276657273696f6e5c223a312c5c226c61796572735c223a5b7b5c226e616d655c223a5c22305c222c5c2274"
    "7970655c223a5c22496e70757453656c6563745c222c5c22636f6e6669675c223a7b5c2273697a655c223a33"
    "2c5c22636f756e745c223a327d7d2c7b5c226e616d655c223a5c22315c222c5c22747970655c223a5c224c69"
    "6e6561725c222c5c22636f6e6669675c223a7b5c22696e5f66656174757265735c223a322c5c226f75745f66"
    "656174757265735c223a322c5c22626961735c223a747275657d2c5c2274656e736f72735c223a7b5c227765"
    "696768745c223a7b5c22636f64696e675c223a5c227370617273655c222c5c2273686170655c223a5b322c32"
    "5d7d2c5c22626961735c223a7b5c22636f64696e675c223a5c2264656e73655c227d7d7d5d2c5c2273686132"
    "35365c223a5c2235343839333938363731316237336462383230393131653430316232623632386330353662"
    "3638303765356336666238616536616639353337376565333430615c227d227d2c22312f626961732f646174"
    "61223a7b226474797065223a22463332222c227368617065223a5b325d2c22646174615f6f66667365747322"
    "3a5b302c385d7d2c22312f7765696768742f76616c756573223a7b226474797065223a22463332222c227368"
    "617065223a5b325d2c22646174615f6f666673657473223a5b382c31365d7d2c22302f6b656570223a7b2264"
    "74797065223a225538222c227368617065223a5b315d2c22646174615f6f666673657473223a5b31362c3137"
    "5d7d2c22312f7765696768742f6d61736b223a7b226474797065223a225538222c227368617065223a5b315d"
    "2c22646174615f6f666673657473223a5b31372c31385d7d7d2020200000803e000080bf0000003f000000c0"
    "0509"
)
# One layer with standard deviations, of which the digest is over the layers alone.
PLAIN_2 = (
    "90020000000000007b225f5f6d657461646174615f5f223a7b227079726f5f747572626f766269223a227b5c"
    "2276657273696f6e5c223a322c5c226c61796572735c223a5b7b5c226e616d655c223a5c22305c222c5c2274"
    "7970655c223a5c224c696e6561725c222c5c22636f6e6669675c223a7b5c22696e5f66656174757265735c22"
    "3a322c5c226f75745f66656174757265735c223a312c5c22626961735c223a747275657d2c5c2274656e736f"
    "72735c223a7b5c227765696768745c223a7b5c22636f64696e675c223a5c227370617273655c222c5c227368"
    "6170655c223a5b312c325d7d2c5c22626961735c223a7b5c22636f64696e675c223a5c2264656e73655c227d"
    "2c5c227765696768742e7363616c655c223a7b5c22636f64696e675c223a5c2264656e73655c227d7d7d5d2c"
    "5c227368613235365c223a5c2238666639343239323433393063373065643033343762303938663339323965"
    "3835663865393932373335333162316461383764346236613630346332346364385c227d227d2c22302f6269"
    "61732f64617461223a7b226474797065223a22463332222c227368617065223a5b315d2c22646174615f6f66"
    "6673657473223a5b302c345d7d2c22302f7765696768742f76616c756573223a7b226474797065223a224633"
    "32222c227368617065223a5b315d2c22646174615f6f666673657473223a5b342c385d7d2c22302f77656967"
    "68742e7363616c652f64617461223a7b226474797065223a225538222c227368617065223a5b312c325d2c22"
    "646174615f6f666673657473223a5b382c31305d7d2c22302f7765696768742f6d61736b223a7b2264747970"
    "65223a225538222c227368617065223a5b315d2c22646174615f6f666673657473223a5b31302c31315d7d7d"
    "202020200000803e0000003f990001"
)
COMPACT_1 = (
    "8950545601509f67662650f09429430917dc21620a0b124bd40031c60c0f43e22c36450f1023941031354609"
    "1153544f8332416c6c2d000cb28e2bcc7086c98000ae472bcdcccc3d000080bf"
)


@pytest.mark.parametrize("coding", CODINGS)
def test_round_trip_is_exact(coding: str, tmp_path: Path) -> None:
    net, x = conv_net()
    size = save(net, tmp_path / "net.ptv", coding=coding)
    loaded = load(str(tmp_path / "net.ptv"))
    assert size == (tmp_path / "net.ptv").stat().st_size
    assert_equal(net, loaded)
    assert torch.equal(net(x), loaded(x))
    assert not loaded.training
    assert serialise(loaded, coding=coding) == serialise(net, coding=coding)


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


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("cls", LAYERS, ids=lambda cls: cls.__name__)
def test_every_listed_layer_round_trips(cls: type[nn.Module], coding: str) -> None:
    layer = cls(*ARGUMENTS.get(cls, ()))
    loaded = deserialise(serialise(nn.Sequential(layer), coding=coding))[0]
    assert type(loaded) is cls
    assert config_of(loaded) == config_of(layer)
    assert_equal(layer, loaded)


def test_reading_leaves_the_random_state_alone() -> None:
    content = [serialise(conv_net()[0], coding=coding) for coding in CODINGS]
    state = torch.get_rng_state()
    for one in content:
        deserialise(one)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("coding", CODINGS)
def test_other_number_types_round_trip(dtype: torch.dtype, coding: str) -> None:
    net = conv_net()[0].to(dtype)
    assert_equal(deserialise(serialise(net, coding=coding)), net)


@pytest.mark.parametrize("coding", CODINGS)
def test_special_values_keep_their_bits(coding: str) -> None:
    net = nn.Sequential(nn.Linear(20, 3))
    net[0].weight.data.zero_()
    special = torch.tensor([-0.0, torch.nan, torch.inf, -torch.inf, 1e-45])
    net[0].weight.data[1, 2:7] = special
    loaded = deserialise(serialise(net, coding=coding))[0]
    assert isinstance(loaded, nn.Linear)
    bits = [layer.weight.detach().view(torch.int32) for layer in (loaded, net[0])]
    assert torch.equal(bits[0], bits[1])


def quantised_net() -> tuple[nn.Module, dict[str, object]]:
    """A quantised network and how to save it, uncertainty included."""
    net = conv_net()[0]
    scales = {
        name: torch.rand(p.shape) * (p.detach() != 0)
        for name, p in net.named_parameters()
        if p.ndim > 1
    }
    rounded, steps = quantised(net, scales, 0.5)
    return rounded, {"steps": steps, "scales": scales}


@pytest.mark.parametrize("coding", CODINGS)
def test_quantised_weights_and_scales_round_trip(coding: str, tmp_path: Path) -> None:
    net, how = quantised_net()
    save(net, tmp_path / "net.ptv", coding=coding, **how)  # type: ignore[arg-type]
    posterior = load_posterior(tmp_path / "net.ptv")
    assert_equal(posterior.module, net)
    wanted = how["scales"]
    assert isinstance(wanted, dict)
    assert posterior.scales.keys() == wanted.keys()
    for name, scale in posterior.scales.items():
        assert torch.equal(scale == 0, wanted[name] == 0)
        off = (scale / wanted[name])[scale > 0].log2().abs()
        assert bool((off <= 1 / 8 + 1e-6).all())


def test_a_file_without_scales_is_no_posterior(tmp_path: Path) -> None:
    save(conv_net()[0], tmp_path / "net.ptv")
    with pytest.raises(ArtifactError, match="no standard deviations"):
        load_posterior(tmp_path / "net.ptv")


def test_a_weight_off_its_grid_is_stored_exactly() -> None:
    net, how = quantised_net()
    with torch.no_grad():
        next(p for p in net.parameters() if p.ndim > 1).view(-1)[0] = 0.1234567
    content = serialise(net, coding="compact", steps=how["steps"])  # type: ignore[arg-type]
    assert_equal(deserialise(content), net)


def test_files_of_version_1_load() -> None:
    """Written before there was another version."""
    net = deserialise(bytes.fromhex(VERSION_1))
    assert repr(net[0]) == "InputSelect(size=3, count=2)"
    assert net[0].indices.tolist() == [0, 2]
    assert net[1].weight.tolist() == [[0.5, 0.0], [0.0, -2.0]]
    assert net[1].bias.tolist() == [0.25, -1.0]
    assert read(bytes.fromhex(VERSION_1)).version == 1


def test_files_of_version_2_load_and_know_no_likelihood(tmp_path: Path) -> None:
    """Written before files said what outputs mean; without that, the same bytes are written."""
    (tmp_path / "net.ptv").write_bytes(bytes.fromhex(PLAIN_2))
    posterior = load_posterior(tmp_path / "net.ptv")
    assert posterior.likelihood is None
    assert posterior.scales["0.weight"].tolist() == [[0.25, 0.0]]
    assert posterior.module.state_dict()["0.weight"].tolist() == [[0.5, 0.0]]
    assert isinstance(posterior.module, nn.Sequential)
    assert serialise(posterior.module, scales=posterior.scales).hex() == PLAIN_2


def test_the_compact_form_does_not_drift() -> None:
    """Files must stay readable: the same bytes mean the same network for ever."""
    stored = read(bytes.fromhex(COMPACT_1))
    assert repr(stored.module[0]) == "InputSelect(size=9, count=5)"
    assert stored.module[0].indices.tolist() == [0, 1, 3, 4, 8]
    weight = [[0.75, 0, 0, -1.5, 0], [0, 0.375, 0, 12.0, -0.375]]
    assert stored.module[1].weight.tolist() == weight
    assert stored.module[1].bias.tolist() == torch.tensor([0.1, -1.0]).tolist()
    assert stored.scales["1.weight"].tolist() == [[0.25, 0, 0, 0.5, 0], [0, 0.25, 0, 1.0, 0.25]]
    steps = {"1.weight": Step(12, -5)}
    again = serialise(stored.module, coding="compact", steps=steps, scales=stored.scales)
    assert again.hex() == COMPACT_1


def test_unknown_coding_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="coding"):
        serialise(conv_net()[0], coding="zip")


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


def swap_sections(content: bytes, rng: random.Random) -> bytes:
    """Two halves the other way round."""
    at = rng.randrange(len(content))
    return content[at:] + content[:at]


def forged_compact(content: bytes, rng: random.Random) -> bytes:
    """Damage behind a digest that fits: what only an attacker would make."""
    sections = unpack(content)
    kind = rng.choice(["coded", "exact", "number", "swap", "text"])
    manifest, coded, exact = sections
    if kind == "coded":
        coded = mutate(coded, rng)
    elif kind == "exact":
        exact = mutate(exact or b"0", rng)
    elif kind == "swap":
        coded, exact = exact, coded
    else:
        text = json.dumps(manifest)
        if kind == "number":
            numbers = [m.span() for m in re.finditer(r"\d+", text)]
            start, end = rng.choice(numbers)
            wild = [0, 1, 2, 7, 255, 2**20, 2**31, 2**40, 2**63, 10**30]
            text = text[:start] + str(rng.choice(wild)) + text[end:]
        else:
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice('0[]{}",:-enul') + text[at + 1 :]
        try:
            manifest = json.loads(text)
        except ValueError:
            return content[:-1]
    return pack(Sections(manifest, coded, exact))


def attack(coding: str, trials: int, seed: int) -> int:
    """Damages a file in many ways; returns how often it was refused."""
    if coding == "compact":
        net, how = quantised_net()
        content = serialise(net, coding=coding, **how)  # type: ignore[arg-type]
    else:
        net, how = conv_net()[0], {}
        content = serialise(net)
    header = 8 + int.from_bytes(content[:8], "little") if coding == "plain" else 40
    rng = random.Random(seed)
    refused = 0
    for trial in range(trials):
        way = trial % 4
        if way == 0:
            damaged = mutate(content[:header], rng) + content[header:]
        elif way == 1:
            damaged = swap_sections(content, rng)
        elif way == 2 and coding == "compact":
            damaged = forged_compact(content, rng)
        else:
            damaged = mutate(content, rng)
        try:
            loaded = deserialise(damaged)
        except ArtifactError:
            refused += 1
        else:
            # A forged file may hold another network; a damaged one must hold ours.
            if way != 2 or coding == "plain":
                assert_equal(loaded, net)
    return refused


@pytest.mark.parametrize("coding", CODINGS)
def test_damage_is_refused_or_harmless(coding: str) -> None:
    assert attack(coding, 250, seed=0) > 190


@pytest.mark.slow
@pytest.mark.parametrize("coding", CODINGS)
def test_ten_thousand_damaged_files(coding: str) -> None:
    assert attack(coding, 5000, seed=1) > 3800


def test_giant_sizes_are_refused_before_memory_is_taken() -> None:
    """A kilobyte that declares terabytes, with a digest that fits."""
    content = serialise(nn.Sequential(nn.Linear(3, 2)), coding="compact")
    manifest, coded, exact = unpack(content)
    for shape in ([10**6, 10**6], [10**4, 10**4], [1, 2**30], [2**21, 1], [10**12, 10**12]):
        for entry in ({}, {"support": 0}, {"support": 3}, {"support": 1, "step": [8, 0]}):
            forged = json.loads(json.dumps(manifest))
            config = forged["layers"][0][2]
            config["in_features"], config["out_features"] = shape
            forged["layers"][0][3] = [entry, {"support": 0}]
            tracemalloc.start()
            with pytest.raises(ArtifactError):
                deserialise(pack(Sections(forged, coded, exact)))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 2**24


def test_a_selection_of_giant_size_is_refused() -> None:
    entry = ["select0", "InputSelect", {"size": 2**40, "count": 1}, [{"support": 0, "columns": 1}]]
    with pytest.raises(ArtifactError):
        deserialise(pack(Sections({"layers": [entry]}, b"", b"")))


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
    manifest["sha256"] = digest(manifest["layers"], tensors)
    return write_safetensors(tensors, {KEY: json.dumps(manifest)})


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 4},
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
    [
        b"",
        b"\0" * 7,
        b"PK\3\4 zip",
        b"\xff" * 64,
        write_safetensors({"w": torch.ones(2)}),
        b"\x89PTV",
        b"\x89PTV\7" + bytes(40),
    ],
    ids=["empty", "short", "zip", "ones", "other", "magic", "version"],
)
def test_foreign_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ArtifactError):
        load(tmp_path / "x")


@pytest.mark.parametrize("loader", [load, load_posterior])
def test_what_cannot_be_read_is_told_by_every_reader_alike(
    loader: Callable[[Path], object], tmp_path: Path
) -> None:
    missing = tmp_path / "nothing"
    with pytest.raises(MissingFileError) as gone:
        loader(missing)
    assert isinstance(gone.value, FileNotFoundError)
    message = "the file cannot be read: No such file or directory"
    assert str(gone.value) == f"{message}; given: {missing}"
    with pytest.raises(StorageError) as error:
        loader(tmp_path)
    assert str(error.value) == f"the file cannot be read: Is a directory; given: {tmp_path}"


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff" * 64])
def test_a_file_of_something_else_is_told_in_words(content: bytes) -> None:
    with pytest.raises(ArtifactError) as error:
        deserialise(content)
    assert str(error.value) == (
        "the file holds no compressed network: it is not a file of this package, or it is damaged"
    )


def test_tensors_of_something_else_are_told_in_words() -> None:
    with pytest.raises(ArtifactError) as error:
        deserialise(write_safetensors({"w": torch.ones(2)}))
    assert str(error.value) == (
        "the file holds no compressed network: it has no metadata of this package; "
        "given: a safetensors file of something else"
    )


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
