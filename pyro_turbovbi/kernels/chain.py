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

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_turbovbi.errors import NumericalError, ShapeError
from pyro_turbovbi.kernels.backends import BackendName, backend_for, buffers
from pyro_turbovbi.kernels.law import SATURATION, ChainLaw


class ChainPosterior(NamedTuple):
    """Posterior of binary Markov chains given log-likelihood ratios of shape `[...]`.

    Attributes:
        llr: `[...]`, the log-likelihood ratios as given, not a copy.
        extrinsic: `[...]`, posterior log-odds minus `llr`, computed without that subtraction.
        log_evidence: `[...]` without the chain's dim, in nats, or None when not asked for.
        transitions: `[..., 2, 2]` without the chain's dim, expected transition counts, or None when
            not asked for.
    """

    llr: Float[Tensor, "*shape"]
    extrinsic: Float[Tensor, "*shape"]
    log_evidence: Float[Tensor, "*chains"] | None
    transitions: Float[Tensor, "*chains 2 2"] | None

    @property
    def log_odds(self) -> Float[Tensor, "*shape"]:
        """`[...]`, posterior log-odds of `s_n = 1`; computed when read."""
        return self.llr + self.extrinsic


def chain_posterior(
    llr: Float[Tensor, "*shape"],
    law: ChainLaw,
    *,
    dim: int = -1,
    pairwise: bool = False,
    log_evidence: bool = False,
    out: Float[Tensor, "*shape"] | None = None,
    backend: BackendName = "auto",
) -> ChainPosterior:
    """Exact posterior of independent stationary chains along one dim by forward-backward.

    Args:
        llr: Log-likelihood ratios `ln p(data | s = 1) - ln p(data | s = 0)` in nats, one per
            element.
        law: Transition probabilities, shared by all chains.
        dim: The dim along which the chains run; all other dims are independent chains.
        pairwise: Whether to compute expected transition counts.
        log_evidence: Whether to compute `ln sum_s p(s) exp(sum_n llr_n s_n)` per chain.
        out: A contiguous tensor of the shape and dtype of `llr` that becomes `extrinsic`, so that
            nothing large is allocated.
        backend: What computes it, see `backends`.

    Returns:
        The posterior, in the dtype of `llr`; computed in double precision.

    Raises:
        NumericalError: If an element of `llr` is not finite.
        ShapeError: If `llr` has no elements or no such dim, or `out` does not fit.
    """
    _check_dim(llr, dim)
    (extrinsic,) = buffers(llr, (out,))
    check_finite(llr)
    solver = backend_for(llr, backend)
    message = solver.workspace(extrinsic)
    solved = solver.update_messages(
        llr.detach().contiguous(),
        None,
        message,
        law,
        dim,
        offset=law.log_odds,
        pairwise=pairwise,
        log_evidence=log_evidence,
    )
    evidence, counts = solved.log_evidence, solved.transitions
    return ChainPosterior(
        llr=llr.detach(),
        extrinsic=extrinsic if message is extrinsic else extrinsic.copy_(message),
        log_evidence=None if evidence is None else evidence.to(llr.dtype),
        transitions=None if counts is None else counts.to(llr.dtype),
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
    _check_dim(llr, dim)
    leading = llr.movedim(dim, 0).double()
    up = torch.as_tensor(p01, dtype=torch.float64, device=llr.device)
    down = torch.as_tensor(p10, dtype=torch.float64, device=llr.device)
    evidence = leading.clamp(-SATURATION, SATURATION).exp()
    odds, norms = torch.ones_like(evidence[0]), []
    for to_one, to_zero in zip(
        ((1 - down) * evidence)[:-1].unbind(), (up * evidence)[:-1].unbind(), strict=True
    ):
        norms.append(torch.addcmul(1 - up, to_zero, odds))
        odds = torch.addcmul(down, to_one, odds) / norms[-1]
    norms.append(torch.addcmul(down, up * evidence[-1], odds) / (up + down))
    total = torch.stack(norms).log().sum(0) + torch.relu(leading - SATURATION).sum(0)
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


def _check_dim(llr: Tensor, dim: int) -> None:
    if llr.numel() == 0 or not -llr.dim() <= dim < llr.dim():
        raise ShapeError(
            "no chain can run there",
            given=f"dim {dim} of a tensor of shape {tuple(llr.shape)}",
            accepted="a dim of a tensor with at least one dim and one element",
        )
