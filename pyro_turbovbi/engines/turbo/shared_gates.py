"""Turbo-VBI under unit gates that weights share: one Module B for all gated sites of a net.

Element n is active, inactive behind open gates, or behind a closed gate (c), each with its own
Gamma law on the precision. Module A hands over

    L_n = ln Z_1(m_n) - ln Z_0(m_n)         D_n = ln Z_c(m_n) - ln Z_0(m_n)

and gets back the log-odds h_n that both gates are open and x_n of the element's own support, by all
evidence but its own. With t_n = ln(1 - sigmoid(x_n) + sigmoid(x_n) e^{L_n}),

    q(open)   = sigmoid(h_n + t_n - D_n)
    q(s = 1)  = q(open) sigmoid(x_n + L_n)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_turbovbi.distributions import SupportDistribution
from pyro_turbovbi.engines.turbo.module_a import structured
from pyro_turbovbi.engines.turbo.reduction import Reduction
from pyro_turbovbi.engines.turbo.settings import TurboSettings
from pyro_turbovbi.engines.turbo.site import Place, ThreeLayerSite
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.families.factors import GateFactor, NormalFactor, ThreeLayerFactor
from pyro_turbovbi.kernels import (
    GatedWeight,
    RowPosterior,
    bernoulli_log_evidence,
    unit_gates_posterior,
)
from pyro_turbovbi.kernels.evidence import expected_precision
from pyro_turbovbi.kernels.unit_gates import CERTAIN, ElementMessages, Messages
from pyro_turbovbi.priors.base import WeightSite
from pyro_turbovbi.priors.three_layer import Components, GammaParameters, ThreeLayer

#: Visits to every weight at an exchange; messages are kept from one exchange to the next.
SWEEPS = 2


class GatedEvidence(NamedTuple):
    """What Module A says of a gated site.

    Attributes:
        llr: L_n, active against inactive.
        closed: D_n, behind a closed gate against inactive.
        base: Log-evidence of "all inactive", scalar, in nats.
        relief: What is added to `closed` where the row's gate is the closed one; None: nothing.
    """

    llr: Tensor
    closed: Tensor
    base: Tensor
    relief: Tensor | None = None


class GatedSpikeSlab(ThreeLayerSite):
    """A site under the three-layer prior, behind the gates of its units.

    Between exchanges the messages h and x are held; the ELBO part counts from the joint
    log-evidence at the last one.

    Attributes:
        closed: Law of precisions behind closed gates at present.
        closing: What model reduction has decided of weights behind them; None where it is off.
        blame: Share of the loss of likelihood behind a closed gate that the weight stands for, see
            `put_blame`.
        row_closing: What model reduction has decided for gates of rows, where these are told of
            another share than those of columns; else None.
        row_blame: That share.
        gates: The gates on both sides of the weight.
        support: Its own support prior.
        messages: h and x of the elements that take part in the training.
        whole_messages: Those of all elements.
    """

    def __init__(self, site: WeightSite, factor: ThreeLayerFactor, settings: TurboSettings) -> None:
        super().__init__(site, factor, settings)
        assert isinstance(site.prior, ThreeLayer)
        assert site.gates is not None
        _check_settings(site, settings)
        self.gates = site.gates
        self.blame, self.row_blame = 1.0, 1.0
        self.row_closing: Reduction | None = None
        self.support: SupportDistribution = site.prior.support_distribution(site.shape)
        self.view = site.gates.view(site.shape)
        log_odds = float(self.support.prior_log_odds)
        self.whole_messages = ElementMessages(
            torch.full_like(factor.loc, CERTAIN).detach(),
            torch.full_like(factor.loc, log_odds).detach(),
        )
        self.messages = self.whole_messages
        self.closed = settings.annealing.closed(self._final, 0.0)
        self.closing = Reduction(factor.loc) if settings.reduces else None
        self.support.row_posterior(self.messages.extrinsic)  # refuses what it cannot take apart
        self.refresh(factor.second_moment().detach())

    def tell_rows(self, blame: float) -> None:
        """Tell the rows' gates of another share of the loss of likelihood than the columns'."""
        if self.closing is not None:
            self.row_closing, self.row_blame = Reduction(self._factor.loc), blame

    def anneal(self, progress: float) -> None:
        """See `SiteState.anneal`."""
        super().anneal(progress)
        self.closed = self._settings.annealing.closed(self._final, progress)

    def narrowed(self, place: Place, factor: NormalFactor) -> GatedSpikeSlab:
        """See `SiteState.narrowed`."""
        new = super().narrowed(place, factor)
        # of the whole, since the elements that leave now keep what they were told
        new.messages = ElementMessages(*(place.gather(message) for message in self.whole_messages))
        new.closing = self.closing and self.closing.mapped(place.gather)
        new.row_closing = self.row_closing and self.row_closing.mapped(place.gather)
        return new

    def widened(self, factor: NormalFactor) -> GatedSpikeSlab:
        """See `SiteState.widened`."""
        new = super().widened(factor)
        new.messages = self.whole_messages
        new.closing = self.closing and self.closing.mapped(self._embed_undecided)
        new.row_closing = self.row_closing and self.row_closing.mapped(self._embed_undecided)
        return new

    def state_dict(self) -> dict[str, Any]:
        """See `SiteState.state_dict`."""
        own = {"closed": list(self.closed), "messages": list(self.whole_messages)}
        return super().state_dict() | own

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `SiteState.load_state_dict`."""
        super().load_state_dict(saved)
        self.closed = GammaParameters(*saved["closed"])
        for held, new in zip(self.whole_messages, saved["messages"], strict=True):
            held.copy_(new)  # in place: narrowed states share them
        self.messages = ElementMessages(*(self.place.gather(m) for m in self.whole_messages))

    def held_tensors(self) -> Iterator[Tensor]:
        """See `ThreeLayerSite.held_tensors`."""
        yield from super().held_tensors()
        yield from self.whole_messages

    def refresh(self, second_moment: Tensor) -> None:
        """See `SiteState.refresh`."""
        self._accept(self.evidence(second_moment), second_moment)

    def evidence(self, second_moment: Tensor) -> GatedEvidence:
        """Module A's evidence at the given E[w^2], as model reduction has corrected it."""
        evidence, share = self._own_evidence(second_moment), self._share
        if share and self.reduction is not None and self.closing is not None:
            inactive, closed = self.reduction.change, self.closing.change
            evidence.llr.add_(inactive, alpha=share)
            evidence.closed.add_(inactive, alpha=share).sub_(closed, alpha=share)
            if self.row_closing is not None:
                relief = share * (closed - self.row_closing.change)
                return evidence._replace(relief=relief)
        return evidence

    def _own_evidence(self, second_moment: Tensor) -> GatedEvidence:
        shut = Components(self.closed, self.components.inactive)
        opened, closed = (structured(second_moment, pair) for pair in (self.components, shut))
        return GatedEvidence(opened.llr, closed.llr, opened.base)

    def whole_evidence(self, evidence: GatedEvidence) -> GatedEvidence:
        """The evidence of the whole weight, in the view of rows, columns and elements."""
        llr, closed, relief = evidence.llr, evidence.closed, evidence.relief
        if self.place.index is not None:
            square = self.probs.new_tensor(self.absent_scale**2)
            absent = self._own_evidence(square)
            llr = self.place.embed(llr, float(absent.llr))
            closed = self.place.embed(closed, float(absent.closed))
            relief = None if relief is None else self.place.embed(relief, 0.0)
        if relief is not None:
            relief = relief.view(self.view)
        return GatedEvidence(llr.view(self.view), closed.view(self.view), evidence.base, relief)

    def held_value(self, evidence: GatedEvidence) -> Tensor:
        """The site's part of the joint log-evidence with the messages held; scalar, in nats."""
        through = self._through_gates(evidence)[1]
        return (evidence.closed + through).sum() - self._absent_bound(evidence.llr)

    def receive(self, elements: ElementMessages, damping: float) -> None:
        """Take Module B's messages, damped."""
        for held, new in zip(self.whole_messages, elements, strict=True):
            held.lerp_(new.reshape(held.shape), 1.0 - damping)
        self.messages = ElementMessages(*(self.place.gather(m) for m in self.whole_messages))

    def settle(self, evidence: GatedEvidence, second_moment: Tensor, offset: Tensor) -> None:
        """After an exchange: the offset to the joint log-evidence, q(s) and E[rho]."""
        self._offset = offset
        with torch.no_grad():
            self._factor.support_log_odds.copy_(self.messages.extrinsic + evidence.llr)
        self._decide(second_moment)
        self._accept(evidence, second_moment)

    def _reductions(self) -> Iterator[tuple[Reduction, GammaParameters, float]]:
        yield from super()._reductions()
        if self.closing is not None:
            yield self.closing, self.closed, self.blame
        if self.row_closing is not None:
            yield self.row_closing, self.closed, self.row_blame

    def solve(self, llr: Tensor) -> RowPosterior:
        """Posterior of the site's own support, in the view of rows, columns and elements."""
        extrinsic, rows = self.support.row_posterior(llr.reshape(self.place.shape))
        return RowPosterior(extrinsic.view(self.view), rows)

    def _through_gates(self, evidence: GatedEvidence) -> tuple[Tensor, Tensor]:
        """Log-odds of open gates, and ln(q(closed) + q(open) e^{t - D}) before the evidence."""
        opened, extrinsic = self.messages
        own = bernoulli_log_evidence(evidence.llr, extrinsic) - evidence.closed
        return opened + own, bernoulli_log_evidence(own, opened)

    def _accept(self, evidence: GatedEvidence, second_moment: Tensor) -> None:
        log_odds, through = self._through_gates(evidence)
        opened = log_odds.sigmoid()
        inside = (self.messages.extrinsic + evidence.llr).sigmoid()
        self.probs = opened * inside
        behind_open = self._mixed(second_moment, inside)
        behind_closed = expected_precision(second_moment, *self.closed)
        for closing in (self.closing, self.row_closing):
            if closing is not None:
                behind_closed = torch.maximum(behind_closed, closing.precision)
        value = evidence.base + (evidence.closed + through).sum()
        precision = torch.lerp(behind_closed, behind_open, opened)
        self._continue_from(value, precision, second_moment)


