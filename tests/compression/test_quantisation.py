"""Quantisation: steps, what rounding costs in nats, and the search for the coarsest grid."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from pyro_turbovbi import likelihoods
from pyro_turbovbi.compression.quantisation import (
    COARSEST,
    FINEST,
    PER_OCTAVE,
    Step,
    loss_on,
    quantised,
    search,
)
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    ShapeError,
    UnsupportedError,
    VerificationError,
)
from pyro_turbovbi.likelihoods import Likelihood
from tests.compression.nets import mlp, randomise


@given(st.floats(1e-25, 1e25))
def test_the_nearest_step_below(size: float) -> None:
    step = Step.near(size)
    assert 8 <= step.mantissa <= 15
    assert step.size <= size < step.size * 9 / 8


def test_steps_follow_the_harmonic_mean_of_the_variances() -> None:
    net = nn.Sequential(nn.Linear(40, 30))
    net[0].weight.data[:, ::2] = 0.0
    scales = torch.rand(30, 40) + 0.1
    wanted = 2.0 / scales[:, 1::2].square().reciprocal().mean().sqrt()
    rounded, steps = quantised(net, {"0.weight": scales}, 2.0)
    assert steps["0.weight"] == Step.near(float(wanted))
    assert steps["0.bias"] == steps["0.weight"], "a bias lies on the grid of its weight"
    multiples = rounded.get_parameter("0.weight") / steps["0.weight"].size
    assert torch.equal(multiples, multiples.round())
    assert bool((rounded.get_parameter("0.weight")[:, ::2] == 0).all())


@pytest.mark.parametrize("coarseness", [0.25, 1.0])
def test_rounding_costs_c_squared_over_24_nats_a_weight(coarseness: float) -> None:
    """KL(N(rounded, s) || N(mean, s)), averaged, against the closed form for the step taken."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(300, 200, bias=False))
    net[0].weight.data = torch.randn(200, 300, generator=generator)
    scales = 0.02 * (1 + torch.rand(200, 300, generator=generator))
    rounded, steps = quantised(net, {"0.weight": scales}, coarseness)
    moved = (rounded.get_parameter("0.weight") - net[0].weight).detach()
    cost = (moved.square() / (2 * scales.square())).mean()
    size = steps["0.weight"].size * scales.square().reciprocal().mean().sqrt()
    assert float(cost) == pytest.approx(float(size) ** 2 / 24, rel=0.02)
    assert float(cost) <= coarseness**2 / 24 * 1.02


def test_without_scales_steps_follow_the_root_mean_square() -> None:
    net = mlp(30, 20, 5)
    _, steps = quantised(net, {}, 1.0)
    rms = float(net[2].weight.detach().square().mean().sqrt())
    assert steps["2.weight"] == Step.near(rms / 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_grids_are_exact_in_every_number_type(dtype: torch.dtype) -> None:
    net = mlp(30, 20).to(dtype)
    rounded, steps = quantised(net, {}, 2.0**-12)
    for name, step in steps.items():
        exact = rounded.get_parameter(name).double() / step.size
        assert torch.equal(exact, exact.round())
        off = (rounded.get_parameter(name) - net.get_parameter(name)).detach().abs().max()
        assert float(off) <= 0.51 * step.size


def test_other_parameters_stay_as_they_are() -> None:
    net = randomise(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.PReLU(4)), 0).eval()
    rounded, steps = quantised(net, {}, 1.0)
    assert steps.keys() == {"0.weight", "0.bias"}
    for name, tensor in net.state_dict().items():
        assert name in steps or torch.equal(rounded.state_dict()[name], tensor)


@pytest.mark.parametrize("value", [0.0, 1e-38])
def test_layers_of_zeros_do_no_harm(value: float) -> None:
    net = mlp(3, 2)
    for parameter in net.parameters():
        parameter.data.fill_(value)
    rounded, _ = quantised(net, {}, 1.0)
    assert bool(torch.stack([p.isfinite().all() for p in rounded.parameters()]).all())


def test_the_search_finds_the_edge_of_a_monotone_loss() -> None:
    net = randomise(mlp(6, 4), 0)
    seen: list[float] = []

    def loss(module: nn.Module) -> float:
        moved = float((module[0].weight - net[0].weight).detach().abs().mean())  # type: ignore
        seen.append(moved)
        return moved

    _, how = search(net, {}, loss, tolerance=0.01)
    assert how.loss_exact == 0.0
    assert how.loss <= 0.01
    assert len(seen) <= 3 + math.ceil(math.log2(COARSEST - FINEST))
    coarser, _ = quantised(net, {}, how.coarseness * 2 ** (1 / PER_OCTAVE))
    assert loss(coarser) > 0.01


