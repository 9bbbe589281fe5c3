"""Training in which the net changes its shape: dead units leave, hidden units change their order.

Neither changes what the net computes or what is known of it. A new order of hidden units is a
permutation of everything that runs along them: variational parameters, optimizer state, messages,
biases and batch statistics. It matters because the support prior does have an order: where the
columns of a weight are hidden units, a chain along its rows couples like with like only if similar
units are neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor

from pyro_turbovbi.batches import Batch, num_rows
from pyro_turbovbi.coupling import Couplings, Member, couplings, entries, put_in_order
from pyro_turbovbi.engines.protocol import Plan
from pyro_turbovbi.engines.turbo.compaction import NarrowTurbo, Selection, agrees, select
from pyro_turbovbi.engines.turbo.site import SpikeSlab, ThreeLayerSite
from pyro_turbovbi.engines.turbo.vbi import TurboVBI
from pyro_turbovbi.errors import UnsupportedError
from pyro_turbovbi.families.factors import ThreeLayerFactor
from pyro_turbovbi.lift import BayesianNet

#: Fraction of the training after which hidden units stay where they are: messages settle.
ORDER_UNTIL = 0.9


class RestructuringTurbo:
    """A Turbo-VBI run that from time to time re-orders hidden units and takes dead ones out.

    Args:
        whole: The run on the whole net, set up.
        plan: What is known of the training.
        compact_every: Epochs between two compactions; None: never.
        reorder_every: Epochs between two new orders; None: never.

    Attributes:
        whole: The run on the whole net; up to date after `update_whole` and `finish`.
        active: The run that takes the steps.

    Raises:
        UnsupportedError: if the net cannot be traced, or the factorisation is the mean-field one.
    """

    def __init__(
        self,
        whole: TurboVBI,
        plan: Plan,
        *,
        compact_every: int | None,
        reorder_every: int | None,
    ) -> None:
        assert isinstance(whole.model, BayesianNet)
        if whole.settings.factorisation != "structured":
            raise UnsupportedError(
                "compaction and re-ordering need the structured factorisation",
                given=f"factorisation={whole.settings.factorisation!r}",
                accepted='factorisation="structured", or compact_every=None and reorder_every=None',
            )
        net = whole.model.net
        weights = [n for n, p in net.named_parameters() if p.dim() > 1]
        x = plan.example.x
        self._groups = couplings(
            net, weights, input_dims=x.dim() if isinstance(x, Tensor) else None
        )
        steps = ceil(plan.num_data / num_rows(plan.example.x))
        self._compact_every = compact_every and compact_every * steps
        self._reorder_every = reorder_every and reorder_every * steps
        self._compacted = self._reordered = 0
        self._example = plan.example
        self.whole = self.active = whole

    def step(self, batch: Batch) -> float:
        """One step; before it, whatever is due."""
        # Noise comes in antithetic pairs of steps, which a change of shape must not tear apart.
        if self.active.steps_done % 2 == 0:
            self._restructure(batch)
        return self.active.step(*batch)

    def evaluate_loss(self, batch: Batch) -> float:
        """See `TurboVBI.evaluate_loss`; the narrow net is in the mode of the whole one."""
        whole, active = self.whole.model, self.active.model
        assert isinstance(whole, BayesianNet)
        assert isinstance(active, BayesianNet)
        training = active.training
        active.train(whole.training)
        try:
            return self.active.evaluate_loss(*batch)
        finally:
            active.train(training)

    def finish(self) -> None:
        """Go back to the whole net, with everything that left it inactive."""
        self.update_whole()
        self.active = self.whole
        self.whole.exchange()

    def state_dict(self) -> dict[str, Any]:
        """See `engines.protocol.Resumable`."""
        narrow = self.active if isinstance(self.active, NarrowTurbo) else None
        return {
            "compacted": self._compacted,
            "reordered": self._reordered,
            "whole": self.whole.state_dict(),
            "selection": None if narrow is None else narrow.selection.state_dict(),
            "narrow": None if narrow is None else narrow.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `engines.protocol.Resumable`."""
        self._compacted, self._reordered = saved["compacted"], saved["reordered"]
        self.active = self.whole
        self.whole.load_state_dict(saved["whole"])
        if saved["narrow"] is not None:
            device = next(iter(self.whole.guide)).loc.device
            selection = Selection.of_state(saved["selection"], device)
            self.active = NarrowTurbo(self.whole, selection, self._example)
            self.active.load_state_dict(saved["narrow"])

    def scale_lr(self, factor: float) -> bool:
        """See `engines.protocol.Resumable`."""
        narrow = self.active is not self.whole
        return self.whole.scale_lr(factor) and (not narrow or self.active.scale_lr(factor))

    def update_whole(self) -> TurboVBI:
        """Write the state of the active run back; return the run on the whole net."""
        if isinstance(self.active, NarrowTurbo):
            self.active.write_back()
        return self.whole

    def _restructure(self, batch: Batch) -> None:
        done = self.active.steps_done
        compact = _due(done, self._compacted, self._compact_every)
        reorder = _due(done, self._reordered, self._reorder_every)
        reorder &= self.active.progress < ORDER_UNTIL
        if compact:
            self._compacted = done
            agreed = agrees(self.active, batch)
            compact = self.active.world.first_one(lambda: agreed)  # a tie must not divide us
        if not compact and not reorder:
            return
        narrow, whole = isinstance(self.active, NarrowTurbo), self.update_whole()
        if reorder:
            self._reordered = done
            permute(whole, self._groups)
        self.active = whole
        if compact or narrow:
            shape = batch.x.shape if isinstance(batch.x, Tensor) else torch.Size()
            self.active = NarrowTurbo(whole, select(self._groups, masks_of(whole), shape), batch)


