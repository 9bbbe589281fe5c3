"""Sum-product on chains in plain torch, on any device; the other back ends are tested against it.

One loop over the length, all chains and both directions in each operation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_turbovbi.kernels.independent import bernoulli_log_evidence
from pyro_turbovbi.kernels.law import SATURATION, ChainLaw, ChainSummary


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
    evidence = llr.clamp(-SATURATION, SATURATION).exp_()
    past, future = _two_sided_odds(evidence, law)
    return ChainMessages(
        log_odds=(past * future).log_(),
        log_evidence=_log_evidence(llr, evidence, past, law) if log_evidence else None,
        transitions=_transition_counts(evidence, past, future, law) if pairwise else None,
    )


@torch.no_grad()
def update_messages(
    llr: Float[Tensor, "*shape"],
    other: Float[Tensor, "*shape"] | None,
    message: Float[Tensor, "*shape"],
    law: ChainLaw,
    dim: int,
    *,
    offset: float = 0.0,
    damping: float = 0.0,
    residual: bool = False,
    pairwise: bool = False,
    log_evidence: bool = False,
) -> ChainSummary:
    """Solve all chains along a dim and write what they say about each element, in place.

    Args:
        llr: Log-likelihood ratios in nats, finite.
        other: More evidence, to be added to `llr`, or None.
        message: Overwritten by the log-odds of all evidence outside an element, without the
            stationary prior.
        law: Transition probabilities, shared by all chains.
        dim: The dim along which the chains run.
        offset: Added to the new messages: the stationary log-odds make them extrinsic log-odds.
        damping: Weight of the previous content of `message`.
        residual: Whether to measure the largest change of `message`.
        pairwise: Whether to compute expected transition counts.
        log_evidence: Whether to compute the log-evidence of each chain.

    Returns:
        What was asked for, in double precision.
    """
    evidence = llr.double() if other is None else llr.double() + other.double()
    leading = evidence.movedim(dim, 0).contiguous()
    solved = chain_messages(
        leading.flatten(1) if leading.dim() > 1 else leading.unsqueeze(1),
        law,
        pairwise=pairwise,
        log_evidence=log_evidence,
    )
    new = solved.log_odds.add_(offset).view(leading.shape).movedim(0, dim)
    if damping > 0:
        new = torch.lerp(new, message.double(), damping)
    change = float((new - message).abs_().max()) if residual else math.nan
    message.copy_(new)
    chains, total, counts = leading.shape[1:], solved.log_evidence, solved.transitions
    return ChainSummary(
        log_evidence=None if total is None else total.view(chains),
        transitions=None if counts is None else counts.view(*chains, 2, 2),
        residual=change,
    )


def element_evidence(
    llr: Float[Tensor, "batch elements"],
    row: Float[Tensor, "batch elements"],
    column: Float[Tensor, "batch elements"],
    prior: float,
) -> Float[Tensor, " batch"]:
    """Log-evidence of all elements of each problem as if they were independent.

    Args:
        llr: Log-likelihood ratios in nats.
        row: What the rows say about each element, in log-odds.
        column: What the columns say, likewise.
        prior: Stationary log-odds.

    Returns:
        Sums in nats, in double precision.
    """
    belief = llr.double() + row.double() + column.double()
    return bernoulli_log_evidence(belief, prior).sum(1)


def gate_messages(
    llr: Float[Tensor, "*shape"],
    message: Float[Tensor, "*shape"],
    gate: Float[Tensor, "*chains"],
    dim: int,
) -> None:
    """Let a gate in front of every chain into what is known about the chain's elements, in place.

    An element is active if its gate is open and it is active within its chain:
    `logit(sigmoid(c) sigmoid(x))`, `x` the log-odds within the open chain and `c` the gate's
    cavity, its log-odds without the evidence that came from this very element.

    Args:
        llr: Log-likelihood ratios in nats.
        message: Extrinsic log-odds of each element within its open chain; overwritten by the
            extrinsic log-odds with the gate.
        gate: Posterior log-odds of each chain's gate, all evidence included, in double precision:
            the shape of `llr` without `dim`.
        dim: The dim along which the chains run.
    """
    inside = message.double()
    cavity = gate.unsqueeze(dim) - bernoulli_log_evidence(llr.double(), inside)
    open_and_active = torch.stack([-cavity, -inside, -cavity - inside])
    message.copy_(-torch.logsumexp(open_and_active, 0))


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
    return norms + last + torch.relu(llr - SATURATION).sum(0)


def _transition_counts(evidence: Tensor, past: Tensor, future: Tensor, law: ChainLaw) -> Tensor:
    """Expected transition counts `[chains, 2, 2]` from the joint of every adjacent pair."""
    first = (past * evidence)[:-1] * (law.p01 / law.p10)
    second = (future * evidence)[1:]
    w01, w10 = second * law.p01, first * law.p10
    w11 = (first * second).mul_(law.p11)
    share = (w01 + w10).add_(w11).add_(law.p00).reciprocal_()
    counts = [share.sum(0) * law.p00, *((w * share).sum(0) for w in (w01, w10, w11))]
    return torch.stack(counts, -1).view(-1, 2, 2)
