r"""Bayesian model reduction: is an active weight better explained as an inactive one?

Module A's evidence compares the two states of a weight at one and the same q(w). The slab lets the
posterior of a weight that the data hardly need be as wide as it likes; under a spike much narrower
than that, the weight then counts as active for good. A fair comparison gives the inactive state the
q(w) that is best for *it*. To do so the likelihood must be known away from q(w): at the optimum,
q(w) = Normal(mu, sigma^2) under the precision E[rho] says that it acts on the weight like

    exp(h w - lambda w^2 / 2)      h = mu / sigma^2      lambda = 1 / sigma^2 - E[rho]

The evidence of a Gamma law on the precision, up to a constant, with any q'(w) = Normal(mu', v') is

    F(q') = ln Z(m') + h mu' - lambda m' / 2 + (1/2) ln v'          m' = mu'^2 + v'

and its maximum is at q' = Normal(h / (r + lambda), 1 / (r + lambda)), r = (a + 1/2) / (b + m'/2),
a fixed point that is started at the spike. Then `change` = min(0, F(q) - max F) is what the
log-likelihood ratio has to be corrected by, and r the precision that takes q(w) there: under
(a + 1/2) / (b + m/2), the precision at the present m, a large weight would stay in the spike's
tail.

For a Gaussian spike this is the Savage-Dickey ratio: mu^2 / (2 sigma^2) against the logarithm of
how much narrower than the slab the posterior is. A lower L keeps the ELBO a bound, since the ELBO
is increasing in L.

Source: this package's own; the idea of scoring reduced priors by the full posterior is that of K.
Friston, W. Penny, NeuroImage 56:2089-2099, 2011.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import EllipsisType
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.kernels.evidence import expected_precision, log_evidence
from pyro_turbovbi.priors.three_layer import GammaParameters

Weightlike = Float[Tensor, "*shape"]
#: Some rows of a weight, or all of it.
Rows: TypeAlias = slice | EllipsisType

#: Rounds of the fixed point; it contracts fast, since m' is far below the law's own scale.
ROUNDS = 4
#: Share of the way that a mean could still go at full speed on which a decision counts.
REACH = 0.5
#: Largest E[rho] sigma^2 at which q(w) says more about the likelihood than about the prior.
INFORMED = 0.5


@dataclass(frozen=True)
class ModelReduction:
    """When active weights are held against what they would be as inactive ones.

    Args:
        strength: Share of the correction that is applied in the end, in [0, 1]; 0 switches it off.
        start: Fraction of the training after which it begins to be phased in.
        full: Fraction after which it is applied in full: the least needed weights go first.
        until: Fraction after which no further weight is decided on: the rest of the training is for
            those that stay.
        settle: Fraction after which the means of inactive weights are held at zero, so that the
            others make up for what these still did, and cutting them changes nothing; 1 switches
            it off.
        unit_loss: Share of the loss of likelihood of a hidden unit's weights that counts against
            closing its gate, in [0, 1]. Every weight's loss is taken by itself, as if no other unit
            could stand in for it: a small share makes hidden layers narrower.

    Raises:
        InvalidArgumentError: if a number is out of range or the fractions are out of order.
    """

    strength: float = 1.0
    start: float = 0.1
    full: float = 0.6
    until: float = 0.8
    settle: float = 0.9
    unit_loss: float = 1.0

    def __post_init__(self) -> None:
        ordered = 0.0 <= self.start < self.full <= self.until <= self.settle <= 1.0
        shares = 0.0 <= self.strength <= 1.0 and 0.0 <= self.unit_loss <= 1.0
        if not shares or not ordered:
            raise InvalidArgumentError(
                "model reduction is out of range",
                given=self,
                accepted="strength and unit_loss in [0, 1] and "
                "0 <= start < full <= until <= settle <= 1",
            )

    def share_at(self, progress: float) -> float:
        """Share of the correction that is applied at a fraction `progress` of the training."""
        phased = (progress - self.start) / (self.full - self.start)
        return self.strength * min(1.0, max(0.0, phased))

    def decides_at(self, progress: float) -> bool:
        """Whether weights are still decided on at a fraction `progress` of the training."""
        return self.strength > 0.0 and self.start < progress <= self.until

    def settles_at(self, progress: float) -> bool:
        """Whether inactive means are held at zero at a fraction `progress` of the training."""
        return self.strength > 0.0 and self.settle < 1.0 and progress >= self.settle


class Reduced(NamedTuple):
    """What model reduction says of the elements of a weight under one law.

    Attributes:
        change: min(0, F(q) - max F), in nats.
        precision: r at the maximum, in units of 1 / weight^2.
    """

    change: Tensor
    precision: Tensor


@torch.no_grad()
def reduced(
    loc: Weightlike,
    scale: Weightlike,
    precision: Weightlike,
    law: GammaParameters,
    blame: float = 1.0,
) -> Reduced:
    """Evidence of a law on the precision at its own best q(w), against that at the present one.

    Args:
        loc: mu.
        scale: sigma.
        precision: E[rho] under which q(w) has been trained.
        law: Gamma law of the precisions of the state to reduce to.
        blame: Share of the loss of likelihood that is put down to this weight, in [0, 1].
    """
    variance = scale.square()
    slope = blame * loc / variance
    curvature = blame * (variance.reciprocal() - precision).clamp_min_(0.0)

    def free(mean: Tensor, var: Tensor) -> Tensor:
        moment = mean.square() + var
        likelihood = slope * mean - 0.5 * curvature * moment
        return log_evidence(moment, *law) + likelihood + 0.5 * var.log()

    best = torch.full_like(loc, law.concentration / law.rate)
    for _ in range(ROUNDS):
        var = (best + curvature).reciprocal()
        best = expected_precision((slope * var).square() + var, *law)
    var = (best + curvature).reciprocal()
    return Reduced((free(loc, variance) - free(slope * var, var)).clamp_max_(0.0), best)


class Reduction:
    """Model reduction of one weight towards one law: what has been decided, element by element.

    A decision is taken where q(w) tells of the likelihood, and held while q(w) is on its way: then
    neither mu nor sigma are at rest, and h and lambda would be wrong. It is dropped once Module A
    itself finds the element inactive.

    Args:
        like: A tensor of the weight's shape.

    Attributes:
        change: Correction of the log-likelihood ratio, at most zero.
        precision: Least E[rho] of the state; zero where nothing has been decided.
    """

    def __init__(self, like: Tensor) -> None:
        self.change = torch.zeros_like(like).detach()
        self.precision = torch.zeros_like(like).detach()

    def decide(
        self,
        loc: Tensor,
        scale: Tensor,
        precision: Tensor,
        law: GammaParameters,
        llr: Tensor,
        reach: float,
        blame: float = 1.0,
    ) -> None:
        """Decide anew wherever q(w) is informed by the data and zero is within reach.

        Args:
            loc: mu.
            scale: sigma.
            precision: E[rho] under which q(w) has been trained.
            law: The law to reduce to.
            llr: Module A's own log-likelihood ratio, active against inactive.
            reach: How far a mean can still go in the rest of the training: a weight that cannot get
                to zero any more would be cut while the others rely on it.
            blame: Share of the loss of likelihood that is put down to this weight.
        """
        found = reduced(loc, scale, precision, law, blame)
        informed = (precision * scale.square() < INFORMED) & (loc.abs() < reach)
        settled = llr < 0.0
        self.change = torch.where(informed, found.change, self.change).masked_fill_(settled, 0.0)
        self.precision = torch.where(informed, found.precision, self.precision)
        self.precision.masked_fill_(self.change == 0.0, 0.0)

    def tensors(self) -> Iterator[Tensor]:
        """Its state, to be read or overwritten in place."""
        yield self.change
        yield self.precision

    def load(self, tensors: Iterable[Tensor]) -> None:
        """Go on from what `tensors` gave elsewhere."""
        device = self.change.device
        self.change, self.precision = (tensor.to(device, copy=True) for tensor in tensors)

    def rows(self, rows: Rows) -> Reduction:
        """The decisions on some rows of the weight, in views."""
        new = copy.copy(self)
        new.change, new.precision = self.change[rows], self.precision[rows]
        return new

    def mapped(self, view: Callable[[Tensor], Tensor]) -> Reduction:
        """The same decisions for another part of the weight.

        Args:
            view: Maps a tensor of the present shape to one of the part's shape.
        """
        new = Reduction(view(self.change))
        new.load([view(self.change), view(self.precision)])
        return new


__all__ = ["INFORMED", "REACH", "ModelReduction", "Reduced", "Reduction", "Rows", "reduced"]
