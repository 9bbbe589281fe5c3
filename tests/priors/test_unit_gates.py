"""Gates of units as a layer of the prior: sites, shapes, laws, models written by hand."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError, UnsupportedError
from pyro_turbovbi.priors.three_layer import closed_component

PRIOR = priors.ThreeLayer(supports.Independent(0.5), gates="shared", gate_density=0.4)


def small_net() -> ptv.BayesianNet:
    net = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 4), nn.ReLU(), nn.Linear(4, 2)
    )
    return ptv.lift(net, likelihood=likelihoods.Categorical(), prior=PRIOR)


def test_a_lifted_net_emits_the_gates_of_every_group_first() -> None:
    trace = poutine.trace(small_net()).get_trace(torch.randn(5, 2, 3, 3))
    sites = [name for name in trace.nodes if trace.nodes[name]["type"] == "sample"]
    assert sites[:4] == ["0.weight_gate", "input_gate", "3.weight_gate", "0.weight_support"]
    assert trace.nodes["input_gate"]["value"].shape == (2,)
    assert torch.isfinite(trace.log_prob_sum())


def test_weights_are_active_where_both_gates_and_their_own_support_are() -> None:
    values = poutine.trace(small_net()).get_trace(torch.randn(5, 2, 3, 3)).nodes
    channel = values["0.weight_gate"]["value"].repeat_interleave(4)
    both = values["3.weight_gate"]["value"][:, None] * channel
    expected = both * values["3.weight_support"]["value"]
    torch.testing.assert_close(values["3.weight_active"]["value"], expected)
    kernel = values["0.weight_gate"]["value"][:, None] * values["input_gate"]["value"]
    expected = kernel[..., None, None] * values["0.weight_support"]["value"]
    torch.testing.assert_close(values["0.weight_active"]["value"], expected)


def test_each_gate_covers_the_columns_of_its_unit() -> None:
    gates = priors.Gates("g", 3, open=torch.tensor([1.0, 0.0, 1.0]))
    behind = priors.WeightGates(rows=None, columns=gates)
    opened = behind.open(torch.Size([2, 6]), torch.empty(()))
    assert opened.tolist() == [[1, 1, 0, 0, 1, 1]] * 2


def test_draws_have_the_declared_density() -> None:
    """P(active) = P(row open) P(column open) P(support), the same for every element."""
    bnn, x = small_net(), torch.randn(1, 2, 3, 3)
    draws = [poutine.trace(bnn).get_trace(x).nodes["3.weight_active"]["value"] for _ in range(400)]
    # 400 draws of 4 x 3 pairs of gates: the standard error is below 0.01
    assert float(torch.stack(draws).mean()) == pytest.approx(0.4 * 0.4 * 0.5, abs=0.03)


def test_precisions_follow_the_law_of_their_state() -> None:
    shape = torch.Size([2, 3])
    rows = priors.Gates("rows", 2, open=torch.tensor([0.0, 1.0]))
    support = torch.tensor([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    conditioned = poutine.condition(PRIOR.sample, data={"w_support": support})
    site = poutine.trace(conditioned).get_trace("w", shape, rows=rows).nodes["w_precision"]
    components = PRIOR.components(shape)
    closed, precision = closed_component(components), site["value"]
    expected = torch.zeros(())
    for row in range(2):
        for column in range(3):
            law = components[int(support[row, column] == 0)] if row else closed
            expected = expected + dist.Gamma(*law).log_prob(precision[row, column])
    torch.testing.assert_close(site["fn"].log_prob(precision), expected)


def test_behind_a_closed_gate_a_large_weight_is_all_but_impossible() -> None:
    components = PRIOR.components(torch.Size([10, 100]))
    closed = closed_component(components)
    assert closed.scale == pytest.approx(components.inactive.scale)
    far = torch.tensor(10 * closed.scale)

    def density(gamma: priors.GammaParameters) -> float:
        return float(dist.StudentT(2 * gamma.concentration, 0.0, gamma.scale).log_prob(far))

    assert density(closed) < density(components.inactive) - 15.0


def test_a_model_written_by_hand_shares_gates() -> None:
    def model(x: Tensor, y: Tensor | None = None) -> None:
        hidden = priors.unit_gates("hidden", 6)
        first = PRIOR.sample("first", (6, 3), rows=hidden)
        second = PRIOR.sample("second", (1, 6), columns=hidden)
        mean = (torch.tanh(x @ first.T) @ second.T).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.1), obs=y)

    x = torch.randn(20, 3)
    y = torch.tanh(x[:, 0])
    trace = poutine.trace(model).get_trace(x, y)
    assert trace.nodes["hidden_gate"]["value"].shape == (6,)
    turbo = ptv.TurboVBI(model, num_steps=20)
    losses = [turbo.step(x, y) for _ in range(20)]
    assert all(math.isfinite(loss) for loss in losses)
    assert turbo.gates is not None
    assert turbo.gates.log_odds["hidden"].shape == (6,)


def test_gates_are_refused_where_they_do_not_fit() -> None:
    gates = priors.Gates("g", 4)
    with pytest.raises(ShapeError, match="does not fit the gates"):
        PRIOR.sample("w", (3, 2), rows=gates)
    with pytest.raises(ShapeError, match="does not fit the gates"):
        PRIOR.sample("w", (3, 6), columns=gates)
    with pytest.raises(UnsupportedError, match=r"no unit gates.*gates=\"shared\""):
        priors.Normal(1.0).sample("w", (4, 2), rows=gates)
    with pytest.raises(UnsupportedError, match="no unit gates"):
        priors.ThreeLayer().sample("w", (4, 2), rows=gates)


@pytest.mark.parametrize(("name", "size", "density"), [("g", 0, 0.5), ("g", 3, 1.0)])
def test_gates_out_of_range_are_refused(name: str, size: int, density: float) -> None:
    with pytest.raises(InvalidArgumentError, match="gates are out of range"):
        priors.unit_gates(name, size, density=density)


def test_shared_gates_cannot_be_collapsed_and_say_what_can() -> None:
    with pytest.raises(UnsupportedError, match=r"supports\.Gated"):
        priors.ThreeLayer(gates="shared", collapse=True)
    with pytest.raises(InvalidArgumentError, match="gates are out of range"):
        priors.ThreeLayer(gates="shared", gate_density=0.0)


def test_the_declaration_survives_a_round_trip() -> None:
    assert priors.from_spec(priors.to_spec(PRIOR)) == PRIOR
    assert "gates='shared'" in repr(PRIOR)
