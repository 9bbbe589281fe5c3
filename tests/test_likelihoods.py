"""Likelihoods against torch's functional losses and closed forms."""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_turbovbi.errors import InvalidArgumentError, InvalidDataError, ShapeError
from pyro_turbovbi.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, Poisson


def doubles(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def log_prob(likelihood: Likelihood, output: Tensor, y: Tensor) -> Tensor:
    return likelihood.distribution(output).log_prob(likelihood.prepare(y, output))


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_categorical_is_cross_entropy() -> None:
    output, y = doubles(5, 3), torch.tensor([0, 2, 1, 1, 0])
    assert_equal(log_prob(Categorical(), output, y), -F.cross_entropy(output, y, reduction="none"))
    assert_equal(Categorical().mean(output), output.exp() / output.exp().sum(-1, keepdim=True))


def test_categorical_sequences_are_one_event_a_row() -> None:
    output, y = doubles(5, 4, 3), torch.randint(3, (5, 4))
    expected = -F.cross_entropy(output.movedim(-1, 1), y, reduction="none").sum(1)
    assert_equal(log_prob(Categorical(), output, y), expected)
    Categorical().check(y, output)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_may_have_any_integer_type(dtype: torch.dtype) -> None:
    output, y = doubles(3, 3), torch.tensor([0, 2, 1], dtype=dtype)
    Categorical().check(y, output)
    assert_equal(log_prob(Categorical(), output, y), log_prob(Categorical(), output, y.long()))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_bernoulli_is_binary_cross_entropy(dtype: torch.dtype) -> None:
    output, y = doubles(4, 1), torch.tensor([0, 1, 1, 0]).to(dtype)
    expected = -F.binary_cross_entropy_with_logits(output[:, 0], y.double(), reduction="none")
    Bernoulli().check(y, output)
    assert_equal(log_prob(Bernoulli(), output, y), expected)
    assert_equal(Bernoulli().mean(output), 1 / (1 + (-output).exp()))


def test_poisson_is_its_closed_form() -> None:
    output, y = doubles(4, 2), torch.tensor([[0, 1], [2, 3], [4, 0], [1, 1]])
    log_factorials = [math.log(math.factorial(k)) for k in y.flatten().tolist()]
    constant = torch.tensor(log_factorials, dtype=torch.float64).view(4, 2)
    expected = (y * output - output.exp() - constant).sum(1)
    Poisson().check(y, output)
    assert_equal(log_prob(Poisson(), output, y), expected)
    assert_equal(Poisson().mean(output), output.exp())


@pytest.mark.parametrize("learn", [True, False])
def test_gaussian_with_one_noise_scale(learn: bool) -> None:
    likelihood = Gaussian(0.5, learn=learn).double()
    output, y = doubles(4, 3), doubles(4, 3)
    expected = -0.5 * (((y - output) / 0.5) ** 2 + math.log(2 * math.pi * 0.25)).sum(1)
    torch.testing.assert_close(log_prob(likelihood, output, y), expected, rtol=1e-6, atol=1e-6)
    assert_equal(likelihood.mean(output), output)
    assert likelihood.scale == pytest.approx(0.5, rel=1e-6)
    assert [name for name, _ in likelihood.named_parameters()] == ["log_scale"] * learn
    assert list(likelihood.state_dict()) == ["log_scale"]


def test_learned_noise_has_the_closed_form_gradient() -> None:
    likelihood, output, y = Gaussian(0.5).double(), doubles(6, 1), doubles(6, 1)
    log_prob(likelihood, output, y).sum().backward()
    expected = ((y - output) ** 2).sum() / likelihood.scale**2 - 6
    assert isinstance(likelihood.log_scale, nn.Parameter)
    assert_equal(likelihood.log_scale.grad, expected)  # type: ignore[arg-type]


def test_heteroscedastic_noise_is_the_second_half_of_the_output() -> None:
    likelihood = Gaussian(heteroscedastic=True)
    output, y = doubles(4, 6), doubles(4, 3)
    mean, variance = output[:, :3], (2 * output[:, 3:]).exp()
    expected = -F.gaussian_nll_loss(mean, y, variance, full=True, reduction="none").sum(1)
    likelihood.check(y, output)
    torch.testing.assert_close(log_prob(likelihood, output, y), expected, rtol=1e-6, atol=1e-6)
    assert_equal(likelihood.mean(output), mean)
    assert not list(likelihood.parameters())
    one_target = doubles(4, 2)
    assert log_prob(likelihood, one_target, doubles(4)).shape == (4,)


@pytest.mark.parametrize("likelihood", [Gaussian(), Bernoulli(), Poisson()], ids=lambda x: x.kind)
def test_targets_of_one_output_may_leave_its_dimension_out(likelihood: Likelihood) -> None:
    output, y = doubles(5, 1), torch.tensor([0, 1, 1, 0, 1])
    likelihood.check(y, output)
    assert_equal(log_prob(likelihood, output, y), log_prob(likelihood, output, y[:, None]))
    flat = output[:, 0]
    likelihood.check(y, flat)
    assert_equal(log_prob(likelihood, flat, y), log_prob(likelihood, output, y))


@pytest.mark.parametrize(
    ("likelihood", "shape", "event"),
    [
        (Categorical(), (7, 3), ()),
        (Categorical(), (7, 2, 3), (2,)),
        (Bernoulli(), (7, 2), (2,)),
        (Poisson(), (7, 2, 2), (2, 2)),
        (Gaussian(), (7,), ()),
        (Gaussian(heteroscedastic=True), (7, 4), (2,)),
    ],
    ids=str,
)
def test_batch_is_the_only_batch_dimension(
    likelihood: Likelihood, shape: tuple[int, ...], event: tuple[int, ...]
) -> None:
    output = doubles(*shape)
    distribution = likelihood.distribution(output)
    assert distribution.batch_shape == (7,)
    assert distribution.event_shape == event
    draw = distribution.sample()
    likelihood.check(draw.long() if isinstance(likelihood, Categorical) else draw, output)


def test_simulated_counts_and_classes_have_the_declared_mean() -> None:
    for likelihood in (Poisson(), Bernoulli()):
        output = torch.tensor([[-0.5], [0.7]]).double()
        draws = likelihood.distribution(output).sample((20_000,))
        variance = draws.var(0)
        error = (draws.mean(0) - likelihood.mean(output)).abs()
        assert (error < 5 * (variance / 20_000).sqrt()).all()


def test_kinds() -> None:
    kinds = [x.kind for x in (Categorical(), Bernoulli(), Gaussian(), Poisson())]
    assert kinds == ["classification", "classification", "regression", "counts"]


def test_copies_learn_their_own_noise() -> None:
    likelihood = Gaussian(0.5)
    other = copy.deepcopy(likelihood)
    with torch.no_grad():
        other.log_scale.add_(1.0)
    assert other.scale == pytest.approx(0.5 * math.e, rel=1e-6)
    assert likelihood.scale == pytest.approx(0.5)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan, "small"])
