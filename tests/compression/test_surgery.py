"""Narrower tensors in a network's own modules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.surgery import Surgery, kept_places, narrowed
from pyro_turbovbi.errors import ShapeError


def places(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


@pytest.mark.parametrize(
    ("layer", "kept", "sizes"),
    [
        (
            nn.Linear(4, 3),
            {"0.weight": (places(0, 2), places(1)), "0.bias": (places(0, 2),)},
            {"in_features": 1, "out_features": 2},
        ),
        (
            nn.Conv2d(4, 3, 2),
            {"0.weight": (None, places(1, 3), None, None)},
            {"in_channels": 2, "out_channels": 3},
        ),
        (
            nn.ConvTranspose2d(4, 3, 2),
            {"0.weight": (places(1, 3), None, None, None)},
            {"in_channels": 2, "out_channels": 3},
        ),
        (
            nn.BatchNorm2d(3),
            {
                f"0.{name}": (places(0, 2),)
                for name in ("weight", "bias", "running_mean", "running_var")
            },
            {"num_features": 2},
        ),
        (
            nn.Embedding(5, 4),
            {"0.weight": (None, places(0, 1, 3))},
            {"num_embeddings": 5, "embedding_dim": 3},
        ),
        (nn.PReLU(3), {"0.weight": (places(2),)}, {"num_parameters": 1}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_layers_know_their_new_sizes(
    layer: nn.Module, kept: dict[str, tuple[Tensor | None, ...]], sizes: dict[str, int]
) -> None:
    net = nn.Sequential(layer)
    cut = Surgery(kept).apply(net)
    assert {name: getattr(cut[0], name) for name in sizes} == sizes
    for name, own in kept.items():
        whole = net.state_dict()[name]
        assert torch.equal(cut.state_dict()[name], narrowed(whole, own))
    assert not torch.equal(
        torch.tensor([p.numel() for p in net.parameters()]),
        torch.tensor([p.numel() for p in cut.parameters()]),
    )


def test_attributes_and_added_biases() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False))
    surgery = Surgery({"0.weight": (places(0, 3), None, None, None)}, {"0.groups": 2}, ("0.bias",))
    with pytest.raises(ShapeError, match=r"0\.bias"):
        Surgery({"0.bias": (places(0),)}).apply(net)
    cut = surgery.apply(net)
    assert (cut[0].groups, cut[0].in_channels, cut[0].out_channels) == (2, 2, 2)
    assert cut[0].bias.tolist() == [0.0] * 4
    assert net[0].bias is None
    assert net[0].groups == 4


def test_shared_tensors_stay_shared() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    cut = Surgery({"0.weight": (places(0), None)}).apply(net)
    assert cut[0].weight is cut[1].weight
    assert cut[1].out_features == 1


def test_a_parametrised_layer_is_cut_behind_its_parametrisation() -> None:
    net = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4), dim=1))
    name = "0.parametrizations.weight.original1"
    cut = Surgery({name: (places(0, 2), None), "0.bias": (places(0, 2),)}).apply(net)
    assert cut(torch.zeros(1, 3)).shape == (1, 2)


@pytest.mark.parametrize(
    ("name", "kept"),
    [("nothing", (places(0),)), ("0.weight", (places(0),)), ("0.weight", (places(3), None))],
)
def test_refuses_another_network(name: str, kept: tuple[Tensor | None, ...]) -> None:
    with pytest.raises(ShapeError, match=r"given.*accepted"):
        Surgery({name: kept}).apply(nn.Sequential(nn.Linear(2, 3)))


def test_marks_as_places() -> None:
    assert kept_places([True, True]) is None
    kept = kept_places([True, False, True])
    assert kept is not None
    assert kept.tolist() == [0, 2]
