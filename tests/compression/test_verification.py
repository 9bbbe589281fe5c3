"""Two networks that must compute the same."""

from __future__ import annotations

import pytest
import torch

from pyro_turbovbi.compression.verification import (
    check_inputs,
    check_scales,
    largest_deviation,
    verify,
)
from pyro_turbovbi.errors import InvalidDataError, ShapeError, SiteError, VerificationError
from tests.compression.nets import mlp


def test_verification_sees_a_wrong_weight_and_an_overflow() -> None:
    net = mlp(4, 3, 2).eval()
    wrong = mlp(4, 3, 2).eval()
    wrong.load_state_dict(net.state_dict())
    assert verify(net, wrong, torch.randn(5, 4)) == 0.0
    wrong[2].bias.data[0] += 1e-3
    with pytest.raises(VerificationError, match="deviation"):
        verify(net, wrong, torch.zeros(5, 4))
    wrong[2].bias.data[0] = torch.nan
    with pytest.raises(VerificationError, match="nan"):
        verify(net, wrong, torch.randn(5, 4))
    with pytest.raises(VerificationError, match="shape"):
        verify(net, mlp(4, 3, 1).eval(), torch.randn(5, 4))


def test_verification_does_not_rely_on_the_given_inputs() -> None:
    net, wrong = mlp(4, 3, 2).eval(), mlp(4, 3, 2).eval()
    wrong.load_state_dict(net.state_dict())
    wrong[0].weight.data[:, 3] += 0.1
    inputs = torch.randn(5, 4)
    inputs[:, 3] = 0.0
    with pytest.raises(VerificationError):
        verify(net, wrong, inputs)


def test_messages_name_the_networks() -> None:
    net, other = mlp(4, 3, 2).eval(), mlp(4, 3, 2).eval()
    with pytest.raises(VerificationError, match="B does not compute what A computes"):
        verify(net, other, torch.randn(5, 4), names=("A", "B"))


def test_largest_deviation_is_relative_to_the_largest_output() -> None:
    net, other = mlp(4, 3, 2).eval(), mlp(4, 3, 2).eval()
    other.load_state_dict(net.state_dict())
    x = torch.randn(600, 4)
    assert largest_deviation(net, other, x) == 0.0
    other[2].bias.data[1] += 0.25
    expected = 0.25 / float(net(x).detach().abs().max())
    assert largest_deviation(net, other, x) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "inputs",
    [torch.zeros(0, 4), torch.zeros(4), torch.full((2, 4), torch.inf), torch.zeros(2, 4) * 1j],
    ids=["empty", "no batch", "infinite", "complex"],
)
def test_inputs_are_finite_real_numbers_in_a_batch(inputs: torch.Tensor) -> None:
    with pytest.raises(InvalidDataError, match=r"given.*accepted"):
        check_inputs(inputs)


def test_scales_belong_to_parameters() -> None:
    net = mlp(4, 3, 2)
    check_scales(net, {"0.weight": torch.zeros(3, 4), "2.bias": torch.ones(2)})
    with pytest.raises(SiteError, match=r"given: 1.weight; accepted: 0.weight"):
        check_scales(net, {"1.weight": torch.ones(3, 4)})
    with pytest.raises(ShapeError, match=r"given: \(4, 3\); accepted: \(3, 4\)"):
        check_scales(net, {"0.weight": torch.ones(4, 3)})
    for wrong in (-1.0, torch.nan, torch.inf):
        with pytest.raises(InvalidDataError, match="negative"):
            check_scales(net, {"0.weight": torch.full((3, 4), wrong)})
