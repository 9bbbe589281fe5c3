"""Module B: sum-product message passing under the support prior, exchanging extrinsic information.

    A -> B   L_n          log-likelihood ratio of element n
    B -> A   logit(pi_n) = logit p(s_n = 1 | L) - L_n, damped

Sending the posterior where the extrinsic belongs would count Module A's own evidence twice.
"""

from __future__ import annotations

from torch import Tensor

from pyro_turbovbi.distributions import SupportDistribution, SupportPosterior


class ModuleB:
    """Message passing for one weight's support; keeps messages and parameters between passes.

    Args:
        distribution: The support prior over the weight's shape.
        damping: Share of the old extrinsic log-odds that is kept.
        site: Name of the weight, for error messages.

    Attributes:
        distribution: The support prior, with parameters as learned so far.
    """

    def __init__(
        self, distribution: SupportDistribution, *, damping: float, site: str | None = None
    ) -> None:
        self.distribution = distribution
        self._damping, self._site = damping, site
        self._posterior: SupportPosterior | None = None

    def forget(self) -> None:
        """Start the next exchange cold: the elements have moved."""
        self._posterior = None

    def exchange(
        self, llr: Tensor, prior_log_odds: Tensor, *, learn: bool = False
    ) -> SupportPosterior:
        """One exchange: take L, update logit(pi) in place.

        Args:
            llr: L_n, the weight's shape.
            prior_log_odds: The present logit(pi); overwritten by the damped new one.
            learn: Afterwards update the prior's own parameters (density, transitions): the
                M-step of EM.

        Returns:
            The support posterior, with its log-evidence; the next exchange overwrites it.

        Raises:
            NumericalError: If a log-likelihood ratio is not finite; nothing has been changed then.
        """
        last = self._posterior
        posterior = self.distribution.posterior(
            llr, start=last and last.messages, pairwise=learn, out=last, site=self._site
        )
        self._posterior = posterior
        prior_log_odds.lerp_(posterior.extrinsic, 1.0 - self._damping)
        if learn:
            self.distribution = self.distribution.maximise(posterior)
        return posterior