def test_the_coarsest_grid_is_taken_if_everything_is_tolerated() -> None:
    _, how = search(mlp(3, 2), {}, lambda _: 1.0, tolerance=0.0)
    assert how.coarseness == 2.0 ** (COARSEST / PER_OCTAVE)


def test_refusals() -> None:
    net = mlp(3, 2)
    for tolerance in (-0.1, math.nan):
        with pytest.raises(InvalidArgumentError, match="tolerance"):
            search(net, {}, lambda _: 0.0, tolerance=tolerance)
    with pytest.raises(VerificationError, match="larger tolerance"):
        search(net, {}, lambda module: float(module is not net), tolerance=0.5)
    for loss in (math.nan, math.inf):
        with pytest.raises(InvalidDataError, match=f"not finite; given: {loss}"):
            search(net, {}, lambda _, loss=loss: loss, tolerance=0.5)  # type: ignore[misc]


def test_default_losses() -> None:
    net, x = mlp(4, 3), torch.randn(2500, 4)
    classes, values = torch.randint(0, 3, (2500,)), torch.randn(2500, 3)
    with torch.no_grad():
        nll = nn.functional.cross_entropy(net(x), classes)
        rmse = nn.functional.mse_loss(net(x), values).sqrt()
        single = nn.functional.mse_loss(net(x)[:, :1], values[:, :1]).sqrt()
    assert loss_on(x, classes, None)(net) == pytest.approx(float(nll), rel=1e-5)
    assert loss_on(x, values, None)(net) == pytest.approx(float(rmse), rel=1e-5)
    first = nn.Sequential(net, nn.Flatten()).eval()
    first[0][0].weight.data, first[0][0].bias.data = net[0].weight[:1], net[0].bias[:1]
    assert loss_on(x, values[:, 0], None)(first) == pytest.approx(float(single), rel=1e-5)
    assert loss_on(x, classes, lambda a, b: 7.0)(net) == 7.0


X = torch.linspace(-2.0, 2.0, 2500).view(-1, 1)  # more than one part
OUTPUTS = torch.stack([X[:, 0], 0.5 - X[:, 0]], 1)
BITS = torch.arange(2500) % 2
COUNTS = torch.arange(2500) % 7
REALS = torch.linspace(1.0, -1.0, 2500)
LABELLED: dict[str, tuple[Likelihood, Tensor, Tensor]] = {
    "categorical": (
        likelihoods.Categorical(),
        BITS,
        OUTPUTS.logsumexp(1) - OUTPUTS.gather(1, BITS[:, None])[:, 0],
    ),
    "soft": (
        likelihoods.Categorical(),
        torch.tensor([[0.25, 0.75]]).expand(2500, 2),
        OUTPUTS.logsumexp(1) - OUTPUTS @ torch.tensor([0.25, 0.75]),
    ),
    "bernoulli": (likelihoods.Bernoulli(), BITS, (1 + X[:, 0].exp()).log() - BITS * X[:, 0]),
    "poisson": (
        likelihoods.Poisson(),
        COUNTS,
        X[:, 0].exp() - COUNTS * X[:, 0] + (COUNTS + 1.0).lgamma(),
    ),
    "gaussian": (
        likelihoods.Gaussian(0.5),
        REALS,
        0.5 * math.log(2 * math.pi) + math.log(0.5) + (REALS - X[:, 0]).square() / 0.5,
    ),
    "heteroscedastic": (
        likelihoods.Gaussian(heteroscedastic=True),
        REALS,
        0.5 * math.log(2 * math.pi)
        + OUTPUTS[:, 1]
        + (REALS - OUTPUTS[:, 0]).square() / (2 * (2 * OUTPUTS[:, 1]).exp()),
    ),
}
"""Likelihood, targets, and the negative log-likelihood of every point in closed form."""
TWO_OUTPUTS = ("categorical", "soft", "heteroscedastic")


