"""Regression with noise that depends on the input: the net gives a mean and a logarithm of a scale.

For the UCI sets, and for scikit-learn's diabetes, which needs no download: fit it with
`ptv fit models/heteroscedastic_mlp.py --data models/heteroscedastic_mlp.py:diabetes`.
"""

from __future__ import annotations

import torch
from torch import nn

import pyro_turbovbi as ptv
from pyro_turbovbi import data, likelihoods, priors, supports
from pyro_turbovbi.data.splits import divide


def build(features: int = 10, targets: int = 1) -> ptv.BayesianNet:
    """Independent support; standardised inputs [batch, features] and targets [batch].

    Args:
        features: Number of input features (10: diabetes; 13: Boston housing).
        targets: Number of targets; more than one: targets [batch, targets].
    """
    net = nn.Sequential(nn.Linear(features, 50), nn.ReLU(), nn.Linear(50, 2 * targets))
    prior = priors.ThreeLayer(support=supports.Independent(density=0.2))
    return ptv.lift(net, likelihood=likelihoods.Gaussian(heteroscedastic=True), prior=prior)


def diabetes(seed: int = 0) -> data.Splits:
    """Progression of diabetes in 442 patients by ten measurements, standardised.

    Args:
        seed: Seed of the division into training, validation (a tenth) and test points (a fifth).

    Raises:
        ModuleNotFoundError: If scikit-learn is not installed.
    """
    from sklearn.datasets import load_diabetes

    raw = load_diabetes()
    pair = data.TensorPair(torch.as_tensor(raw.data), torch.as_tensor(raw.target))
    return divide(pair, validation=0.1, test=0.2, seed=seed).standardised()
