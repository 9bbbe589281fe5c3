"""The training loop behind `fine_tuning`: candidates, what they are judged by, and the steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.batch_statistics import batch_norms, with_statistics_of
from pyro_turbovbi.errors import InvalidDataError
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.likelihoods import Likelihood

#: Names of candidates; the others are "epoch 1", "epoch 2", ...
CUT, STATISTICS, NOISE = "cut", "batch statistics", "noise"
_CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Points:
    """Data points as tensors.

    Attributes:
        x: Inputs, shape [points, ...].
        y: Targets, shape [points, ...].
        soft: Class probabilities in the place of targets, shape [points, ...] of the outputs.
        transform: Changes the inputs of a batch at random, in training alone.
    """

    x: Tensor
    y: Tensor
    soft: Tensor | None = None
    transform: Callable[[Tensor], Tensor] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def at(self, rows: Tensor, device: torch.device) -> Points:
        """Some of the points, elsewhere; inputs as they are."""
        x, y, soft = (
            None if each is None else each[rows.to(each.device)].to(device)
            for each in (self.x, self.y, self.soft)
        )
        assert x is not None
        assert y is not None
        return replace(self, x=x, y=y, soft=soft)

    def batches(self, size: int, device: torch.device, *, shuffle: bool) -> Iterator[Points]:
        """All of the points, in order or, transformed, in a random one."""
        order = torch.randperm(len(self)) if shuffle else torch.arange(len(self))
        for rows in order.split(size):
            batch = self.at(rows, device)
            if shuffle and self.transform is not None:
                batch = replace(batch, x=self.transform(batch.x))
            yield batch

    def split(self, share: float) -> tuple[Points, Points]:
        """Two random parts, the second with a share of the points.

        Raises:
            InvalidDataError: If there are fewer than two points.
        """
        if len(self) < 2:
            raise InvalidDataError(
                "one point cannot be both trained on and held out",
                accepted="more training data, or validation data",
            )
        order = torch.randperm(len(self))
        count = min(max(1, round(share * len(self))), len(self) - 1)
        first, second = order[count:].sort().values, order[:count].sort().values
        return self.at(first, self.x.device), self.at(second, self.x.device)


@dataclass
class Contest:
    """Keeps the candidate with the smallest loss on validation data.

    Attributes:
        validation: What candidates are judged on.
        best: A copy of the best one.
        losses: Mean negative log-likelihood in nats a point, by name of the candidate.
        winner: Name of the best one.
    """

    validation: Points
    best: BayesianNet
    losses: dict[str, float] = field(default_factory=dict)
    winner: str = CUT

    def enter(self, name: str, candidate: BayesianNet) -> None:
        """Judges a candidate; of equals the first stays."""
        loss = mean_nll(candidate, self.validation)
        self.losses[name] = loss if math.isfinite(loss) else math.inf
        if name == CUT or self.losses[name] < self.losses[self.winner]:
            self.winner, self.best = name, copy.deepcopy(candidate)


@dataclass(frozen=True, eq=False)
class Objective:
    """What the training minimises, in nats a point; see `FineTune`.

    Attributes:
        distil: Share of the soft targets.
        pulls: Weight by parameter name of the squared distance to its start.
        start: The parameters' start by name.
    """

    distil: float
    pulls: Mapping[str, Tensor]
    start: Mapping[str, Tensor]

    def __call__(self, bnn: BayesianNet, batch: Points) -> Tensor:
        """The loss of a batch."""
        output = bnn.net(batch.x)
        loss = (1.0 - self.distil) * nll(bnn.likelihood, output, batch.y).mean()
        if self.distil:
            assert batch.soft is not None
            loss = loss + self.distil * nll(bnn.likelihood, output, batch.soft).mean()
        for name, weight in self.pulls.items():
            distance = bnn.net.get_parameter(name) - self.start[name]
            loss = loss + (weight * distance.square()).sum()
        return loss


def device_of(bnn: BayesianNet) -> torch.device:
    """Where the network is."""
    return next(bnn.net.parameters()).device


def nll(likelihood: Likelihood, output: Tensor, y: Tensor) -> Tensor:
    """Negative log-likelihood in nats, shape [points]; under soft targets the expected one."""
    log_prob: Tensor = likelihood.distribution(output).log_prob(likelihood.prepare(y, output))
    return -log_prob


@torch.no_grad()
def mean_nll(bnn: BayesianNet, points: Points) -> float:
    """Mean negative log-likelihood in nats a point."""
    batches = points.batches(_CHUNK, device_of(bnn), shuffle=False)
    total = sum(float(nll(bnn.likelihood, bnn.net(b.x), b.y).double().sum()) for b in batches)
    return total / len(points)


def tune(
    bnn: BayesianNet,
    train: Points,
    validation: Points,
    objective: Objective,
    masks: Mapping[str, Tensor],
    *,
    epochs: int,
    lr: float,
    batch_size: int,
) -> Contest:
    """Trains a cut network and has all that comes of it judged.

    Args:
        bnn: The network with its likelihood, in evaluation mode; it is not touched.
        train: What is trained on.
        validation: What is judged on.
        objective: What is minimised.
        masks: Parameter name to mask: entries that may differ from zero.
        epochs: Passes over the data.
        lr: First step of Adam.
        batch_size: Data points a step.

    Returns:
        The losses of all candidates, and the best.
    """
    contest = Contest(validation, bnn)
    bnn = _prepared(contest, train)
    parameters = [p for p in bnn.net.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=lr)
    steps = epochs * math.ceil(len(train) / batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / steps)
    for epoch in range(1, epochs + 1):
        for batch in train.batches(batch_size, device_of(bnn), shuffle=True):
            optimizer.zero_grad()
            objective(bnn, batch).backward()
            silence(bnn.net, masks)
            optimizer.step()
            schedule.step()
        fit_noise(bnn, train)
        contest.enter(f"epoch {epoch}", bnn)
    return contest


def _prepared(contest: Contest, train: Points) -> BayesianNet:
    """A copy of the best network after batch statistics and noise were tried."""
    contest.enter(CUT, contest.best)
    bnn = copy.deepcopy(contest.best)
    if batch_norms(bnn.net):
        bnn.net.load_state_dict(with_statistics_of(bnn.net, train.x).state_dict())
        contest.enter(STATISTICS, bnn)
        bnn = copy.deepcopy(contest.best)
    if noise_of(bnn):
        fit_noise(bnn, train)
        contest.enter(NOISE, bnn)
    return copy.deepcopy(contest.best)


def silence(net: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Sets the gradients of pruned weights to zero, so that Adam leaves them where they are."""
    for name, mask in masks.items():
        gradient = net.get_parameter(name).grad
        if gradient is not None:
            gradient.masked_fill_(~mask, 0.0)


def noise_of(bnn: BayesianNet) -> list[nn.Parameter]:
    """Learned parameters of the likelihood."""
    return [p for p in bnn.likelihood.parameters() if p.requires_grad]


def fit_noise(bnn: BayesianNet, train: Points) -> None:
    """Fits the likelihood's own parameters to the training data, the network being as it is.

    They are few, so that with all outputs at hand a quasi-Newton method finds the optimum at once.
    """
    parameters = noise_of(bnn)
    if not parameters:
        return
    with torch.no_grad():
        batches = list(train.batches(_CHUNK, device_of(bnn), shuffle=False))
        output, y = torch.cat([bnn.net(b.x) for b in batches]), torch.cat([b.y for b in batches])
    optimizer = torch.optim.LBFGS(parameters, max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nll(bnn.likelihood, output, y).mean()
        value.backward()
        return value

    optimizer.step(loss)