class Columns(nn.Module):
    """Outputs as they are above: x, or x and 1/2 - x."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, 0.5 - x], 1)[:, : self.count]


@pytest.mark.parametrize("name", LABELLED)
def test_the_default_loss_is_the_negative_log_likelihood_in_closed_form(name: str) -> None:
    likelihood, y, each = LABELLED[name]
    net = Columns(2 if name in TWO_OUTPUTS else 1)
    expected = pytest.approx(float(each.double().mean()), rel=1e-5)
    assert loss_on(X, y, likelihood=likelihood)(net) == expected
    if name not in TWO_OUTPUTS:
        for like in (y.double(), y[:, None], y[:, None].float()):
            assert loss_on(X, like, likelihood=likelihood)(net) == expected
    assert loss_on(X, y, lambda a, b: 7.0, likelihood)(net) == 7.0


def test_classes_are_rounded_alike_whether_the_likelihood_is_known_or_guessed() -> None:
    net, x = randomise(mlp(4, 8, 3), 0), torch.randn(300, 4)
    y = net(x).argmax(1)
    losses = [
        loss_on(x, y, likelihood=likelihood) for likelihood in (None, likelihoods.Categorical())
    ]
    guessed, known = (search(net, {}, loss, tolerance=0.01)[1] for loss in losses)
    assert known.coarseness == guessed.coarseness
    assert known.steps == guessed.steps
    assert known.loss == pytest.approx(guessed.loss, rel=1e-6)
    assert known.loss_exact == pytest.approx(guessed.loss_exact, rel=1e-6)


def test_targets_that_do_not_fit_the_likelihood() -> None:
    categorical = likelihoods.Categorical()
    wrong: list[tuple[Likelihood, Tensor, type[Exception], str]] = [
        (categorical, BITS[:, None], ShapeError, "targets do not fit the network's output"),
        (categorical, BITS[:9], ShapeError, r"different numbers of rows; given: targets \(9,\)"),
        (categorical, BITS.float(), InvalidDataError, "wrong type"),
        (categorical, COUNTS, InvalidDataError, r"out of range; given: 0 \.\. 6"),
        (likelihoods.Bernoulli(), OUTPUTS, InvalidDataError, "binary targets are out of range"),
        (likelihoods.Gaussian(), REALS, ShapeError, r"accepted: targets of shape \(batch, 2\)"),
    ]
    for likelihood, y, error, match in wrong:
        with pytest.raises(error, match=match):
            loss_on(X, y, likelihood=likelihood)(Columns(2))


def test_guesses_that_cannot_be_right_say_what_to_do() -> None:
    wrong: list[tuple[int, Tensor, type[Exception], str]] = [
        (
            1,
            BITS,
            ShapeError,
            r"no logits of theirs; given: targets \(2500,\), outputs \(2500, 1\)",
        ),
        (2, BITS[:, None], ShapeError, "no logits of theirs"),
        (2, COUNTS, InvalidDataError, r"given: 0 \.\. 6; accepted: 0 \.\. 1, since the network"),
        (2, REALS, ShapeError, r"a target for every output; given: targets \(2500,\)"),
        (1, REALS[:9], ShapeError, "a target for every output"),
    ]
    for outputs, y, error, match in wrong:
        with pytest.raises(error, match=match) as found:
            loss_on(X, y)(Columns(outputs))
        assert str(found.value).endswith(
            "or loss=..., or compress(likelihood=...), as Fit.compress does"
        )


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_guess_takes_images_of_labels_and_leaves_out_what_torch_does(dtype: torch.dtype) -> None:
    logits = torch.randn(5, 3, 2, 2)
    labels = torch.randint(0, 3, (5, 2, 2))
    labels[0] = -100
    expected = nn.functional.cross_entropy(logits, labels)
    found = loss_on(logits, labels.to(dtype))(nn.Identity())
    assert found == pytest.approx(float(expected), rel=1e-6)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_a_network_of_two_outputs_has_no_loss() -> None:
    with pytest.raises(UnsupportedError, match="not return one tensor; given: tuple; accepted"):
        loss_on(X, REALS)(Pair())


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Linear(3, 2), {"weight", "bias"}),
        (nn.Conv3d(2, 3, 2), {"weight", "bias"}),
        (nn.ConvTranspose2d(2, 3, 2), {"weight", "bias"}),
        (nn.Bilinear(2, 3, 4), {"weight", "bias"}),
        (
            nn.MultiheadAttention(4, 2),
            {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"},
        ),
        (weight_norm(nn.Linear(3, 2)), set()),
    ],
)
def test_all_layers_with_matrices_are_rounded(layer: nn.Module, expected: set[str]) -> None:
    rounded, steps = quantised(randomise(layer, 0), {}, 1.0)
    assert steps.keys() == expected
    for name, step in steps.items():
        counts = rounded.get_parameter(name).double() / step.size
        assert torch.equal(counts, counts.round())


def test_a_shared_matrix_is_rounded_once_under_its_first_name() -> None:
    net = nn.ModuleDict({"table": nn.Embedding(5, 4), "out": nn.Linear(4, 5, bias=False)})
    net["out"].weight = net["table"].weight
    scales = {"table.weight": torch.full((5, 4), 0.1)}
    rounded, steps = quantised(net, scales, 1.0)
    assert steps == {"table.weight": Step.near(0.1)}
    assert rounded["out"].weight is rounded["table"].weight