@pytest.mark.usefixtures("no_type_checks")
def test_noise_scale_is_positive_and_finite(scale: float) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        Gaussian(scale)
    assert str(error.value) == (
        f"noise scale is out of range; given: {scale}; "
        "accepted: a positive finite standard deviation"
    )


LABELS = (
    "class labels have the wrong type; given: {}; accepted: an integer dtype such as "
    "torch.int64; or class probabilities of the output's shape"
)


@pytest.mark.parametrize(
    ("likelihood", "y", "output", "message"),
    [
        (
            Categorical(),
            torch.tensor([0, 3]),
            doubles(2, 3),
            "class labels are out of range; given: 0 .. 3; "
            "accepted: 0 .. 2, since the network has 3 outputs",
        ),
        (
            Categorical(),
            torch.tensor([-1, 1]),
            doubles(2, 3),
            "class labels are out of range; given: -1 .. 1; "
            "accepted: 0 .. 2, since the network has 3 outputs",
        ),
        (Categorical(), torch.tensor([0.0, 1.0]), doubles(2, 3), LABELS.format("torch.float32")),
        (Categorical(), torch.tensor([True, False]), doubles(2, 3), LABELS.format("torch.bool")),
        (
            Bernoulli(),
            torch.tensor([0.0, 0.5]),
            doubles(2, 1),
            "binary targets are out of range; given: 0.0 .. 0.5; accepted: 0 and 1",
        ),
        (
            Poisson(),
            torch.tensor([2, -1]),
            doubles(2, 1),
            "counts are out of range; given: minimum -1; accepted: 0, 1, 2, ...",
        ),
        (
            Gaussian(),
            torch.tensor([0.0, math.nan]),
            doubles(2, 1),
            "the targets contain NaN or infinite values; accepted: finite targets",
        ),
        (
            Poisson(),
            torch.tensor([0.0, math.inf]),
            doubles(2, 1),
            "the targets contain NaN or infinite values; accepted: finite targets",
        ),
    ],
)
def test_targets_outside_the_domain(
    likelihood: Likelihood, y: Tensor, output: Tensor, message: str
) -> None:
    with pytest.raises(InvalidDataError) as error:
        likelihood.check(y, output)
    assert str(error.value) == message


def test_counts_are_whole_and_a_fraction_is_named() -> None:
    with pytest.raises(InvalidDataError, match=r"counts are out of range; given: 2\.5"):
        Poisson().check(torch.tensor([1.0, 2.5]), doubles(2, 1))


@pytest.mark.parametrize(
    ("likelihood", "y", "output", "message"),
    [
        (
            Categorical(),
            torch.zeros(2, 1, dtype=torch.int64),
            doubles(2, 3),
            "targets do not fit the network's output under Categorical; "
            "given: targets (2, 1), output (2, 3); accepted: targets of shape (batch)",
        ),
        (
            Gaussian(),
            doubles(2),
            doubles(2, 3),
            "targets do not fit the network's output under Gaussian; "
            "given: targets (2,), output (2, 3); accepted: targets of shape (batch, 3)",
        ),
        (
            Bernoulli(),
            torch.zeros(2, 3, 1),
            doubles(2, 3),
            "targets do not fit the network's output under Bernoulli; "
            "given: targets (2, 3, 1), output (2, 3); accepted: targets of shape (batch, 3)",
        ),
        (
            Categorical(),
            torch.tensor([0, 1]),
            doubles(2),
            "class labels need one output per class; given: output (2,); "
            "accepted: an output of shape (batch, classes)",
        ),
        (
            Gaussian(heteroscedastic=True),
            doubles(2, 1),
            doubles(2, 3),
            "heteroscedastic noise needs a mean and a log scale per target; "
            "given: 3 outputs; accepted: an even number of outputs",
        ),
    ],
)
def test_targets_of_another_shape(
    likelihood: Likelihood, y: Tensor, output: Tensor, message: str
) -> None:
    with pytest.raises(ShapeError) as error:
        likelihood.check(y, output)
    assert str(error.value) == message


def test_likelihood_falls_with_the_distance_from_the_target() -> None:
    output = torch.linspace(0.0, 3.0, 7).double()[:, None]
    values = log_prob(Gaussian(), output, torch.zeros(7)).tolist()
    assert all(later < earlier for earlier, later in pairwise(values))
