"""Training that gets cheaper as the net gets smaller: dead units leave the computation.

A unit is dead once no kept weight reads it. Nothing that the data could say reaches its weights any
more, so each has the posterior that the prior alone gives it: q(w) = Normal(0, b0 / a0), inactive.
From then on forward pass, gradients and optimizer run on a narrower copy of the net. Module B still
sees every element, the dead ones with that constant evidence: chains run on through them, and the
ELBO keeps its meaning.

State lives twice: whole in the outer `TurboVBI`, narrow in the inner one that takes the steps.
`gather` cuts the one to the other, `scatter` writes it back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from pyro_turbovbi._pyro import buffers_kept
from pyro_turbovbi._tensors import replace_tensor
from pyro_turbovbi.batches import Batch, Inputs
from pyro_turbovbi.coupling import INPUT, Couplings, Member, is_input
from pyro_turbovbi.engines.turbo.site import Place, ThreeLayerSite
from pyro_turbovbi.engines.turbo.vbi import TurboVBI
from pyro_turbovbi.families.factors import NormalFactor, ThreeLayerFactor
from pyro_turbovbi.families.guide import TurboGuide
from pyro_turbovbi.lift import BayesianNet

#: A net is only narrowed where cutting its inactive weights changes the mean log-likelihood of a
#: batch by at most this, in nats per point: what has been taken out does not come back.
AGREEMENT = 0.02

Index = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Selection:
    """Which entries of each parameter and buffer are kept, and which inputs.

    Attributes:
        entries: Kept indices per dim, by name of the parameter or buffer; dims that are missing are
            kept whole. Names that are missing are kept whole.
        inputs: Kept features or channels of the input; None: all.
    """

    entries: Mapping[str, Mapping[int, Tensor]]
    inputs: Tensor | None

    def index(self, name: str, shape: torch.Size) -> Index | None:
        """What to index a tensor with to get its kept part; None: all of it."""
        dims = self.entries.get(name)
        if not dims:
            return None
        device = next(iter(dims.values())).device
        ranges = [
            dims.get(dim, torch.arange(size, device=device)) for dim, size in enumerate(shape)
        ]
        return tuple(torch.meshgrid(*ranges, indexing="ij"))

    def gather(self, name: str, whole: Tensor) -> Tensor:
        """The kept part of a tensor, a copy."""
        index = self.index(name, whole.shape)
        return whole.clone() if index is None else whole[index]

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors, see `of_state`."""
        entries = {
            name: [[dim, kept] for dim, kept in dims.items()] for name, dims in self.entries.items()
        }
        return {"entries": entries, "inputs": self.inputs}

    @classmethod
    def of_state(cls, saved: Mapping[str, Any], device: torch.device) -> Selection:
        """The selection that `state_dict` describes.

        Args:
            saved: What `state_dict` gave.
            device: Where its indices are to lie.
        """
        entries = {
            name: {dim: kept.to(device) for dim, kept in dims}
            for name, dims in saved["entries"].items()
        }
        inputs = saved["inputs"]
        return cls(entries, None if inputs is None else inputs.to(device))

    def scatter(self, name: str, narrow: Tensor, whole: Tensor) -> None:
        """Write the kept part back, in place."""
        index = self.index(name, whole.shape)
        if index is None:
            whole.copy_(narrow)
        else:
            whole[index] = narrow


def select(groups: Couplings, masks: Mapping[str, Tensor], input_shape: torch.Size) -> Selection:
    """Keep the units that are read by a kept weight, or by something that is no weight of ours.

    Args:
        groups: The units of the net, of all its weights.
        masks: Which weights are kept, by name; weights without a mask are kept whole.
        input_shape: Shape of a batch of inputs.

    Returns:
        The kept entries, on the device of the masks. At least one unit of every group is kept.
    """
    device = next(iter(masks.values())).device if masks else torch.device("cpu")
    alive = {name: torch.ones(groups.sizes[name], dtype=torch.bool) for name in groups.members}
    changed = True
    while changed:  # a unit that goes may leave units before it unread
        changed = False
        for name, members in groups.members.items():
            if is_input(name) and not _selectable(members, groups.sizes[name], input_shape):
                continue
            read = _read(name, members, groups, masks, alive) & alive[name]
            if not bool(read.any()):
                read[0] = True
            changed |= bool((read != alive[name]).any())
            alive[name] = read
    entries: dict[str, dict[int, Tensor]] = {}
    for name, members in groups.members.items():
        if bool(alive[name].all()):
            continue
        for member in members:
            kept = alive[name].repeat_interleave(member.each).nonzero().flatten().to(device)
            entries.setdefault(member.name, {})[member.dim] = kept
    first = alive.get(INPUT)
    inputs = None if first is None or bool(first.all()) else first.nonzero().flatten().to(device)
    return Selection(entries, inputs)


