"""Exact sum-product on stationary binary Markov chains, many chains at once.

A chain `s_1..s_L` has `P(1|0) = p01`, `P(0|1) = p10` and starts from its stationary law, so it is
reversible: the message that reaches an element from its past obeys the same recursion as the one
from its future. With `r` the odds of the evidence on one side of an element under `s = 1` against
`s = 0`, and `e = exp(llr)` of the neighbour,

    r' = (p10 + p11 r e) / (p00 + p01 r e)

Every term is positive, hence nothing cancels: the odds keep their full relative precision in double
precision for transition probabilities down to 1e-30, where a recursion on normalised probabilities
loses the smaller state. The map is a contraction of the log-odds, so rounding errors do not grow
along the chain. A log-likelihood ratio beyond 200 nats has saturated the map; what it adds to the
log-evidence is linear and is added exactly.

Reference: L. Rabiner, "A tutorial on hidden Markov models", Proc. IEEE 77(2), 1989
(forward-backward).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_turbovbi.errors import NumericalError, ShapeError

_SATURATION = 200.0


class ChainLaw(NamedTuple):
    """Transition probabilities of a stationary binary Markov chain, floats inside (0, 1).

    Attributes:
        p01: `P(s_{n+1} = 1 | s_n = 0)`.
        p10: `P(s_{n+1} = 0 | s_n = 1)`; a run of ones has mean length `1 / p10`.
    """

    p01: float
    p10: float

    @classmethod
    def stationary(cls, density: float, mean_run: float | int) -> ChainLaw:
        """The law with a given stationary probability of ones and mean length of a run of ones.

        Args:
            density: Stationary probability of a one.
            mean_run: Mean number of elements in a run of ones, at least
                `max(1, density / (1 - density))`.

        Returns:
            The law with `p10 = 1 / mean_run` and `p01 = p10 density / (1 - density)`.
        """
        p10 = 1.0 / mean_run
        return cls(p10 * density / (1.0 - density), p10)

    @property
    def p00(self) -> float:
        """`P(s_{n+1} = 0 | s_n = 0)`."""
        return 1.0 - self.p01

    @property
    def p11(self) -> float:
        """`P(s_{n+1} = 1 | s_n = 1)`."""
        return 1.0 - self.p10

    @property
    def density(self) -> float:
        """Stationary probability of a one."""
        return self.p01 / (self.p01 + self.p10)

    @property
    def log_odds(self) -> float:
        """Stationary log-odds `logit(density)`."""
        return math.log(self.p01 / self.p10)


class ChainMessages(NamedTuple):
    """What the other elements of a chain say about each element, without the stationary prior.

    Attributes:
        log_odds: `[length, chains]`, log-odds of all evidence outside the element; zero where
            nothing is known.
        log_evidence: `[chains]` in nats, or None when not asked for.
        transitions: `[chains, 2, 2]`, expected counts of `s_n = i, s_{n+1} = j`, or None when not
            asked for.
    """

    log_odds: Float[Tensor, "length chains"]
    log_evidence: Float[Tensor, " chains"] | None
    transitions: Float[Tensor, "chains 2 2"] | None


class ChainPosterior(NamedTuple):
    """Posterior of binary Markov chains given log-likelihood ratios of shape `[...]`.

    Attributes:
        log_odds: `[...]`, posterior log-odds of `s_n = 1`.
        extrinsic: `[...]`, `log_odds - llr`, computed without that subtraction.
        log_evidence: `[...]` without the chain's dim, in nats, or None when not asked for.
        transitions: `[..., 2, 2]` without the chain's dim, expected transition counts, or None when
            not asked for.
    """

    log_odds: Float[Tensor, "*shape"]
    extrinsic: Float[Tensor, "*shape"]
    log_evidence: Float[Tensor, "*chains"] | None
    transitions: Float[Tensor, "*chains 2 2"] | None


def chain_posterior(
    llr: Float[Tensor, "*shape"],
    law: ChainLaw,
    *,
    dim: int = -1,
    pairwise: bool = False,
    log_evidence: bool = False,
) -> ChainPosterior:
    """Exact posterior of independent stationary chains along one dim by forward-backward.

    Args:
        llr: Log-likelihood ratios `ln p(data | s = 1) - ln p(data | s = 0)` in nats, one per
            element.
        law: Transition probabilities, shared by all chains.
        dim: The dim along which the chains run; all other dims are independent chains.
        pairwise: Whether to compute expected transition counts.
        log_evidence: Whether to compute `ln sum_s p(s) exp(sum_n llr_n s_n)` per chain.

    Returns:
        The posterior, in the dtype of `llr`; computed in double precision.

    Raises:
        NumericalError: If an element of `llr` is not finite.
        ShapeError: If `llr` has no elements or no such dim.
    """
    leading = _chain_first(llr.detach(), dim)
    check_finite(leading)
    columns = leading.reshape(len(leading), -1)
    solved = chain_messages(columns, law, pairwise=pairwise, log_evidence=log_evidence)
    extrinsic = (solved.log_odds + law.log_odds).view(leading.shape).to(llr.dtype)
    extrinsic = extrinsic.movedim(0, dim).contiguous()
    chains, evidence, counts = leading.shape[1:], solved.log_evidence, solved.transitions
    return ChainPosterior(
        log_odds=extrinsic + llr.detach(),
        extrinsic=extrinsic,
        log_evidence=None if evidence is None else evidence.view(chains).to(llr.dtype),
        transitions=None if counts is None else counts.view(*chains, 2, 2).to(llr.dtype),
    )


@torch.no_grad()
def chain_messages(
    llr: Float[Tensor, "length chains"],
    law: ChainLaw,
    *,
    pairwise: bool = False,
    log_evidence: bool = False,
) -> ChainMessages:
    """Sum-product along the leading dim: the kernel under the chain and the grid posterior.

    Args:
        llr: Log-likelihood ratios in nats, double precision, finite; one chain per column.
        law: Transition probabilities, shared by all chains.
        pairwise: Whether to compute expected transition counts.
        log_evidence: Whether to compute the log-evidence of each chain.

    Returns:
        Messages without the stationary prior, in double precision.
    """
    evidence = llr.clamp(-_SATURATION, _SATURATION).exp_()
    past, future = _two_sided_odds(evidence, law)
    return ChainMessages(
        log_odds=(past * future).log_(),
        log_evidence=_log_evidence(llr, evidence, past, law) if log_evidence else None,
        transitions=_transition_counts(evidence, past, future, law) if pairwise else None,
    )


def chain_log_evidence(
    llr: Float[Tensor, "*shape"],
    p01: Float[Tensor, ""] | float,
    p10: Float[Tensor, ""] | float,
    *,
    dim: int = -1,
) -> Float[Tensor, "*chains"]:
    """Differentiable log-evidence `ln sum_s p(s) exp(sum_n llr_n s_n)` of stationary chains.

    Its gradient in `llr` is the posterior probability of each element; it can be differentiated
    repeatedly, and in the transition probabilities too.

    Args:
        llr: Log-likelihood ratios in nats, one per element.
        p01: `P(1|0)`, a float or a scalar tensor, strictly inside (0, 1).
        p10: `P(0|1)`, likewise.
        dim: The dim along which the chains run.

    Returns:
        One log-evidence in nats per chain: the shape of `llr` without `dim`, in its dtype.

    Raises:
        ShapeError: If `llr` has no elements or no such dim.
    """
    leading = _chain_first(llr, dim)
    up = torch.as_tensor(p01, dtype=torch.float64, device=llr.device)
    down = torch.as_tensor(p10, dtype=torch.float64, device=llr.device)
    evidence = leading.clamp(-_SATURATION, _SATURATION).exp()
    odds, norms = torch.ones_like(evidence[0]), []
    for to_one, to_zero in zip(
        ((1 - down) * evidence)[:-1].unbind(), (up * evidence)[:-1].unbind(), strict=True
    ):
        norms.append(torch.addcmul(1 - up, to_zero, odds))
        odds = torch.addcmul(down, to_one, odds) / norms[-1]
    norms.append(torch.addcmul(down, up * evidence[-1], odds) / (up + down))
    total = torch.stack(norms).log().sum(0) + torch.relu(leading - _SATURATION).sum(0)
    return total.to(llr.dtype)


def check_finite(llr: Float[Tensor, "*shape"], *, site: str | None = None) -> None:
    """Refuse log-likelihood ratios that are not finite.

    Args:
        llr: Log-likelihood ratios, any shape.
        site: Name of the weight they belong to, for the message.

    Raises:
        NumericalError: If an element is NaN or infinite.
    """
    if bool(torch.isfinite(llr.sum())):  # a fraction of the cost of looking at each element
        return
    finite = torch.isfinite(llr)
    if not bool(finite.all()):  # a finite sum can overflow
        where = "" if site is None else f" of site {site!r}"
        raise NumericalError(
            f"the log-likelihood ratios{where} are not all finite",
            given=f"{int((~finite).sum())} of {llr.numel()} elements NaN or infinite",
            accepted="finite numbers (check data, learning rate and weights for overflow)",
        )


def _chain_first(llr: Tensor, dim: int) -> Tensor:
    """`llr` in double precision, the chain's dim leading also in memory."""
    if llr.numel() == 0 or not -llr.dim() <= dim < llr.dim():
        raise ShapeError(
            "no chain can run there",
            given=f"dim {dim} of a tensor of shape {tuple(llr.shape)}",
            accepted="a dim of a tensor with at least one dim and one element",
        )
    return llr.movedim(dim, 0).contiguous().double()