def _due(done: int, last: int, every: int | None) -> bool:
    return every is not None and done - last >= every


def masks_of(run: TurboVBI) -> dict[str, Tensor]:
    """Which weights are active, by name of the sites that have a support."""
    return {
        name: site.probs > 0.5
        for name, site in run.sites.items()
        if isinstance(site, ThreeLayerSite)
    }


@torch.no_grad()
def permute(run: TurboVBI, groups: Couplings) -> dict[str, Tensor]:
    """Put the hidden units of a run in an order in which similar ones are neighbours, in place.

    Args:
        run: A run on a whole net.
        groups: The units of the net.

    Returns:
        The new orders by name of the group, those that have changed.
    """
    device = next(iter(run.guide)).loc.device

    def move(members: tuple[Member, ...], order: Tensor) -> None:
        moved: dict[str, dict[int, Tensor]] = {}
        for member in members:
            moved.setdefault(member.name, {})[member.dim] = entries(order, member).to(device)
        _rearrange(run, Selection(moved, None))

    orders = put_in_order(groups, lambda: masks_of(run), move)
    if run.gates is not None and orders:
        run.gates.rearrange(orders)
    return orders


def _rearrange(run: TurboVBI, selection: Selection) -> None:
    for name, tensor in _state(run):
        tensor.copy_(selection.gather(name, tensor))
    for site in run.sites.values():
        if isinstance(site, SpikeSlab):
            site.module_b.forget()


def _state(run: TurboVBI) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a run that units run along, with the name of its parameter or buffer."""
    assert isinstance(run.model, BayesianNet)
    net = run.model.net
    trained: dict[str, list[Tensor]] = {}
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        trained[name] = [tensor]
        yield name, tensor.data
    noises = iter(run.noises)
    for factor in run.guide:
        trained[factor.name] = [factor.loc, factor.log_scale]
        yield factor.name, factor.loc.data
        yield factor.name, factor.log_scale.data
        if isinstance(factor, ThreeLayerFactor):
            yield factor.name, factor.support_log_odds.data
        yield from ((factor.name, noise) for noise in [next(noises, None)] if noise is not None)
    for name, tensors in trained.items():
        for tensor in tensors:
            yield from ((name, moment) for moment in _moments(run, tensor))
    for name, site in run.sites.items():
        if isinstance(site, ThreeLayerSite):
            yield from ((name, tensor) for tensor in site.held_tensors())


def _moments(run: TurboVBI, parameter: Tensor) -> Iterator[Tensor]:
    state: Mapping[str, object] = run.optimizer.state.get(parameter, {})
    for value in state.values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            yield value


__all__ = ["ORDER_UNTIL", "RestructuringTurbo", "masks_of", "permute"]