def _read(
    group: str,
    members: Iterable[Member],
    groups: Couplings,
    masks: Mapping[str, Tensor],
    alive: Mapping[str, Tensor],
) -> Tensor:
    """Which units of a group have a kept outgoing weight into a living unit."""
    read = torch.zeros(groups.sizes[group], dtype=torch.bool)
    for member in members:
        if member.dim != 1:
            continue
        mask = masks.get(member.name)
        if mask is None:
            return torch.ones_like(read)
        flat = mask.cpu().reshape(*mask.shape[:2], -1).any(2)
        rows = groups.weights[member.name].rows
        if rows is not None and rows in alive:
            flat = flat[alive[rows]]
        read |= flat.any(0).reshape(-1, member.each).any(1)
    return read


def _selectable(members: Iterable[Member], size: int, shape: torch.Size) -> bool:
    """Whether the inputs lie along a dim of the batch: features, or channels."""
    return all(member.each == 1 for member in members) and len(shape) > 1 and shape[1] == size


class NarrowNet(BayesianNet):
    """A lifted net with fewer units; takes the same inputs and reads some of them.

    Args:
        whole: The net to narrow.
        selection: What is kept.
    """

    def __init__(self, whole: BayesianNet, selection: Selection) -> None:
        net = copy.deepcopy(whole.net)
        for name, tensor in (*whole.net.named_parameters(), *whole.net.named_buffers()):
            replace_tensor(net, name, selection.gather(name, tensor.detach()))
        super().__init__(net, whole.likelihood, whole.prior)
        # The priors are those of the whole weights: their scales must not follow the fan-in.
        self._priors = {name: site.prior for name, site in whole.sites.items()}
        self._gates = {}
        self._points = self._select_points()
        self.num_data, self.autocast = whole.num_data, whole.autocast
        self._inputs = selection.inputs

    def output(self, weights: Mapping[str, Tensor], x: Inputs) -> Tensor:
        """See `BayesianNet.output`."""
        if self._inputs is not None:
            assert isinstance(x, Tensor)
            x = x.index_select(1, self._inputs.to(x.device))
        return super().output(weights, x)


