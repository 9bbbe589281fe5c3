from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pyro_turbovbi.data.splits import Splits, TensorPair, divide, hold_out
from pyro_turbovbi.errors import InvalidArgumentError


def _pair(points: int) -> TensorPair:
    return TensorPair(torch.arange(points).float().unsqueeze(1), torch.arange(points))


@pytest.mark.parametrize("held", [0, 1, 7, 9])
def test_hold_out_divides_the_set_and_keeps_pairs_together(held: int) -> None:
    rest, out = hold_out(_pair(10), held, seed=3)
    assert len(out.x) == len(out.y) == held
    assert torch.equal(torch.cat([rest.y, out.y]).sort().values, torch.arange(10))
    for part in (rest, out):
        assert torch.equal(part.x.squeeze(1).long(), part.y)


def test_hold_out_depends_on_its_seed_alone() -> None:
    torch.manual_seed(0)
    first = hold_out(_pair(50), 20, seed=1)[1].y
    state = torch.get_rng_state()
    torch.manual_seed(99)
    assert torch.equal(first, hold_out(_pair(50), 20, seed=1)[1].y)
    assert not torch.equal(first, hold_out(_pair(50), 20, seed=2)[1].y)
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("held", [-1, 10, 11])
def test_hold_out_leaves_at_least_one_point(held: int) -> None:
    with pytest.raises(InvalidArgumentError, match="accepted: 0 to 9"):
        hold_out(_pair(10), held, seed=0)


def test_splits_unpack_in_order() -> None:
    splits = Splits(_pair(3), _pair(2), _pair(1))
    train, validation, test = splits
    assert (train, validation, test) == (splits.train, splits.validation, splits.test)


def test_a_division_takes_every_point_once() -> None:
    pair = TensorPair(torch.arange(20.0)[:, None], torch.arange(20))
    splits = divide(pair, validation=0.25, test=0.5)
    assert [len(part.x) for part in splits] == [5, 5, 10]
    assert sorted(torch.cat([part.y for part in splits]).tolist()) == list(range(20))
    assert [len(part.x) for part in divide(pair, validation=0.001, test=0.0)] == [19, 1, 0]


@pytest.mark.parametrize(("name", "fraction"), [("validation", -0.1), ("test", 1.0)])
def test_a_fraction_outside_its_range_is_refused(name: str, fraction: float) -> None:
    pair = TensorPair(torch.zeros(4, 1), torch.zeros(4))
    with pytest.raises(InvalidArgumentError, match=f"fraction of {name} points is out of range"):
        divide(pair, **{name: fraction})


def test_standardising_uses_the_training_points_alone() -> None:
    pair = TensorPair(torch.randn(40, 3, dtype=torch.float64) * 5 + 2, torch.arange(40) % 2)
    whole = divide(pair)
    splits = whole.standardised(targets=False)
    torch.testing.assert_close(splits.train.x.mean(0), torch.zeros(3))
    torch.testing.assert_close(splits.train.x.std(0, unbiased=False), torch.ones(3))
    spread = whole.train.x.std(0, unbiased=False)
    expected = (whole.test.x - whole.train.x.mean(0)) / spread
    torch.testing.assert_close(splits.test.x, expected.float())
    assert torch.equal(splits.test.y, whole.test.y)


def test_what_was_done_to_the_data_is_kept_however_often() -> None:
    raw = TensorPair(torch.randn(40, 3, dtype=torch.float64) * 5 + 2, torch.randn(40) * 3 + 1)
    twice = replace(divide(raw).standardised(), columns=("a", "b", "c")).standardised()
    once = divide(raw)
    for part, own in zip(twice, once, strict=True):
        assert twice.input_mean is not None
        back = part.x * twice.input_scale + twice.input_mean
        torch.testing.assert_close(back, own.x, rtol=1e-5, atol=1e-5)
        y = part.y * twice.target_scale + twice.target_mean
        torch.testing.assert_close(y, own.y, rtol=1e-5, atol=1e-5)
    assert (once.input_mean, once.input_scale, once.columns, once.classes) == (None,) * 4


@pytest.mark.parametrize("value", [0.1, 0.7, 1e30, 288.15, 0.0])
def test_a_constant_column_keeps_its_scale_whatever_rounding_does(value: float) -> None:
    pair = TensorPair(torch.full((37, 1), value, dtype=torch.float64), torch.arange(37.0))
    splits = Splits(pair, pair, pair).standardised()
    assert torch.equal(splits.train.x, torch.zeros(37, 1))
    assert splits.input_scale is not None
    assert splits.input_mean is not None
    assert splits.input_scale.tolist() == [1.0]
    assert splits.input_mean.tolist() == [value]


def test_numbers_whose_squares_overflow_are_standardised() -> None:
    x = torch.tensor([[1e200, 0.5], [3e200, 0.5], [5e200, 0.5]], dtype=torch.float64)
    pair = TensorPair(x, torch.arange(3.0))
    splits = Splits(pair, pair, pair).standardised()
    expected = torch.tensor([-1.5, 0.0, 1.5]).div(1.5**0.5)
    torch.testing.assert_close(splits.train.x[:, 0], expected)
    assert splits.train.x[:, 1].tolist() == [0.0, 0.0, 0.0]
