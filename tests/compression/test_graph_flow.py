"""What varies and what is needed: finite differences and automatic differentiation as oracles."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyro_turbovbi.compression.graph_flow import Flow, same_everywhere
from pyro_turbovbi.compression.graph_tape import Tape, record
from pyro_turbovbi.compression.masking import masked
from pyro_turbovbi.errors import UnsupportedError
from tests.compression.graph_nets import (
    CASES,
    Apply,
    Block,
    ByHandAttention,
    Case,
    features,
    masks_with_dead_units,
)
from tests.compression.nets import randomise


def pruned(net: nn.Module, seed: int, density: float) -> nn.Module:
    return masked(net, masks_with_dead_units(net, seed, density)).double()


def doubled(x: Tensor) -> Tensor:
    return x.double() if x.is_floating_point() else x


def gradients(tape: Tape) -> list[Tensor]:
    """Of a random combination of the outputs, by every value on the tape."""

    def learned(number: int) -> bool:  # torch does not differentiate by running statistics
        own = not tape.names.get(number, "").rpartition(".")[2].startswith("running")
        return own and tape.values[number].is_floating_point()

    values = [v.clone().requires_grad_(learned(n)) for n, v in enumerate(tape.values)]
    leaves = list(values)
    for op in tape.ops:
        made = op.call([values[n].clone() for n in op.inputs])  # some write in place
        for number, value in zip(op.outputs, made, strict=True):
            if number is not None:
                values[number] = leaves[number] = value
                if value.requires_grad:
                    value.retain_grad()
    torch.manual_seed(5)
    sum((values[n] * torch.randn_like(values[n])).sum() for n in tape.outputs).backward()
    zero = [torch.zeros(v.shape) for v in values]
    return [z if leaf.grad is None else leaf.grad for leaf, z in zip(leaves, zero, strict=True)]


@pytest.mark.parametrize("density", [0.5, 0.1])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_that_varies_or_is_needed_is_missed(case: Case, density: float) -> None:
    net, inputs = pruned(case.net(0), 0, density), doubled(case.inputs())
    tape, other = record(net, inputs[:2]), record(net, inputs[2:4])
    flow = Flow(tape)
    derivatives = gradients(tape)
    for number, value in enumerate(tape.values):
        differs = (value.double() - other.values[number].double()).abs() > 1e-9
        assert not bool((differs & ~flow.varies[number]).any())
        matters = (derivatives[number].abs() > 1e-12) & (value != 0)
        # Attention weights sum to one; a derivative by one of them alone does not know that.
        assert number in flow.averages or not bool((matters & ~flow.needed[number]).any())


def smooth(x: Tensor, *, inner: nn.Linear, conv: nn.Conv1d, block: nn.Module, out: nn.Linear):  # type: ignore[no-untyped-def]
    x = torch.tanh(inner(x)) * torch.sigmoid(inner.weight.sum(1))
    y = F.gelu(conv(x.transpose(1, 2))).transpose(1, 2)
    return out(block(torch.cat([x, y], -1)).mean(1))


@pytest.mark.parametrize("seed", range(6))
def test_on_smooth_networks_nothing_else_varies_or_is_needed(seed: int) -> None:
    net = Apply(
        smooth,
        inner=nn.Linear(5, 4),
        conv=nn.Conv1d(4, 4, 3, padding=1),
        block=Block(8, nn.Linear(8, 8)),
        out=nn.Linear(8, 3),
    )
    net = pruned(randomise(net, seed), seed, 0.3)
    first, second = features(6, 5).double().split(3)
    tape, other = record(net, first), record(net, second)
    flow = Flow(tape)
    derivatives = gradients(tape)
    for number, value in enumerate(tape.values):
        if not value.is_floating_point():
            continue
        assert torch.equal((value - other.values[number]).abs() > 1e-12, flow.varies[number])
        if tape.names.get(number, "").endswith(("weight", "bias")):
            matters = (derivatives[number].abs() > 1e-14) & (value != 0)
            assert torch.equal(matters, flow.needed[number]), tape.names[number]


def test_a_pruned_weight_cuts_the_connection_and_a_constant_goes_on() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)).double()
    net[0].weight.data = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]).double()
    net[1].weight.data = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]).double()
    tape = record(net, torch.randn(1, 2).double())
    flow = Flow(tape)
    hidden = tape.ops[0].output
    assert flow.varies[hidden].tolist() == [[True, False, True]]
    assert flow.needed[hidden].tolist() == [[True, True, False]]
    assert flow.needed[tape.inputs[0]].tolist() == [[True, False]]


def test_attention_passes_on_what_is_the_same_for_all_tokens() -> None:
    attention = ByHandAttention(4, 2).double()
    attention.v.weight.data[:2] = 0.0
    tape = record(attention, torch.randn(2, 3, 4).double())
    flow = Flow(tape)
    joined = next(op.inputs[0] for op in tape.ops if op.module == "out")
    assert not flow.varies[joined][..., :2].any()
    assert flow.varies[joined][..., 2:].all()


def test_an_unknown_operation_mixes_everything() -> None:
    tape = record(Apply(lambda x: torch.linalg.inv(x)), torch.eye(3).double())
    assert Flow(tape).varies[tape.outputs[0]].all()


def test_refuses_to_branch_on_the_input() -> None:
    net = Apply(lambda x: x if float(x.sum()) > 0 else -x)
    with pytest.raises(UnsupportedError, match=r"branches.*accepted"):
        Flow(record(net, torch.ones(2, 2).double()))


def test_rows_of_one_value() -> None:
    rows = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 1e-9], [0.0, 0.0], [1.0, 2.0]])
    assert same_everywhere(rows, 1e-12).tolist() == [True, True, True, False]
    assert same_everywhere(torch.zeros(2, 0), 0.0).tolist() == [True, True]
