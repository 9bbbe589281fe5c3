"""What all support distributions have in common."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from pyro.ops.provenance import extract_provenance, track_provenance
from torch import Tensor
from torch.distributions import constraints

from pyro_turbovbi.errors import InvalidArgumentError, ShapeError, UnsupportedError
from pyro_turbovbi.kernels import GatedTransitions, GridTransitions, RowPosterior, check_finite
from pyro_turbovbi.kernels.backends import buffers

DistributionT = TypeVar("DistributionT", bound="SupportDistribution")

Transitions = Tensor | GridTransitions | GatedTransitions

#: What to use where an exact log-evidence is needed, for error messages.
EXACT_EVIDENCE = (
    "a support prior that is a tree: supports.Independent(), supports.Chain(), supports.Gated(), "
    "or supports.Blocks() of them"
)

#: What shared unit gates accept behind them, for error messages.
INDEPENDENT_ROWS = (
    "supports.Independent(), or supports.Chain() along any dim but the first (None: along the rows)"
)

_LOWEST = 1e-30
_HIGHEST = 1.0 - 1e-12


class SupportPosterior(NamedTuple):
    """Posterior of a support given log-likelihood ratios of shape `[*batch, *event]`.

    Attributes:
        log_odds: `[*batch, *event]`, posterior log-odds of each element being active.
        probs: `[*batch, *event]`, `sigmoid(log_odds)`.
        extrinsic: `[*batch, *event]`, `log_odds - llr`, computed without that subtraction.
        pairwise: Expected transition counts: `[*batch, 2, 2]` for chains, `GridTransitions` for
            grids, `GatedTransitions` for gated chains, None where the prior has no pairs or they
            were not asked for.
        log_evidence: `[*batch]`, `ln sum_s p(s) exp(sum_n llr_n s_n)` in nats, or None when not
            asked for.
        messages: What a warm start needs (`start=`), None for priors that are solved exactly.
        gate_log_odds: `[*batch, gates]`, posterior log-odds of an open gate, None for priors
            without gates.
    """

    log_odds: Float[Tensor, "*shape"]
    probs: Float[Tensor, "*shape"]
    extrinsic: Float[Tensor, "*shape"]
    pairwise: Transitions | None
    log_evidence: Float[Tensor, "*batch"] | None
    messages: Tensor | None = None
    gate_log_odds: Float[Tensor, "*batch gates"] | None = None


class Request(NamedTuple):
    """What a support prior is asked for, and where the results go.

    Attributes:
        extrinsic: `[*batch, *event]`, contiguous, to be filled.
        start: `messages` of an earlier posterior, or None.
        messages: A tensor to be overwritten by the new messages, or None to make one.
        pairwise: Whether to compute expected transition counts.
        log_evidence: Whether to compute the log-evidence.
    """

    extrinsic: Tensor
    start: Tensor | None
    messages: Tensor | None
    pairwise: bool
    log_evidence: bool


class Solution(NamedTuple):
    """What a support prior found beside the extrinsic log-odds: see `SupportPosterior`."""

    pairwise: Transitions | None = None
    log_evidence: Tensor | None = None
    messages: Tensor | None = None
    gate_log_odds: Tensor | None = None


class SupportDistribution(TorchDistribution):
    """A joint distribution over a tensor of zeros and ones that says which weights are active.

    A genuine Pyro distribution: the whole tensor is one event. Its parameters are scalars in double
    precision (a transition probability of 1e-8 has a complement), whatever the dtype of the
    weights.

    Args:
        event_shape: Shape of the support tensor.
        validate_args: Whether `log_prob` checks its argument; None is torch's default.

    Raises:
        ShapeError: If the support tensor would have no elements.
    """

    def __init__(self, event_shape: Sequence[int], validate_args: bool | None = None) -> None:
        shape = torch.Size(event_shape)
        if shape.numel() == 0:
            raise ShapeError(
                "a support needs at least one element",
                given=f"shape {tuple(shape)}",
                accepted="a shape without a zero",
            )
        super().__init__(torch.Size(), shape, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        """Zeros and ones."""
        return constraints.independent(constraints.boolean, len(self.event_shape))

    @property
    @abstractmethod
    def density(self) -> Tensor:
        """Stationary probability of an active element, a scalar in double precision."""

    @property
    def prior_log_odds(self) -> Tensor:
        """Stationary log-odds of an active element, a scalar in double precision."""
        return torch.logit(self.density)

    def posterior(
        self,
        llr: Float[Tensor, "*shape"],
        *,
        start: Tensor | None = None,
        pairwise: bool = True,
        log_evidence: bool = True,
        out: SupportPosterior | None = None,
        site: str | None = None,
    ) -> SupportPosterior:
        """Posterior given one log-likelihood ratio per element; not differentiable.

        Args:
            llr: `[*batch, *event]`, `ln p(data | s_n = 1) - ln p(data | s_n = 0)` in nats.
            start: `messages` of an earlier posterior, for a warm start; ignored by priors that are
                solved exactly.
            pairwise: Whether to compute expected transition counts.
            log_evidence: Whether to compute the log-evidence.
            out: An earlier posterior for `llr` of this shape and dtype; its tensors of that shape
                are overwritten and handed back, so that nothing large is allocated. `start` may be
                its messages.
            site: Name of the weight, for error messages.

        Returns:
            The posterior, in the dtype of `llr`.

        Raises:
            NumericalError: If an element of `llr` is not finite.
            ShapeError: If `llr` does not end in the event shape, or `out` does not fit.
        """
        self._check_shape(llr)
        check_finite(llr, site=site)
        log_odds, probs, extrinsic = buffers(llr, out[:3] if out else (None, None, None))
        with torch.no_grad():
            wanted = Request(extrinsic, start, out and out.messages, pairwise, log_evidence)
            solved = self._solve(llr.detach(), wanted)
            torch.add(llr, extrinsic, out=log_odds)
            torch.sigmoid(log_odds, out=probs)
        return SupportPosterior(log_odds, probs, extrinsic, *solved)

    def log_evidence(self, llr: Float[Tensor, "*shape"]) -> Float[Tensor, "*batch"]:
        """Differentiable log-evidence `ln sum_s p(s) exp(sum_n llr_n s_n)`, exact.

        Its gradient in `llr` is the posterior probability of each element.

        Args:
            llr: `[*batch, *event]`, `ln p(data | s_n = 1) - ln p(data | s_n = 0)` in nats.

        Returns:
            `[*batch]` in nats, in the dtype of `llr`.

        Raises:
            ShapeError: If `llr` does not end in the event shape.
            UnsupportedError: If the prior's normaliser is intractable.
        """
        self._check_shape(llr)
        # Pyro follows where a number comes from by a subclass of tensors that kernels do not know.
        plain: Any
        plain, provenance = extract_provenance(llr)
        evidence: Tensor = track_provenance(self._log_evidence(plain), provenance)
        return evidence

    def row_posterior(self, llr: Float[Tensor, "*event"]) -> RowPosterior:
        """Posterior with one log-evidence per row, for priors whose rows are independent.

        A row is everything at one index of the first dim: a unit's incoming weights. Not
        differentiable.

        Args:
            llr: The event shape, `ln p(data | s_n = 1) - ln p(data | s_n = 0)` in nats, finite.

        Returns:
            Extrinsic log-odds (the event shape) and log-evidences `[rows]`.

        Raises:
            UnsupportedError: If the prior couples rows.
        """
        raise UnsupportedError(
            "the support prior couples the weights of different units, which unit gates cannot "
            "take apart",
            given=self,
            accepted=INDEPENDENT_ROWS,
        )

    @property
    def parameters(self) -> dict[str, Tensor]:
        """What `maximise` changes, by name; scalars in double precision.

        Raises:
            UnsupportedError: If a class of your own learns something and does not say what.
        """
        return {name: getattr(self, name) for name in self.arg_constraints}

    def with_parameters(self: DistributionT, values: Mapping[str, Any]) -> DistributionT:
        """The same distribution with other values of all its `parameters`.

        Args:
            values: Numbers or scalar tensors by name.

        Raises:
            UnsupportedError: If a class of your own has parameters and not this method.
        """
        if not values:
            return self
        raise UnsupportedError(
            "parameters of the support distribution cannot be set",
            given=type(self).__name__,
            accepted="a class with a method with_parameters, as those of this package have",
        )

    @abstractmethod
    def maximise(self, posterior: SupportPosterior) -> SupportDistribution:
        """M-step of expectation maximisation: the parameters that fit a posterior best.

        Args:
            posterior: A posterior under this distribution, with `pairwise` unless the prior has no
                pairs.

        Returns:
            A new distribution; every probability is kept within [1e-6, 1 - 1e-6].

        Raises:
            InvalidArgumentError: If the posterior lacks the expected transition counts.
        """

    def expand(
        self: DistributionT, batch_shape: Sequence[int], _instance: object = None
    ) -> DistributionT:
        """The same distribution over a batch of independent supports.

        Args:
            batch_shape: The new batch shape.

        Returns:
            A new distribution that shares the parameters.
        """
        new = copy.copy(self)
        new._batch_shape = torch.Size(batch_shape)
        return new

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "*draws"]:
        """Draw supports.

        Args:
            sample_shape: Shape of independent draws in front of the batch shape.

        Returns:
            Zeros and ones of shape `[*sample, *batch, *event]` in torch's default dtype.
        """
        lead = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            values = self._draw(lead.numel())
        return values.reshape(lead + self.event_shape).to(torch.get_default_dtype())

    def log_prob(self, value: Float[Tensor, "*shape"]) -> Float[Tensor, "*lead"]:
        """Log-probability of whole supports.

        Args:
            value: Zeros and ones of shape `[*sample, *batch, *event]`.

        Returns:
            `[*sample, *batch]` in nats, in the dtype of `value`.
        """
        if self._validate_args:
            self._validate_sample(value)
        lead = value.shape[: value.dim() - len(self.event_shape)]
        total = self._total_log_prob(value.reshape(-1, *self.event_shape)).view(lead)
        return total.expand(torch.broadcast_shapes(lead, self.batch_shape)).to(value.dtype)

    def _check_shape(self, llr: Tensor) -> None:
        event = self.event_shape
        if llr.dim() < len(event) or llr.shape[llr.dim() - len(event) :] != event:
            raise ShapeError(
                "the log-likelihood ratios do not fit the support",
                given=f"shape {tuple(llr.shape)}",
                accepted=f"shape [..., {', '.join(map(str, event))}]",
            )

    def _log_evidence(self, llr: Tensor) -> Tensor:
        """`[*batch]` exact log-evidences of `llr [*batch, *event]`, on its graph."""
        raise UnsupportedError(
            "the support prior has no exact, differentiable log-evidence",
            given=type(self).__name__,
            accepted=EXACT_EVIDENCE,
        )

    @abstractmethod
    def _solve(self, llr: Tensor, wanted: Request) -> Solution:
        """Fill `wanted.extrinsic` for `llr [*batch, *event]`; report the rest."""

    @abstractmethod
    def _draw(self, count: int) -> Tensor:
        """`[count, ...]` supports; anything that reshapes to `[count, *event]`."""

    @abstractmethod
    def _total_log_prob(self, value: Tensor) -> Tensor:
        """`[count]` log-probabilities of `[count, *event]` supports."""


def probability(value: Any, name: str) -> Tensor:
    """A probability as a scalar in double precision, moved off exactly 0 and 1.

    An impossible transition would give evidences of zero; it is kept at a probability of 1e-12
    instead.

    Args:
        value: A number or a scalar tensor.
        name: Name of the argument, for the message.

    Returns:
        A scalar tensor inside [1e-30, 1 - 1e-12], on the graph of `value`.

    Raises:
        InvalidArgumentError: If it is no number in (0, 1].
    """
    tensor = torch.as_tensor(value, dtype=torch.float64)
    if tensor.dim() != 0 or not 0.0 < tensor.item() <= 1.0:
        raise InvalidArgumentError(
            f"{name} is not a probability above 0", given=value, accepted="a number in (0, 1]"
        )
    return tensor.clamp(_LOWEST, _HIGHEST)


def matrix_shape(event_shape: torch.Size) -> torch.Size:
    """The matrix view (out, everything else) of a shape; one or two dims stay as they are."""
    if len(event_shape) <= 2:
        return event_shape
    return torch.Size((event_shape[0], event_shape[1:].numel()))


def missing_transitions(given: object) -> InvalidArgumentError:
    """The error for an M-step without expected transition counts."""
    return InvalidArgumentError(
        "the M-step needs expected transition counts",
        given=f"pairwise={given!r}",
        accepted="a posterior of the same distribution computed with pairwise=True",
    )