class SharedGates:
    """Module B of all gated sites of a net: sum-product over their supports and gates.

    Gates act only after a part of the training: before, while the spike is wide and next to nothing
    is active, all of them would close for good.

    Args:
        factors: Variational factors of the gates.
        settings: Engine settings.

    Attributes:
        log_odds: Posterior log-odds of open gates by name of the group.
    """

    def __init__(self, factors: Iterable[GateFactor], settings: TurboSettings) -> None:
        self._factors, self._settings = list(factors), settings
        self._messages: list[Messages] | None = None
        self._names = [factor.gates.name for factor in self._factors]
        self._prior = [factor.log_odds.detach().clone() for factor in self._factors]
        self.log_odds: dict[str, Tensor] = dict(zip(self._names, self._prior, strict=True))

    def rearrange(self, orders: Mapping[str, Tensor]) -> None:
        """Follow units that have changed their order; the next exchange starts cold.

        Args:
            orders: By name of the group, the numbers of the old units in their new order.
        """
        self._messages = None
        for name, order in orders.items():
            if name in self.log_odds:
                self.log_odds[name] = self.log_odds[name][order.to(self.log_odds[name].device)]

    def state_dict(self) -> dict[str, Any]:
        """Messages and beliefs, see `engines.protocol.Resumable`."""
        sent = None if self._messages is None else [list(each) for each in self._messages]
        return {"messages": sent, "log_odds": dict(self.log_odds)}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        device, messages = self._prior[0].device, saved["messages"]
        self._messages = messages and [
            Messages(*(part.to(device, copy=True) for part in sent)) for sent in messages
        ]
        self.log_odds = {n: x.to(device, copy=True) for n, x in saved["log_odds"].items()}

    def probs(self) -> dict[str, Tensor]:
        """Posterior probabilities of open gates by name of the group."""
        return {name: log_odds.sigmoid() for name, log_odds in self.log_odds.items()}

    def exchange(
        self,
        sites: Sequence[GatedSpikeSlab],
        second_moments: Mapping[str, Tensor],
        progress: float,
    ) -> None:
        """A full exchange with Module A at every gated site.

        Args:
            sites: The gated sites, always in the same order.
            second_moments: E[w^2] by site name.
            progress: Fraction of the training that is done.

        Raises:
            NumericalError: if the log-likelihood ratios are not finite; nothing has been changed
                then.
        """
        acting = progress >= self._settings.gates_from
        evidences = [site.evidence(second_moments[site.name]) for site in sites]
        found = unit_gates_posterior(
            [self._weight(s, e, acting) for s, e in zip(sites, evidences, strict=True)],
            self._prior,
            start=self._messages,
            sweeps=SWEEPS,
            damping=self._settings.damping if self._messages else 0.0,
        )
        held = found.log_evidence.new_zeros(())
        for site, evidence, elements in zip(sites, evidences, found.elements, strict=True):
            site.receive(elements, self._settings.damping)
            held = held + site.held_value(evidence)
        # One number for all sites: which of them carries it does not matter.
        offset = (found.log_evidence - held) / len(sites)
        for site, evidence in zip(sites, evidences, strict=True):
            site.settle(evidence, second_moments[site.name], offset.to(evidence.base))
        if acting:
            self._messages = found.messages
            self.log_odds = dict(zip(self._names, found.gate_log_odds, strict=True))
            for factor in self._factors:
                with torch.no_grad():
                    factor.log_odds.copy_(self.log_odds[factor.gates.name])

    def _weight(self, site: GatedSpikeSlab, evidence: GatedEvidence, acting: bool) -> GatedWeight:
        rows, columns = (
            None if gates is None or not acting else self._names.index(gates.name)
            for gates in (site.gates.rows, site.gates.columns)
        )
        whole = site.whole_evidence(evidence)
        relief = None if rows is None else whole.relief
        return GatedWeight(whole.llr, whole.closed, rows, columns, site.solve, relief)


