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

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError, NumericalError, ShapeError
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

    Its gradient in `llr` is the posterior probability of each element, which comes with the
    log-evidence from one pass of `chain_posterior`. It can be differentiated repeatedly, and in the
    transition probabilities too: these derivatives go through the recursion in torch, step by step
    along the chain, and take many times longer.

    Args:
        llr: Log-likelihood ratios in nats, one per element. Where any of them is not finite, all
            log-evidences are NaN (a sampler that has diverged must be told, not stopped).
        p01: `P(1|0)`, a float or a scalar tensor, strictly inside (0, 1).
        p10: `P(0|1)`, likewise.
        dim: The dim along which the chains run.

    Returns:
        One log-evidence in nats per chain: the shape of `llr` without `dim`, in its dtype.

    Raises:
        ShapeError: If `llr` has no elements or no such dim.
    """
    _check_dim(llr, dim)
    if any(isinstance(p, Tensor) and p.requires_grad for p in (p01, p10)):
        return _recursion(llr, p01, p10, dim)
    return _ChainLogEvidence.apply(llr, float(p01), float(p10), dim % llr.dim())[0]  # type: ignore[no-any-return, no-untyped-call]


class _ChainLogEvidence(torch.autograd.Function):
    """Log-evidence of chains and, for its gradient, the posterior probabilities."""

    @staticmethod
    def forward(llr: Tensor, p01: float, p10: float, dim: int) -> tuple[Tensor, Tensor]:
        try:
            solved = chain_posterior(llr, ChainLaw(p01, p10), dim=dim, log_evidence=True)
        except NumericalError:
            return llr.sum(dim) * torch.nan, torch.full_like(llr, torch.nan)
        assert solved.log_evidence is not None
        return solved.log_evidence, solved.log_odds.sigmoid()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        llr, ctx.p01, ctx.p10, ctx.dim = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(llr, output[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        llr, probs = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return gradients[0].unsqueeze(ctx.dim) * probs, None, None, None
        # This gradient will itself be differentiated: it has to know where it comes from.
        evidence = _recursion(llr, ctx.p01, ctx.p10, ctx.dim)
        (result,) = torch.autograd.grad(evidence, llr, gradients[0], create_graph=True)
        return result, None, None, None

    @staticmethod
    def vmap(
        info: object,
        in_dims: tuple[int, None, None, None],
        llr: Tensor,
        p01: float,
        p10: float,
        dim: int,
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
        leading = llr.movedim(in_dims[0], 0)
        return _ChainLogEvidence.apply(leading, p01, p10, dim + 1), (0, 0)  # type: ignore[no-untyped-call]


def _recursion(llr: Tensor, p01: Tensor | float, p10: Tensor | float, dim: int) -> Tensor:
    """The log-evidence by differentiable steps along the chain."""
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


def check_dims(
    llr: Float[Tensor, "*shape"],
    dims: tuple[int, int],
    event_dims: int,
    *,
    shape_problem: str,
    dims_problem: str,
) -> None:
    """Refuse log-likelihood ratios without two different event dims, and dims that are not those.

    Args:
        llr: `[*batch, *event]`, log-likelihood ratios.
        dims: The two dims, counted from the end.
        event_dims: How many dims at the end are event dims.
        shape_problem: What to say of a shape that does not do.
        dims_problem: What to say of dims that do not do.

    Raises:
        InvalidArgumentError: If `dims` are no two of the event dims.
        ShapeError: If `llr` has too few dims or no elements.
    """
    needed = max(2, event_dims)
    if llr.dim() < needed or llr.numel() == 0:
        raise ShapeError(
            shape_problem,
            given=f"log-likelihood ratios of shape {tuple(llr.shape)}",
            accepted=f"at least {needed} dims and one element",
        )
    allowed = range(-event_dims, 0)
    if len({*dims} & {*allowed}) != 2:
        raise InvalidArgumentError(
            dims_problem, given=dims, accepted=f"two of {', '.join(map(str, allowed))}"
        )


def _check_dim(llr: Tensor, dim: int) -> None:
    if llr.numel() == 0 or not -llr.dim() <= dim < llr.dim():
        raise ShapeError(
            "no chain can run there",
            given=f"dim {dim} of a tensor of shape {tuple(llr.shape)}",
            accepted="a dim of a tensor with at least one dim and one element",
        )
