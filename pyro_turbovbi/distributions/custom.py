"""A support distribution of your own from two answers: its density and its posterior."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_turbovbi.distributions.support import (
    DistributionT,
    Request,
    Solution,
    SupportDistribution,
    SupportPosterior,
)
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    NumericalError,
    ShapeError,
    UnsupportedError,
)

_CERTAIN = 1e3  # nats of evidence that fix an element


class CustomSupport(SupportDistribution):
    """Base class for support distributions from outside the package.

    A subclass says how dense its supports are (`density`) and answers log-likelihood ratios by
    extrinsic log-odds and a log-evidence (`infer`). Everything else follows from these two:

        ln p(s)   the log-evidence where overwhelming evidence fixes every element
        sampling  element by element, each given those before it

    Sampling takes as many calls of `infer` as there are elements, and a support that the prior
    rules out has a log-probability of some minus thousand instead of minus infinity; override
    `_draw` and `_total_log_prob` for a large support of which samples are wanted. Nothing is
    learned by EM unless `maximise` is overridden.

    Args:
        event_shape: Shape of the support tensor.
        validate_args: Whether `log_prob` checks its argument; None is torch's default.

    Raises:
        ShapeError: If the support tensor would have no elements.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    @abstractmethod
    def infer(self, llr: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of a batch of supports.

        Args:
            llr: `[batch, *event]` in double precision, `ln p(data | s_n = 1) - ln p(data | s_n =
                0)` in nats, finite.

        Returns:
            Extrinsic log-odds `[batch, *event]`: the posterior log-odds of each element without its
            own `llr`. And the log-evidence `[batch]`, `ln sum_s p(s) exp(sum_n llr_n s_n)`, in
            nats; on the graph of `llr` if the prior is to be used collapsed.
        """

    @property
    def prior_log_odds(self) -> Tensor:
        """See `SupportDistribution.prior_log_odds`.

        Raises:
            InvalidArgumentError: If the subclass's `density` is no probability.
        """
        density = torch.as_tensor(self.density, dtype=torch.float64)
        if density.dim() != 0 or not 0.0 < float(density) < 1.0:
            raise InvalidArgumentError(
                f"the density of {type(self).__name__} is no probability",
                given=self.density,
                accepted="a number above 0 and below 1, or a scalar tensor",
            )
        return torch.logit(density)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """None, unless a subclass that learns some says which; see `SupportDistribution`."""
        if type(self).maximise is not CustomSupport.maximise and not self.arg_constraints:
            raise UnsupportedError(
                "the support distribution learns something and does not say what",
                given=type(self).__name__,
                accepted="arg_constraints with the names of its parameters, and a method "
                "with_parameters",
            )
        return super().parameters

    def maximise(self: DistributionT, posterior: SupportPosterior) -> DistributionT:
        """The same distribution: there is nothing to learn.

        Args:
            posterior: Ignored.
        """
        return self

    def _solve(self, llr: Tensor, wanted: Request) -> Solution:
        batch = llr.shape[: llr.dim() - len(self.event_shape)]
        extrinsic, evidence = self._answers(llr.double().reshape(-1, *self.event_shape))
        wanted.extrinsic.copy_(extrinsic.reshape(llr.shape))
        return Solution(log_evidence=evidence.view(batch).to(llr.dtype))

    def _answers(self, llr: Tensor) -> tuple[Tensor, Tensor]:
        """What `infer` says, if it has the shapes and values that it must have.

        Raises:
            ShapeError: If it does not give two tensors of these shapes.
            NumericalError: If an answer is not finite.
        """
        found: object = self.infer(llr)
        shapes = [tuple(llr.shape), (len(llr),)]
        parts = found if isinstance(found, tuple | list) else (found,)
        given = [tuple(p.shape) if isinstance(p, Tensor) else type(p).__name__ for p in parts]
        if given != shapes:
            raise ShapeError(
                f"{type(self).__name__}.infer does not give extrinsic log-odds and log-evidence",
                given=" and ".join(map(str, given)),
                accepted=f"tensors of shapes {shapes[0]} and {shapes[1]}",
            )
        extrinsic, evidence = parts
        for name, value in (("extrinsic log-odds", extrinsic), ("log-evidence", evidence)):
            if not bool(torch.isfinite(value).all()):
                raise NumericalError(
                    f"{type(self).__name__}.infer gives {name} that are not finite",
                    given=f"for log-likelihood ratios from {llr.min():.4g} to {llr.max():.4g} nats",
                    accepted="finite answers to finite log-likelihood ratios",
                )
        return extrinsic, evidence

    def _log_evidence(self, llr: Tensor) -> Tensor:
        batch = llr.shape[: llr.dim() - len(self.event_shape)]
        evidence = self._answers(llr.double().reshape(-1, *self.event_shape))[1]
        return evidence.view(batch).to(llr.dtype)

    def _draw(self, count: int) -> Tensor:
        known = torch.zeros(count, *self.event_shape, dtype=torch.float64)
        elements = known.flatten(1)
        for n in range(elements.shape[1]):
            log_odds = self._answers(known)[0].flatten(1)[:, n]
            active = torch.bernoulli(log_odds.sigmoid())
            elements[:, n] = _CERTAIN * (2.0 * active - 1.0)
        return (known > 0).double()

    def _total_log_prob(self, value: Tensor) -> Tensor:
        states = value.double()
        evidence = self._answers(_CERTAIN * (2.0 * states - 1.0))[1]
        return evidence - _CERTAIN * states.flatten(1).sum(1)
