"""Recording: the operations on the tape compute what the network computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.graph_tape import Ref, Tape, record
from pyro_turbovbi.errors import ShapeError
from tests.compression.graph_nets import CASES, Apply, Case


def replay(tape: Tape, inputs: Tensor) -> list[Tensor]:
    """Runs the tape on other inputs."""
    values = [value.clone() for value in tape.values]
    values[tape.inputs[0]] = inputs.clone()
    for op in tape.ops:
        made = op.call([values[n] for n in op.inputs])
        for number, value in zip(op.outputs, made, strict=True):
            if number is not None:
                values[number] = value
    return [values[n] for n in tape.outputs]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_tape_computes_what_the_network_computes(case: Case) -> None:
    net, inputs = case.net(0).eval(), case.inputs()
    tape = record(net, inputs[:2])
    with torch.inference_mode():
        (expected,) = [net(inputs[2:4].clone())]
        (actual,) = replay(tape, inputs[2:4])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_parameters_inputs_and_modules_are_named() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    tape = record(net, torch.randn(2, 3))
    assert set(tape.names.values()) == set(net.state_dict())
    linear = tape.ops[0]
    assert linear.module == "0"
    assert [tape.names.get(n) for n in linear.inputs] == [None, "0.weight", "0.bias"]
    assert linear.inputs[0] == tape.inputs[0]
    assert linear.args[1] == Ref(linear.inputs[1])
    assert linear.output == linear.outputs[0]
    assert tape.ops[-1].module == "1"


def test_an_operation_in_place_makes_a_new_value() -> None:
    def forward(x: Tensor) -> Tensor:
        y = x * 2
        return y + y.mul_(3)  # y is read after it was changed: 6 x + 6 x

    tape = record(Apply(forward), torch.ones(2, 2))
    assert torch.equal(replay(tape, torch.ones(2, 2))[0], torch.full((2, 2), 12.0))
    values = [tape.values[op.output] for op in tape.ops]
    assert [float(v[0, 0]) for v in values] == [2.0, 6.0, 12.0]
    assert tape.ops[1].kind is torch.ops.aten.mul


def test_a_view_that_was_changed_behind_its_back_is_opaque() -> None:
    def forward(x: Tensor) -> Tensor:
        y = x * 2
        y[:, 0] = 1.0
        return y * 1

    tape = record(Apply(forward), torch.ones(2, 2))
    (opaque,) = (op for op in tape.ops if op.opaque)
    assert opaque.kind is None
    assert not opaque.pointwise
    assert tape.values[opaque.output].tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert tape.ops[-1].inputs == [opaque.output]


def test_attention_is_taken_apart_and_the_setting_restored() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    assert torch.backends.mha.get_fastpath_enabled()
    tape = record(layer, torch.randn(2, 3, 4))
    assert torch.backends.mha.get_fastpath_enabled()
    names = {op.target.overloadpacket.__name__ for op in tape.ops}
    assert {"bmm", "linear", "native_layer_norm"} <= names
    assert not any("attention" in name or "encoder" in name for name in names)


def test_the_network_and_the_input_are_untouched() -> None:
    net = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm1d(3))
    x = -torch.ones(2, 3)
    record(net, x)
    assert torch.equal(x, -torch.ones(2, 3))
    assert net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_refuses_inputs_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"cannot be applied.*given.*\(2, 5\).*accepted"):
        record(nn.Linear(3, 4), torch.randn(2, 5))
