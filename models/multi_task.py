"""Two tasks on one trunk, a Pyro model written by hand: which digit is it, and how does it go on?

From the upper half of an 8x8 digit the model tells the digit and how much ink is in the lower half.
Every image has its ink; only some have a label, and the others teach the trunk all the same. All
weights have priors of this package, so that `ptv.TurboVBI` fits the model in the place of
`pyro.infer.SVI`; the noise of the ink is a latent variable besides, and gets an ordinary autoguide.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyro_turbovbi as ptv
from pyro_turbovbi import compression, data, engines, priors, supports

PIXELS, CLASSES = 32, 10
#: The label of an image that has none.
UNKNOWN = -1
STEPS, BATCH = 1500, 128
#: Weights in runs along the rows of every matrix.
WEIGHT = priors.ThreeLayer(support=supports.Chain(density=0.1, mean_run=5.0))
BIAS = priors.Normal(scale=1.0)
#: As for lifted classifiers, a cold posterior: with the full KL term few labels keep few weights.
SETTINGS = engines.TurboSettings(kl_weight=0.1)

Model = Callable[..., Tensor]


class Network(nn.Module):
    """The plain network: what is cut and kept in the end.

    Args:
        hidden: Units of the trunk.
    """

    def __init__(self, hidden: int = 100) -> None:
        super().__init__()
        self.trunk = nn.Linear(PIXELS, hidden)
        self.digit = nn.Linear(hidden, CLASSES)
        self.ink = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Upper halves [batch, 32] to ten logits and the ink, [batch, 11]."""
        hidden = F.relu(self.trunk(x))
        return torch.cat([self.digit(hidden), self.ink(hidden)], -1)


def build(hidden: int = 100, num_data: int | None = None) -> Model:
    """The Pyro model ``model(x, digit, ink)``: its sites are those of the priors and of both tasks.

    Args:
        hidden: Units of the trunk.
        num_data: Points of the data set that batches are drawn from; None: a batch is all of it.

    Returns:
        A function of x [batch, 32], digits [batch] (`UNKNOWN` where there is no label) and ink
        [batch], that returns the ink; without targets it draws both.
    """

    def linear(name: str, x: Tensor, outputs: int) -> Tensor:
        """A linear layer whose weight and bias are sites of the model."""
        weight = WEIGHT.sample(f"{name}.weight", (outputs, x.shape[-1]))
        bias = BIAS.sample(f"{name}.bias", (outputs,), init=x.new_zeros(outputs))
        return F.linear(x, weight, bias)

    def model(x: Tensor, digit: Tensor | None = None, ink: Tensor | None = None) -> Tensor:
        shared = F.relu(linear("trunk", x, hidden))
        logits = linear("digit", shared, CLASSES)
        mean = linear("ink", shared, 1).squeeze(-1)
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        known = None if digit is None else digit.clamp(min=0)
        labelled: Any = True if digit is None else digit != UNKNOWN
        with pyro.plate("data", num_data or len(x), subsample=x):
            pyro.sample("digit", dist.Categorical(logits=logits).mask(labelled), obs=known)
            return pyro.sample("ink", dist.Normal(mean, noise), obs=ink)

    return model


@dataclass(frozen=True)
class Tasks:
    """Points of both tasks.

    Attributes:
        x: Upper halves of images, [points, 32].
        digit: Which digit, [points]; `UNKNOWN` where there is no label.
        ink: Sum over the lower half, standardised, [points].
    """

    x: Tensor
    digit: Tensor
    ink: Tensor


def halves(labels: int = 400, seed: int = 0) -> tuple[Tasks, Tasks]:
    """Training and test points from scikit-learn's digits.

    Args:
        labels: How many training images keep their label.
        seed: Seed of the division.
    """
    train, _, test = data.digits(seed)
    sums = train.x[:, PIXELS:].sum(1)
    few = torch.where(torch.arange(len(train.y)) < labels, train.y, UNKNOWN)

    def tasks(x: Tensor, digit: Tensor) -> Tasks:
        return Tasks(x[:, :PIXELS], digit, (x[:, PIXELS:].sum(1) - sums.mean()) / sums.std())

    return tasks(train.x, few), tasks(test.x, test.y)


def train(tasks: Tasks, *, steps: int = STEPS, hidden: int = 100, seed: int = 0) -> ptv.TurboVBI:
    """Turbo-VBI on random batches.

    Args:
        tasks: Training points.
        steps: Number of steps.
        hidden: Units of the trunk.
        seed: Seed of start, batches and noise.
    """
    pyro.set_rng_seed(seed)
    model = build(hidden, len(tasks.x))
    turbo = ptv.TurboVBI(model, settings=SETTINGS, num_steps=steps)  # was: SVI(model, guide, ...)
    for _ in range(steps):
        rows = torch.randperm(len(tasks.x))[:BATCH]
        turbo.step(tasks.x[rows], tasks.digit[rows], tasks.ink[rows])
    turbo.exchange()
    return turbo


def cut(turbo: ptv.TurboVBI, x: Tensor) -> ptv.Compressed:
    """The plain network at the posterior means, without the weights that are probably inactive.

    Args:
        turbo: A trained run.
        x: Inputs [points, 32] on which the smaller network is held against the masked one.
    """
    means = {factor.name: factor.loc.detach() for factor in turbo.guide}
    net = Network(hidden=len(means["trunk.bias"]))
    net.load_state_dict(means)
    masks = {name: p > 0.5 for name, p in turbo.guide.support_probs().items()}
    return compression.compress(net, masks, x)


@torch.no_grad()
def errors(net: nn.Module, tasks: Tasks) -> tuple[float, float]:
    """Share of wrong digits, and root mean square error of the ink in standard deviations.

    Args:
        net: A `Network`, cut or not.
        tasks: Points, all of them with a label.
    """
    digit, ink = net(tasks.x).split([CLASSES, 1], -1)
    wrong = digit.argmax(1) != tasks.digit
    return float(wrong.float().mean()), float((ink[:, 0] - tasks.ink).square().mean().sqrt())


if __name__ == "__main__":
    torch.set_num_threads(1)
    points, test = halves()
    small = cut(train(points), points.x)
    wrong, rmse = errors(small.module, test)
    print(f"{wrong:.1%} of the digits wrong, ink off by {rmse:.2f} standard deviations")
    print(small.report)
