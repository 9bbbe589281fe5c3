"""A small sparse regression whose evidence is known by quadrature, and stock SVI on it."""

from __future__ import annotations

import functools
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import likelihoods, priors, supports
from pyro_turbovbi.families import TurboGuide

SUPPORT = supports.Chain(0.4, 2.0)
ACTIVE, INACTIVE = (2.0, 2.0), (4.0, 0.04)
NOISE = 0.5
#: Steps after which guides are compared.
STEPS = 200


def prior(collapse: Any, support: supports.Support = SUPPORT) -> priors.ThreeLayer:
    return priors.ThreeLayer(support, dist.Gamma(*ACTIVE), dist.Gamma(*INACTIVE), collapse=collapse)


def data(rows: int = 20) -> tuple[Tensor, Tensor]:
    """Three inputs of which the first two matter."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, generator=generator)
    noise = NOISE * torch.randn(rows, generator=generator)
    return x, x @ torch.tensor([1.0, -0.7, 0.0]) + noise


def model(collapse: Any, support: supports.Support = SUPPORT) -> ptv.BayesianNet:
    net = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[0.3, -0.3, 0.2]]))
    likelihood = likelihoods.Gaussian(NOISE, learn=False)
    return ptv.lift(net, likelihood=likelihood, prior=prior(collapse, support))


@functools.cache
def exact() -> tuple[float, Tensor]:
    """`ln p(D)` and `P(s = 1 | D) [3]`: the weights integrated on a grid."""
    x, y = (value.double() for value in data())
    mean = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    axis = torch.linspace(-1.0, 1.0, 81, dtype=torch.float64)
    grid = torch.cartesian_prod(*(m + axis for m in mean))
    law = prior(True).marginal(torch.Size((1, 3)))
    log_joint = law.log_prob(grid[:, None]) + dist.Normal(grid @ x.T, NOISE).log_prob(y).sum(1)
    cell = float(axis[1] - axis[0]) ** 3
    evidence = log_joint.logsumexp(0) + torch.tensor(cell).log()
    probs = law.support_posterior(grid[:, None]).probs[:, 0]
    return float(evidence), log_joint.softmax(0) @ probs


def train(bnn: ptv.BayesianNet, guide: nn.Module, num_elbo: int = 100) -> float:
    """The ELBO in nats after `STEPS` of stock SVI, averaged over draws."""
    svi = SVI(bnn, guide, pyro.optim.Adam({"lr": 0.03}), Trace_ELBO())
    for _ in range(STEPS):
        svi.step(*data())
    with torch.no_grad():
        return -sum(svi.evaluate_loss(*data()) for _ in range(num_elbo)) / num_elbo


@functools.cache
def score_function_elbo() -> float:
    """What the guide of Turbo-VBI reaches by score-function gradients in as many steps."""
    bnn = model(collapse=False)
    return train(bnn, TurboGuide(bnn.sites))
