from __future__ import annotations

import torch

from pyro_turbovbi import data


def test_shapes_types_and_range() -> None:
    splits = data.digits()
    assert [tuple(part.x.shape) for part in splits] == [(1257, 64), (180, 64), (360, 64)]
    for part in splits:
        assert part.x.dtype == torch.float32
        assert part.y.dtype == torch.int64
        assert part.y.shape == part.x.shape[:1]
        assert [part.x.min().item(), part.x.max().item()] == [0.0, 1.0]
        assert part.y.unique().tolist() == list(range(10))


def test_the_parts_make_up_the_bundled_set() -> None:
    from sklearn.datasets import load_digits

    pixels = torch.cat([part.x for part in data.digits(seed=5)]).double() * 16.0
    raw = torch.as_tensor(load_digits().data)
    assert sorted(map(tuple, pixels.tolist())) == sorted(map(tuple, raw.tolist()))


def test_the_seed_decides_the_split() -> None:
    assert torch.equal(data.digits(seed=1).test.y, data.digits(seed=1).test.y)
    assert not torch.equal(data.digits(seed=1).test.y, data.digits(seed=2).test.y)