def _two_sided_odds(evidence: Tensor, law: ChainLaw) -> tuple[Tensor, Tensor]:
    """Odds messages `[length, chains]` from past and future, both in one loop."""
    length, chains = evidence.shape
    # dims: step, (numerator, denominator), (past, future), chain
    weights = evidence.new_empty(length - 1, 2, 2, chains)
    for part, factor in enumerate((law.p11, law.p01)):
        torch.mul(evidence[:-1], factor, out=weights[:, part, 0])
        torch.mul(evidence[1:].flip(0), factor, out=weights[:, part, 1])
    offset = evidence.new_tensor([law.p10, law.p00]).view(2, 1, 1).repeat(1, 2, chains)
    odds = evidence.new_ones(length, 2, chains)
    steps = odds.unbind()
    fraction = torch.empty_like(offset)
    numerator, denominator = fraction.unbind()
    for weight, before, after in zip(weights.unbind(), steps[:-1], steps[1:], strict=True):
        torch.addcmul(offset, weight, before, out=fraction)
        torch.div(numerator, denominator, out=after)
    return odds[:, 0], odds[:, 1].flip(0)


def _log_evidence(llr: Tensor, evidence: Tensor, past: Tensor, law: ChainLaw) -> Tensor:
    """Sum of the logs of the forward recursion's normalisers, `[chains]`."""
    seen = past * evidence
    last = (law.p10 + law.p01 * seen[-1]).log() - math.log(law.p01 + law.p10)
    norms = seen[:-1].mul_(law.p01).add_(law.p00).log_().sum(0)
    return norms + last + torch.relu(llr - _SATURATION).sum(0)


def _transition_counts(evidence: Tensor, past: Tensor, future: Tensor, law: ChainLaw) -> Tensor:
    """Expected transition counts `[chains, 2, 2]` from the joint of every adjacent pair."""
    first = (past * evidence)[:-1] * (law.p01 / law.p10)
    second = (future * evidence)[1:]
    w01, w10 = second * law.p01, first * law.p10
    w11 = (first * second).mul_(law.p11)
    share = (w01 + w10).add_(w11).add_(law.p00).reciprocal_()
    counts = [share.sum(0) * law.p00, *((w * share).sum(0) for w in (w01, w10, w11))]
    return torch.stack(counts, -1).view(-1, 2, 2)
