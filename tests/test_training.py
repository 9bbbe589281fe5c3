"""Digests: equal for the same points in any order, different for anything else."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_turbovbi.batches import Batch, as_batches
from pyro_turbovbi.training import DataDigest, start_digest


def digest(x: Tensor | dict[str, Tensor], y: Tensor, sizes: tuple[int, ...] = (3, 5)) -> str:
    found = DataDigest()
    edges = [0, *torch.tensor(sizes).cumsum(0).tolist()]
    rows = [slice(*pair) for pair in pairwise(edges)]
    batches = [
        Batch((x[r] if isinstance(x, Tensor) else {n: v[r] for n, v in x.items()}, y[r]))
        for r in rows
    ]
    passed = list(found.reading(batches))
    assert all(a is b for a, b in zip(passed, batches, strict=True))
    return found.value


def test_the_order_and_the_batches_do_not_count() -> None:
    x, y = torch.randn(8, 2, 3), torch.arange(8)
    order = torch.randperm(8)
    expected = digest(x, y)
    assert len(expected) == 16
    assert digest(x[order], y[order]) == expected
    assert digest(x, y, sizes=(1, 1, 6)) == expected
    assert digest(x.transpose(1, 2).contiguous().transpose(1, 2), y) == expected
    shuffled = DataDigest()
    list(shuffled.reading(as_batches((x, y), batch_size=3, shuffle=True)))
    assert shuffled.value == expected


def test_values_pairs_counts_and_types_count() -> None:
    x, y = torch.randn(8, 2), torch.arange(8)
    digests = [
        digest(x, y),
        digest(x, y.flip(0)),
        digest(x[:, [1, 0]], y),
        digest(x, y, sizes=(3, 4)),
        digest(torch.cat([x, x]), torch.cat([y, y]), sizes=(8, 8)),
        digest(x.double(), y),
        digest(x.bfloat16(), y),
        digest(x, y > 3),
    ]
    assert len(set(digests)) == len(digests)
    named = {"a": x[:, :1], "b": x[:, 1:]}
    assert digest(dict(reversed(named.items())), y) == digest(named, y)
    assert digest({"a": x[:, 1:], "b": x[:, :1]}, y) != digest(named, y)


def test_points_and_the_smallest_batch_are_noted() -> None:
    digest = DataDigest()
    assert digest.smallest is None
    batches = [Batch((torch.randn(rows, 2), torch.zeros(rows))) for rows in (4, 3, 4, 3)]
    assert list(digest.reading(batches)) == batches
    assert digest.points == 14
    assert digest.smallest is batches[1]


def test_the_start_is_parameters_and_buffers_by_name() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = start_digest(net)
    assert start_digest(nn.Sequential(*net)) == before
    assert start_digest(nn.Sequential(net[0])) != before
    state = {name: value.clone() for name, value in net.state_dict().items()}
    for name in ("0.weight", "1.running_mean", "1.num_batches_tracked"):
        net.load_state_dict({n: v + (n == name) for n, v in state.items()})
        assert start_digest(net) != before
