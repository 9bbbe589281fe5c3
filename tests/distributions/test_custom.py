from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyro_turbovbi.distributions import CustomSupport, MarkovChainSupport
from pyro_turbovbi.errors import InvalidArgumentError, NumericalError, ShapeError
from pyro_turbovbi.kernels import ChainLaw, chain_posterior
from tests.oracles.enumeration import all_states

EXACT = {"rtol": 1e-9, "atol": 1e-9}
LAW = ChainLaw.stationary(0.3, 2.5)


class OwnChain(CustomSupport):
    """A chain along the last dim, as somebody else would write it."""

    @property
    def density(self) -> Tensor:
        return torch.tensor(LAW.density, dtype=torch.float64)

    def infer(self, llr: Tensor) -> tuple[Tensor, Tensor]:
        post = chain_posterior(llr, LAW, log_evidence=True)
        return post.extrinsic, post.log_evidence.flatten(1).sum(1)


class Pairs(CustomSupport):
    """Both elements of a pair or none; differentiable."""

    @property
    def density(self) -> Tensor:
        return torch.tensor(0.2, dtype=torch.float64)

    def infer(self, llr: Tensor) -> tuple[Tensor, Tensor]:
        prior = self.prior_log_odds
        evidence = softplus(prior + llr.sum(-1)) - softplus(prior)
        return prior + llr.flip(-1), evidence.flatten(1).sum(1)


def test_two_methods_make_the_whole_distribution() -> None:
    own, chain = OwnChain((2, 4)), MarkovChainSupport((2, 4), *LAW)
    states = all_states(8).view(-1, 2, 4)
    torch.testing.assert_close(own.log_prob(states), chain.log_prob(states), **EXACT)
    llr = torch.randn(5, 2, 4)
    ours, theirs = own.posterior(llr), chain.posterior(llr)
    for a, b in zip(ours[:3], theirs[:3], strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(ours.log_evidence, theirs.log_evidence)
    assert own.maximise(ours) is own


def test_samples_follow_the_law() -> None:
    torch.manual_seed(0)
    own, count = OwnChain((1, 3)), 20_000
    states = all_states(3)
    index = own.sample((count,)).double().flatten(1) @ torch.tensor([4.0, 2, 1]).double()
    observed = torch.bincount(index.long(), minlength=8).double()
    expected = count * own.log_prob(states.view(-1, 1, 3)).exp()
    assert float(((observed - expected) ** 2 / expected).sum()) < 29.9  # 7 degrees: once in 10,000


def test_impossible_supports_are_very_improbable() -> None:
    pairs = Pairs((3, 2))
    possible = torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    impossible = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    expected = torch.tensor([0.2, 0.8, 0.8]).log().sum()
    torch.testing.assert_close(pairs.log_prob(possible), expected)
    assert float(pairs.log_prob(impossible)) < -900
    draws = pairs.sample((50,))
    assert torch.equal(draws[..., 0], draws[..., 1])


def test_the_gradient_of_the_log_evidence_is_the_posterior() -> None:
    llr = torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True)
    pairs = Pairs((3, 2))
    (gradient,) = torch.autograd.grad(pairs.log_evidence(llr).sum(), llr)
    torch.testing.assert_close(gradient, pairs.posterior(llr).probs, **EXACT)


def test_needs_both_methods() -> None:
    with pytest.raises(TypeError, match="abstract"):
        CustomSupport((3, 2))  # type: ignore[abstract]


class Answers(CustomSupport):
    """Gives what it is told to give."""

    def __init__(self, answer: object, density: object = 0.3) -> None:
        super().__init__((2, 3))
        self.answer, self.told = answer, density

    @property
    def density(self) -> Tensor:
        return self.told  # type: ignore[return-value]

    def infer(self, llr: Tensor) -> tuple[Tensor, Tensor]:
        return self.answer  # type: ignore[return-value]


GOOD = torch.zeros(1, 2, 3, dtype=torch.float64)
EVIDENCE = torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        (GOOD, "(1, 2, 3)"),
        ((GOOD, None), "(1, 2, 3) and NoneType"),
        ((GOOD.transpose(1, 2), EVIDENCE), "(1, 3, 2) and (1,)"),
        ((GOOD, GOOD), "(1, 2, 3) and (1, 2, 3)"),
        ((GOOD[0], EVIDENCE), "(2, 3) and (1,)"),
    ],
)
def test_answers_of_other_shapes_are_refused(answer: object, given: str) -> None:
    with pytest.raises(ShapeError) as error:
        Answers(answer).posterior(torch.zeros(2, 3))
    assert str(error.value) == (
        "Answers.infer does not give extrinsic log-odds and log-evidence; "
        f"given: {given}; accepted: tensors of shapes (1, 2, 3) and (1,)"
    )


@pytest.mark.parametrize(
    ("answer", "which"),
    [((GOOD * float("nan"), EVIDENCE), "extrinsic log-odds"), ((GOOD, EVIDENCE.log()), "evidence")],
)
def test_answers_that_are_not_finite_are_refused(answer: object, which: str) -> None:
    with pytest.raises(NumericalError, match=f"{which} that are not finite"):
        Answers(answer).posterior(torch.zeros(2, 3))


@pytest.mark.parametrize("density", [0.0, 2.0, float("nan"), torch.ones(2) / 3.0])
def test_a_density_is_a_probability(density: object) -> None:
    with pytest.raises(InvalidArgumentError, match="the density of Answers is no probability"):
        _ = Answers((GOOD, EVIDENCE), density).prior_log_odds
    assert float(Answers((GOOD, EVIDENCE), 0.5).prior_log_odds) == 0.0
