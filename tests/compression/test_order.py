"""Re-ordered networks compute the same, and their supports are more regular."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors
from pyro_turbovbi.compression.masking import masked
from pyro_turbovbi.compression.order import reorder
from pyro_turbovbi.compression.regularity import regularity
from pyro_turbovbi.errors import ShapeError, VerificationError
from tests.compression.random_nets import RandomNet


class Residual(nn.Module):
    """Two blocks that are added, with batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.inner = nn.Conv2d(12, 12, 3, padding=1)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.stem(x)))
        h = h + torch.tanh(self.inner(h))
        return self.head(h.mean((2, 3)))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(20, 30), nn.BatchNorm1d(30), nn.ReLU(), nn.Linear(30, 24), nn.ReLU(),
        nn.Linear(24, 5),
    )  # fmt: skip


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64, 12), nn.PReLU(12), nn.Linear(12, 3),
    )  # fmt: skip


NETS = {"mlp": mlp, "conv": convolutional, "residual": Residual}


def shuffled_bands(net: nn.Module) -> dict[str, Tensor]:
    """Units that keep neighbouring weights, in random order: a support that order makes regular."""
    masks = {}
    for name, parameter in net.named_parameters():
        if parameter.dim() < 2:
            continue
        out, columns = parameter.shape[:2]
        each = 4 if columns == 64 else 1  # the pixels of a channel behind the flattening
        into = columns // each
        near = (torch.arange(out)[:, None] / out - torch.arange(into) / into).abs() < 0.12
        shuffled = near[torch.randperm(out)][:, torch.randperm(into)].repeat_interleave(each, 1)
        spread = shuffled.view(*shuffled.shape, *(1,) * (parameter.dim() - 2))
        masks[name] = spread.expand_as(parameter).clone()
    return masks


@pytest.mark.parametrize("name", NETS)
def test_the_re_ordered_net_computes_the_same(name: str) -> None:
    torch.manual_seed(0)
    net = NETS[name]()
    x = torch.randn(64, 20) if name == "mlp" else torch.randn(64, 2, 6, 6)
    net(x)  # batch statistics that are not all alike
    masks = shuffled_bands(net)
    found = reorder(net, masks)
    assert found.orders
    expected = masked(net, masks).double()(x.double())
    actual = masked(found.net, found.masks).double()(x.double())
    torch.testing.assert_close(actual, expected)
    for key, mask in masks.items():
        assert found.masks[key].sum() == mask.sum()


@pytest.mark.parametrize("name", NETS)
def test_supports_have_fewer_clusters(name: str) -> None:
    torch.manual_seed(0)
    net = NETS[name]()
    found = reorder(net, shuffled_bands(net))
    assert found.after.clusters < found.before.clusters
    assert found.after.clusters == sum(regularity(m).clusters for m in found.masks.values())
    assert f"{found.before.clusters} -> {found.after.clusters}" in repr(found)


def test_inputs_and_outputs_stay_in_place() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(9, 7))
    masks = {"0.weight": torch.rand(7, 9) < 0.4}
    found = reorder(net, masks)
    assert not found.orders
    assert torch.equal(found.masks["0.weight"], masks["0.weight"])


def test_a_support_that_cannot_gain_is_left_alone() -> None:
    net = mlp()
    masks = {name: torch.ones_like(p) for name, p in net.named_parameters() if p.dim() > 1}
    assert not reorder(net, masks).orders


def test_other_tensors_follow() -> None:
    torch.manual_seed(0)
    net = mlp()
    masks = shuffled_bands(net)
    found = reorder(net, masks)
    weights = {name: net.get_parameter(name).detach() for name in masks}
    for name, weight in found.arrange(weights).items():
        torch.testing.assert_close(weight, found.net.get_parameter(name).detach())


def test_a_fit_is_compressed_in_the_new_order() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 24), nn.Tanh(), nn.Linear(24, 3)
    )
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=priors.Normal(1.0))
    data = torch.randn(60, 20), torch.arange(60) % 3
    fit = ptv.fit(bnn, data, engine=engines.Turbo(), epochs=1, seed=0, progress=False)
    plain, ordered = (fit.compress(data, keep=0.1, reorder=one) for one in (False, True))
    torch.testing.assert_close(ordered.module(data[0]), plain.module(data[0]))
    clusters = [small.report.regularity_total.clusters for small in (plain, ordered)]
    assert clusters[1] < clusters[0]
    assert ordered.scales.keys() == plain.scales.keys()


@pytest.mark.parametrize("seed", range(8))
def test_random_graphs_compute_the_same_in_any_order_that_is_found(seed: int) -> None:
    torch.manual_seed(seed)
    net = RandomNet(seed).eval()
    masks = {n: torch.rand_like(p) < 0.3 for n, p in net.named_parameters() if p.dim() > 1}
    reorder(net, masks, torch.randn(4, 3, 5, 5))  # checks


def alternating(net: nn.Module) -> tuple[nn.Module, dict[str, Tensor]]:
    """A net of which every other hidden unit is read."""
    weight = net.get_parameter("last.weight")
    return net, {"last.weight": (torch.arange(weight.shape[1]) % 2 == 0).expand_as(weight).clone()}


class Secretive(nn.Module):
    """Reads its first weight where tracing does not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = dict(self.first.named_parameters())["weight"].detach()
        return self.last(torch.relu(self.first(x))) + x @ hidden[:3].T


class Tokens(nn.Module):
    """A batch norm of eight tokens, each of which has as many features."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        nn.init.uniform_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.norm(self.first(x))))


def test_an_order_that_changes_what_the_net_computes_is_refused() -> None:
    torch.manual_seed(0)
    net, masks = alternating(Secretive())
    assert reorder(net, masks).orders
    with pytest.raises(VerificationError, match=r"cannot change places.*deviation.*no reorder"):
        reorder(net, masks, torch.randn(5, 8))


def test_inputs_tell_along_which_dim_units_lie() -> None:
    torch.manual_seed(0)
    net, masks = alternating(Tokens())
    assert reorder(net, masks, torch.randn(5, 8)).orders
    assert not reorder(net, masks, torch.randn(5, 8, 8)).orders


def test_inputs_that_do_not_fit_are_refused() -> None:
    net, masks = alternating(Secretive())
    with pytest.raises(ShapeError, match="cannot be applied"):
        reorder(net, masks, torch.randn(5, 7))


def test_a_fit_whose_units_cannot_change_places_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    bnn = ptv.lift(Secretive(), likelihood=likelihoods.Categorical(), prior=priors.Normal(1.0))
    data = torch.randn(60, 8), torch.arange(60) % 3
    fit = ptv.fit(bnn, data, engine=engines.MAP(), epochs=1, seed=0, progress=False)
    monkeypatch.setattr(fit, "masks", lambda keep: alternating(Secretive())[1])
    fit.compress(data, keep=0.3)
    with pytest.raises(VerificationError, match="cannot change places"):
        fit.compress(data, keep=0.3, reorder=True)
