"""What a weight prior is: a small Pyro program that emits the sample sites of one weight tensor.

The program runs as a Pyro effect of type ``"weight"``. Stock Pyro handlers do not know that type
and see only the ordinary sample sites inside; an engine that knows it can discover every weight of
any model (`discover_weights`) and hand in weights of its own without running the prior at all
(`SubstituteWeights`), which is what keeps a training step cheap.

Most priors sample the weight itself. A `NonCentred` prior samples independent pieces, such as
scales and a unit-variance weight, and the weight is a function of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful
from torch import Tensor

from pyro_turbovbi.errors import InvalidArgumentError, ShapeError, UnsupportedError
from pyro_turbovbi.priors.unit_gates import Gates, WeightGates


class Moments(NamedTuple):
    """Posterior mean and standard deviation of one sample site, element by element.

    Those of the site's unconstrained value: of its logarithm where the site is positive.

    Attributes:
        mean: Shape of the site.
        scale: Same shape; zero where the posterior is a point.
    """

    mean: Tensor
    scale: Tensor


#: Ways to infer a weight: a mode, a variational posterior, Markov chain Monte Carlo.
INFERENCE = frozenset({"map", "vi", "mcmc"})


class Prior(ABC):
    """A prior over one weight tensor, declared without its shape.

    Subclasses are frozen dataclasses of plain numbers (so that they compare, print and never hold a
    tensor on the wrong device) and implement `emit`.
    """

    #: Whether the program contains discrete sample sites, which autoguides cannot handle.
    discrete: bool = False
    #: Ways of inference that the prior is meant for, of `INFERENCE`; engines refuse the others.
    inference: frozenset[str] = INFERENCE

    def sample(
        self,
        name: str,
        shape: torch.Size | tuple[int, ...],
        *,
        init: Tensor | None = None,
        rows: Gates | None = None,
        columns: Gates | None = None,
    ) -> Tensor:
        """Emit the prior's Pyro sites and return the weight.

        Args:
            name: Name of the weight's sample site; further sites of the prior are called
                ``{name}_...``.
            shape: Shape of the weight tensor.
            init: Tensor of that shape. Gives device and dtype, and the start value to engines that
                take one; it changes no prior but those that say so (`bound_to`). Default: torch's
                default device and dtype.
            rows: Gates of the units that the weight leads to, see `unit_gates`; only for priors
                that say ``gates="shared"``.
            columns: Gates of the units that it comes from, likewise.

        Returns:
            The weight, of the given shape.

        Raises:
            ShapeError: if `init` has another shape, or the gates do not fit the shape.
            UnsupportedError: if gates are given to a prior that has none.
        """
        size = torch.Size(shape)
        if init is not None and init.shape != size:
            raise ShapeError(
                f"init of weight site {name!r} has another shape than the site",
                given=tuple(init.shape),
                accepted=str(tuple(size)),
            )
        gates = None
        if rows is not None or columns is not None:
            gates = WeightGates(rows, columns)
            gates.view(size)
        prior = self.bound_to(init)
        return _weight(name, prior, size, init, gates, name=name)  # type: ignore[no-any-return]

    @abstractmethod
    def emit(self, name: str, shape: torch.Size, like: Tensor) -> Tensor:
        """Run ``pyro.sample`` for every site of the prior; return the weight.

        Args:
            name: Name of the weight site.
            shape: Shape of the weight.
            like: Scalar tensor that carries the device and dtype to use.
        """

    def emit_gated(self, name: str, shape: torch.Size, like: Tensor, gates: WeightGates) -> Tensor:
        """As `emit`, for a weight behind the gates of its units.

        Raises:
            UnsupportedError: if the prior has no gates.
        """
        raise UnsupportedError(
            f"the prior of weight {name!r} has no unit gates",
            given=self,
            accepted='priors.ThreeLayer(..., gates="shared"), or no rows= and columns=',
        )

    def bound_to(self, init: Tensor | None) -> Prior:
        """The prior with whatever it takes from a weight's start value; by default nothing.

        Args:
            init: Start value of the weight, if there is one.
        """
        return self

    def weight(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        """The weight that belongs to values of the prior's sample sites.

        Args:
            name: Name of the weight.
            values: Values by site name; further sites may be among them.

        Raises:
            KeyError: if a site of the prior is missing.
        """
        return values[name]

    def start(self, name: str, init: Tensor) -> dict[str, Tensor]:
        """Values of the sample sites at which the weight is `init`: where training starts.

        Args:
            name: Name of the weight.
            init: Start value of the weight.

        Returns:
            Values by site name. Sites that are left out start where the engine likes.
        """
        return {name: init}

    def survivors(self, name: str, moments: Mapping[str, Moments]) -> Tensor | None:
        """The pruning rule of the prior's authors: which weights are worth keeping.

        Args:
            name: Name of the weight.
            moments: Posterior moments by site name, of all sites of the prior.

        Returns:
            Boolean tensor of the weight's shape; None (default) where there is no such rule, or
            where the posterior does not tell what the rule asks for.
        """
        return None


class NonCentred(Prior):
    """A prior that samples the pieces of a weight and puts the weight together from them.

    A scale and the weight under it are strongly dependent, which a factorised posterior cannot
    follow; the scale and the weight in units of it are not. So the scales and the unit-variance
    weight are the sample sites here, and the weight itself is a deterministic site, ``{name}``.
    Subclasses implement `pieces` and `weight`.

    Source: S. Ghosh, J. Yao, F. Doshi-Velez, "Structured variational learning of Bayesian neural
    networks with horseshoe priors", ICML 2018.
    """

    @abstractmethod
    def pieces(self, name: str, shape: torch.Size, like: Tensor) -> dict[str, Tensor]:
        """Run ``pyro.sample`` for every site; return the values by site name. As `emit`."""

    @abstractmethod
    def weight(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        """See `Prior.weight`."""

    def emit(self, name: str, shape: torch.Size, like: Tensor) -> Tensor:
        """Emit the sites of `pieces` and the deterministic site ``{name}``. See `Prior.emit`."""
        return pyro.deterministic(name, self.weight(name, self.pieces(name, shape, like)))


def emit_each(laws: Mapping[str, TorchDistributionMixin]) -> dict[str, Tensor]:
    """Run ``pyro.sample`` for independent sites; return their values by site name."""
    return {site: pyro.sample(site, law) for site, law in laws.items()}


def _emit(
    site: str, prior: Prior, shape: torch.Size, init: Tensor | None, gates: WeightGates | None
) -> Tensor:
    like = torch.empty(()) if init is None else init.new_empty(())
    if gates is not None:
        return prior.emit_gated(site, shape, like, gates)
    return prior.emit(site, shape, like)


# `effectful` consumes the keyword `name`, so the program gets the site's name once more, as `site`.
_weight: Any = effectful(_emit, type="weight")


@dataclass(frozen=True, eq=False)
class WeightSite:
    """One weight tensor of a model, as found by `discover_weights`.

    Attributes:
        name: Name of its sample site.
        shape: Its shape.
        prior: The prior it is declared under.
        init: Start value (same shape), or None where the model gives none.
        gates: The gates of its units, or None where no unit of it has one.
    """

    name: str
    shape: torch.Size
    prior: Prior
    init: Tensor | None
    gates: WeightGates | None = None


class _SkipGates(Messenger):
    """Leaves gates undrawn: whoever hands in weights has no use for them."""

    def _pyro_gates(self, msg: Any) -> None:
        msg["value"] = msg["args"][0]
        msg["done"] = msg["stop"] = True


class _Discover(_SkipGates):
    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, WeightSite] = {}

    def _pyro_weight(self, msg: Any) -> None:
        name, prior, shape, init, gates = msg["args"]
        if name in self.sites:
            raise InvalidArgumentError(
                "two weights of the model have the same name",
                given=name,
                accepted="one name per weight",
            )
        self.sites[name] = WeightSite(name, shape, prior, init, gates)
        # The start value flows on: discovery never draws from the (possibly heavy-tailed) prior.
        msg["value"] = start_value(self.sites[name])
        msg["done"] = msg["stop"] = True


class SubstituteWeights(_SkipGates):
    """Pyro handler that hands given weights to a model in place of its weight priors.

    Args:
        weights: Tensors by site name. A weight of the model that is not named here is sampled as
            usual, as if all gates were open.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.weights = weights

    def _pyro_weight(self, msg: Any) -> None:
        value = self.weights.get(msg["name"])
        if value is not None:
            msg["value"] = value
            msg["done"] = msg["stop"] = True


def discover_weights(model: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, WeightSite]:
    """Run `model` once and list the weights that it draws from priors of this package, in order."""
    with _Discover() as found:
        model(*args, **kwargs)
    return found.sites


def start_value(site: WeightSite) -> Tensor:
    """The site's own start value, else a draw from Normal(0, 1 / fan-in). Shape: the site's."""
    if site.init is not None:
        return site.init.detach().clone()
    return torch.randn(site.shape) / sqrt(fan_in(site.shape))


def fan_in(shape: torch.Size) -> int:
    """Number of inputs of one output unit: all dimensions but the first (1-D: all)."""
    return max(1, (shape if len(shape) < 2 else shape[1:]).numel())