class NarrowTurbo(TurboVBI):
    """Turbo-VBI on a part of a net, with state taken over from a run on the whole.

    Args:
        whole: The run on the whole net.
        selection: What is kept.
        batch: One batch.

    Attributes:
        selection: What is kept.
    """

    def __init__(self, whole: TurboVBI, selection: Selection, batch: Batch) -> None:
        assert isinstance(whole.model, BayesianNet)
        net = NarrowNet(whole.model, selection)
        super().__init__(net, settings=whole.settings, num_steps=whole.num_steps, world=whole.world)
        self.steps_done = whole.steps_done
        self._whole, self.selection = whole, selection
        self._guide = TurboGuide(net.sites)
        self._factors = list(self.guide)
        self.sites = {}
        for old, new in zip(whole._factors, self._factors, strict=True):
            for theirs, ours in _tensors(old, new):
                ours.copy_(selection.gather(old.name, theirs))
            shape = old.loc.shape
            place = Place(shape, selection.index(old.name, shape))
            self.sites[old.name] = whole.sites[old.name].narrowed(place, new)
        self.gates = whole.gates  # passes messages over whole weights in both runs
        with buffers_kept(net):
            self._others = self._other_parameters(*batch)
        self._optimizer = self._make_optimizer()
        self._base_rates = list(whole._base_rates)
        self._move_moments(write_back=False)
        self.exchange()

    def write_back(self) -> None:
        """Bring the whole run up to date; elements that were left out follow their prior."""
        whole, selection = self._whole, self.selection
        assert isinstance(whole.model, BayesianNet)
        assert isinstance(self.model, BayesianNet)
        for old, new in zip(whole._factors, self._factors, strict=True):
            site = self.sites[old.name]
            if site.place.index is not None:
                old.loc.data.zero_()
                old.log_scale.data.fill_(log(site.absent_scale))
            for theirs, ours in _tensors(old, new):
                selection.scatter(old.name, ours, theirs)
            whole.sites[old.name] = site.widened(old)
        _write_back(self.model.net, whole.model.net, selection, set(whole.sites))
        whole.model.likelihood.load_state_dict(self.model.likelihood.state_dict())
        self._move_moments(write_back=True)
        whole.steps_done = self.steps_done

    def _move_moments(self, *, write_back: bool) -> None:
        """Carry the optimizer's state over, element by element."""
        for name, theirs, ours in self._pairs():
            source, target = (ours, theirs) if write_back else (theirs, ours)
            optimizers = (self._optimizer, self._whole._optimizer)
            taken, given = optimizers if write_back else optimizers[::-1]
            state = taken.state.get(source)
            if not state:
                continue
            kept = given.state[target]
            for key, value in state.items():
                if not isinstance(value, Tensor) or value.shape != source.shape:
                    kept[key] = copy.deepcopy(value)
                elif write_back:
                    whole = kept.setdefault(key, torch.zeros_like(target))
                    self.selection.scatter(name, value, whole)
                else:
                    kept[key] = self.selection.gather(name, value)

    def _pairs(self) -> Iterable[tuple[str, Tensor, Tensor]]:
        """Name and both versions, whole and narrow, of everything that is trained."""
        for old, new in zip(self._whole._factors, self._factors, strict=True):
            yield old.name, old.loc, new.loc
            yield old.name, old.log_scale, new.log_scale
        assert isinstance(self._whole.model, BayesianNet)
        assert isinstance(self.model, BayesianNet)
        whole, narrow = self._whole.model.points, self.model.points
        for name, parameter in whole.items():
            yield name.removeprefix("net."), parameter, narrow[name]


def _tensors(old: NormalFactor, new: NormalFactor) -> Iterable[tuple[Tensor, Tensor]]:
    """The variational parameters of a factor, whole and narrow, without gradients."""
    yield old.loc.data, new.loc.data
    yield old.log_scale.data, new.log_scale.data
    if isinstance(old, ThreeLayerFactor) and isinstance(new, ThreeLayerFactor):
        new.components = old.components
        yield old.support_log_odds.data, new.support_log_odds.data


@torch.no_grad()
def _write_back(
    narrow: nn.Module, whole: nn.Module, selection: Selection, weights: set[str]
) -> None:
    """Parameters that are trained as points, and buffers."""
    theirs = dict(narrow.named_parameters()) | dict(narrow.named_buffers())
    for name, tensor in (*whole.named_parameters(), *whole.named_buffers()):
        if name not in weights:
            selection.scatter(name, theirs[name], tensor)


@torch.no_grad()
def agrees(turbo: TurboVBI, batch: Batch) -> bool:
    """Whether the net without its inactive weights says the same as the posterior mean."""
    bnn = turbo.model
    assert isinstance(bnn, BayesianNet)
    means = {factor.name: factor.loc.detach() for factor in turbo.guide}
    pruned = {
        name: mean * (site.probs > 0.5) if isinstance(site, ThreeLayerSite) else mean
        for (name, mean), site in zip(means.items(), turbo.sites.values(), strict=True)
    }
    training = bnn.training
    bnn.eval()
    try:
        scores = []
        for weights in (means, pruned):
            output = bnn.output(weights, batch.x)
            target = bnn.likelihood.prepare(batch.y, output)
            scores.append(bnn.likelihood.distribution(output).log_prob(target).mean())
    finally:
        bnn.train(training)
    return bool((scores[0] - scores[1]).abs() <= AGREEMENT)


__all__ = ["AGREEMENT", "NarrowNet", "NarrowTurbo", "Selection", "agrees", "select"]
