"""Module B: sum-product message passing under the support prior, exchanging extrinsic information.

    A -> B   L_n          log-likelihood ratio of element n
    B -> A   logit(pi_n) = logit p(s_n = 1 | L) - L_n, damped

Sending the posterior where the extrinsic belongs would count Module A's own evidence twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
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
        self._messages: Tensor | None = None

    def state_dict(self, *, learning: bool) -> dict[str, Any]:
        """Messages for a warm start, and parameters as learned so far.

        Args:
            learning: Whether parameters are learned, now or later.

        Raises:
            UnsupportedError: if they are and the distribution does not say what they are.
        """
        parameters = dict(self.distribution.parameters) if learning else {}
        return {"messages": self._messages, "parameters": parameters}

    def load_state_dict(self, saved: Mapping[str, Any], *, device: torch.device) -> None:
        """Go on from what `state_dict` gave.

        Args:
            saved: The messages and parameters; messages are copied.
            device: Where messages are passed.
        """
        messages = saved["messages"]
        self._posterior = None
        self._messages = None if messages is None else messages.to(device, copy=True)
        if saved["parameters"]:
            self.distribution = self.distribution.with_parameters(saved["parameters"])

    def forget(self) -> None:
        """Start the next exchange cold: the elements have moved."""
        self._posterior = self._messages = None

    def release(self) -> None:
        """Drop the last posterior, whose tensors the next exchange would overwrite."""
        self._posterior = None

    def results(self) -> Iterator[Tensor]:
        """Every tensor of the weight's shape that the next exchange overwrites."""
        if self._posterior is not None:
            yield from self._posterior[:3]

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
            llr, start=self._messages, pairwise=learn, out=last, site=self._site
        )
        self._posterior, self._messages = posterior, posterior.messages
        prior_log_odds.lerp_(posterior.extrinsic, 1.0 - self._damping)
        if learn:
            self.distribution = self.distribution.maximise(posterior)
        return posterior