def put_blame(sites: Iterable[GatedSpikeSlab], unit_loss: float) -> None:
    """Divide the loss of likelihood of a closed unit among the weights that close with it.

    The weights that lead to a unit and those that leave it each tell of the whole loss, since
    either side at zero silences the unit: a half of what they say is to be counted. A weight of
    which one gate is of units with weights on one side only (input features) tells all. Where of
    the loss of hidden units only a share counts, its other gate, a hidden unit's, is told of the
    geometric mean of all and that share: found by trying, and no consequence of theory.

    Args:
        sites: All gated sites of a net.
        unit_loss: See `ModelReduction`.
    """
    sites = list(sites)
    rows = {site.gates.rows.name for site in sites if site.gates.rows is not None}
    columns = {site.gates.columns.name for site in sites if site.gates.columns is not None}
    hidden = rows & columns
    for site in sites:
        gates = {each.name for each in (site.gates.rows, site.gates.columns) if each is not None}
        if gates <= hidden:
            site.blame = 0.5 * unit_loss
        elif unit_loss < 1.0 and site.gates.rows is not None and site.gates.rows.name in hidden:
            site.tell_rows(sqrt(unit_loss))


def _check_settings(site: WeightSite, settings: TurboSettings) -> None:
    if settings.learn_hyper or settings.factorisation != "structured":
        raise UnsupportedError(
            f"weight {site.name!r} is behind shared gates, under which only the structured "
            "factorisation with fixed hyper-parameters works",
            given=f"learn_hyper={settings.learn_hyper}, factorisation={settings.factorisation!r}",
            accepted='engines.Turbo() with learn_hyper=False and factorisation="structured", or '
            "supports.Gated() in the place of shared gates, or another prior by "
            "bnn.with_prior(priors.Normal())",
        )


__all__ = ["GatedEvidence", "GatedSpikeSlab", "SharedGates", "put_blame"]
