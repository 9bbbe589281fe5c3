"""Lifting: a `torch.nn.Module` becomes a Pyro model whose weights come from priors."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from pyro_turbovbi._compiling import Compiler, Evaluation, compiled, evaluation
from pyro_turbovbi._pyro import local_param
from pyro_turbovbi.batches import Inputs, num_rows
from pyro_turbovbi.coupling import couplings
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    InvalidDataError,
    TurboVBIWarning,
    UnsupportedError,
)
from pyro_turbovbi.likelihoods import Likelihood
from pyro_turbovbi.priors.base import Prior, WeightSite
from pyro_turbovbi.priors.selection import BySite, as_selection
from pyro_turbovbi.priors.three_layer import ThreeLayer
from pyro_turbovbi.priors.unit_gates import Gates, WeightGates, unit_gates

#: Layers whose weight matrices get the default prior.
MATRIX_LAYERS = (nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MultiheadAttention)
#: Types in which no net is lifted.
HALF = (torch.float16, torch.bfloat16)
#: Names of parameters of such layers that are no matrices.
BIAS_NAMES = ("bias", "in_proj_bias", "bias_k", "bias_v")
#: Name of the observed site.
TARGET = "y"


def lift(net: nn.Module, *, likelihood: Likelihood, prior: Prior | BySite | None) -> BayesianNet:
    """Put a prior on the weights of a network.

    Args:
        net: Any module; it is copied and never changed. Its present weights are the start values of
            training. One from `torch.compile` counts as the module that it was made of; see
            ``fit(compile=)``.
        likelihood: What the output means, see `pyro_turbovbi.likelihoods`.
        prior: One prior for every weight matrix of linear, convolution and attention layers, or
            `priors.by_site`. All other parameters (biases, normalisation, embeddings) are trained
            as points.

    Returns:
        A Pyro model ``bnn(x, y=None)``.

    Raises:
        InvalidArgumentError: if an argument is of the wrong kind.
        InvalidDataError: if the net has NaN or infinite weights.
        SiteError: if a pattern of `prior` matches no parameter.
        UnsupportedError: if a lazy module has not seen its first input yet, or a parameter is in
            half precision, or a layer holds a tensor that cannot be copied.

    Warns:
        TurboVBIWarning: if weights under a parametrisation (weight or spectral norm) get no prior.
    """
    if not isinstance(net, nn.Module):
        raise InvalidArgumentError(
            "net is not a module", given=type(net).__name__, accepted="a torch.nn.Module"
        )
    if not isinstance(likelihood, Likelihood):
        raise InvalidArgumentError(
            "likelihood is of the wrong kind",
            given=likelihood,
            accepted="likelihoods.Categorical(), Bernoulli(), Gaussian(), Poisson()",
        )
    net = getattr(net, "_orig_mod", net)  # from torch.compile
    _check_parameters(net)
    bnn = BayesianNet(net, likelihood, as_selection(prior))
    if bnn.prior.default is not None:
        _warn_of_parametrised(bnn)
    return bnn


class BayesianNet(nn.Module):
    """A network under a weight prior: a Pyro model ``bnn(x, y=None)``; made by `lift`.

    Its sample sites are those of the weight priors and the observed site ``y``; parameters without
    a prior are Pyro params. It works with `poutine.trace`, `Predictive`, `pyro.render_model` and
    stock `SVI`.

    Args:
        net: The network, copied.
        likelihood: The likelihood, copied.
        prior: Which parameter has which prior.
        bound: Priors by site that have taken from earlier start values what they take from them
            (`Prior.bound_to`); those of all other sites take it from the net.

    Attributes:
        net: Private copy of the user's network.
        likelihood: Private copy of the likelihood.
        num_data: Size N of the data set that a batch is drawn from, which scales the log-likelihood
            by N / batch; None: the batch is the data set. `ptv.fit` sets it.
        autocast: Type in which the net computes, see `torch.autocast`; None: that of its
            parameters. What it returns, the likelihood and all of the prior stay in single
            precision. `ptv.fit` sets it while it trains.
        compiler: What compiles the net's steps in training mode, as `torch.compile`; None: nothing.
            `ptv.fit` sets it while it trains.
    """

    def __init__(
        self,
        net: nn.Module,
        likelihood: Likelihood,
        prior: BySite,
        *,
        bound: Mapping[str, Prior] | None = None,
    ) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)
        self.likelihood = copy.deepcopy(likelihood)
        self.prior = prior
        self.num_data: int | None = None
        self.autocast: torch.dtype | None = None
        self.compiler: Compiler | None = None
        self._compiled: Evaluation | None = None
        # Kept: walking the module tree at every step would cost a tenth of a small net's step.
        self._parameters_by_name = dict(self.net.named_parameters())
        self._places = _places_of(self.net)
        frozen = [n for n, p in self._parameters_by_name.items() if not p.requires_grad]
        selected = prior.select(self._parameters_by_name, weight_matrices(self.net), frozen)
        self._priors = {
            name: chosen.bound_to(self._parameters_by_name[name].detach())
            for name, chosen in selected.items()
        } | dict(bound or {})
        self._gates = _gates_of(self.net, self._priors)
        self._points = self._select_points()

    @property
    def sites(self) -> dict[str, WeightSite]:
        """Weight sites by name, in the net's order: shape, prior, start value."""
        parameters = self._parameters_by_name
        # Copied: Pyro's autoguides train a start value in place.
        return {
            name: WeightSite(
                name,
                parameters[name].shape,
                prior,
                parameters[name].detach().clone(),
                self._gates.get(name),
            )
            for name, prior in self._priors.items()
        }

    @property
    def points(self) -> dict[str, nn.Parameter]:
        """Parameters of the net and the likelihood that are trained as points, by name."""
        return dict(self._points)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but weak references that a run as a Pyro model leaves, and functions."""
        for parameter in self._points.values():
            parameter.__dict__.pop("unconstrained", None)
        return self.__dict__ | {"_compiled": None}

    def _select_points(self) -> dict[str, nn.Parameter]:
        named = self._parameters_by_name.items()
        net = {f"net.{n}": p for n, p in named if n not in self._priors}
        noise = {f"likelihood.{n}": p for n, p in self.likelihood.named_parameters()}
        return {name: p for name, p in (net | noise).items() if p.requires_grad}

    def with_prior(self, prior: Prior | BySite | None) -> BayesianNet:
        """The same network and likelihood, copied, under another prior."""
        return BayesianNet(self.net, self.likelihood, as_selection(prior))

    @contextmanager
    def scaled_to(self, num_data: int) -> Iterator[BayesianNet]:
        """Context in which batches stand for a data set of `num_data` points."""
        before, self.num_data = self.num_data, num_data
        try:
            yield self
        finally:
            self.num_data = before

    def output(self, weights: Mapping[str, Tensor], x: Inputs) -> Tensor:
        """The network's output under given weights; the other parameters keep their values.

        Args:
            weights: Tensors by parameter name.
            x: A tensor, or named tensors for a forward with several arguments.
        """
        if self.autocast is None:
            return self._run(weights, x)
        device = next(iter(self._parameters_by_name.values())).device.type
        with torch.autocast(device, dtype=self.autocast):
            output = self._run(weights, x)
        return output.float()

    def _run(self, weights: Mapping[str, Tensor], x: Inputs) -> Tensor:
        inputs: tuple[Any, ...] = ((x,),) if isinstance(x, Tensor) else ((), dict(x))
        placed = {place: w for name, w in weights.items() for place in self._places[name]}
        return self._evaluation()(placed, inputs)

    def _evaluation(self) -> Evaluation:
        """What runs the net: compiled in steps of a training, where that is asked for."""
        if self.compiler is None or not (self.net.training and torch.is_grad_enabled()):
            return evaluation(self.net)
        if self._compiled is None:
            self._compiled = compiled(self.net, self.compiler)
        return self._compiled

    def forward(self, x: Inputs, y: Tensor | None = None) -> Tensor:
        """The Pyro model: draw weights, run the net, observe (or draw) the targets.

        Args:
            x: Inputs of one batch.
            y: Targets of the batch; None draws them.

        Returns:
            The targets.
        """
        weights = self._sample_weights()
        for name, parameter in self._points.items():
            local_param(name, parameter)
        output = self.output(weights, x)
        rows = num_rows(x)
        target = None if y is None else self.likelihood.prepare(y, output)
        with poutine.scale(scale=(self.num_data or rows) / rows), pyro.plate("data", rows, dim=-1):
            return pyro.sample(TARGET, self.likelihood.distribution(output), obs=target)

    def _sample_weights(self) -> dict[str, Tensor]:
        """Run the prior's program: the gates of all units, then the weights behind them."""
        parameters, drawn = self._parameters_by_name, self._sample_gates()
        weights = {}
        for name, prior in self._priors.items():
            start, behind = parameters[name].detach(), self._gates.get(name, WeightGates())
            rows, columns = (
                None if gates is None else drawn[gates.name]
                for gates in (behind.rows, behind.columns)
            )
            weights[name] = prior.sample(name, start.shape, init=start, rows=rows, columns=columns)
        return weights

    def _sample_gates(self) -> dict[str, Gates]:
        drawn: dict[str, Gates] = {}
        for name, behind in self._gates.items():
            like = self._parameters_by_name[name].detach().new_empty(())
            for gates in (behind.rows, behind.columns):
                if gates is not None and gates.name not in drawn:
                    drawn[gates.name] = unit_gates(
                        gates.name, gates.size, density=gates.density, like=like
                    )
        return drawn

    def net_with(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """A copy of the user's network, in eval mode, that carries the given weights."""
        net = copy.deepcopy(self.net).eval()
        parameters = dict(net.named_parameters())
        with torch.no_grad():
            for name, value in weights.items():
                parameters[name].copy_(value)
        return net


def _gates_of(net: nn.Module, selected: Mapping[str, Prior]) -> dict[str, WeightGates]:
    """Gates of the weights whose prior shares them, by name; weights in no group are left out."""
    densities = {
        name: prior.gate_density
        for name, prior in selected.items()
        if isinstance(prior, ThreeLayer) and prior.gates
    }
    if not densities:
        return {}
    coupled = couplings(net, densities)
    groups: dict[str | None, Gates | None] = {None: None}
    for name, coupling in coupled.weights.items():
        for group in (coupling.rows, coupling.columns):
            if group is not None:
                groups.setdefault(group, Gates(group, coupled.sizes[group], densities[name]))
    return {
        name: WeightGates(groups[coupling.rows], groups[coupling.columns])
        for name, coupling in coupled.weights.items()
        if coupling.rows is not None or coupling.columns is not None
    }


def _places_of(net: nn.Module) -> dict[str, list[str]]:
    """Where the net holds each of its parameters, by name: under one path for each module.

    `functional_call` finds tied weights itself, but visits a module that is used in several places
    once for each, and then leaves the weight that it was given in the place of the parameter.
    """
    name_of = {id(parameter): name for name, parameter in net.named_parameters()}
    places: dict[str, list[str]] = {name: [] for name in name_of.values()}
    for prefix, module in net.named_modules():  # each module once
        for local, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places[name_of[id(parameter)]].append(f"{prefix}.{local}" if prefix else local)
    return places


def weight_matrices(net: nn.Module) -> list[str]:
    """Names of the parameters that get the default prior.

    A tied parameter has one name (torch's first) and counts as a matrix if any layer that uses it
    is one.
    """
    name_of = {id(parameter): name for name, parameter in net.named_parameters()}
    found = {
        name_of[id(parameter)]: None
        for module in net.modules()
        if isinstance(module, MATRIX_LAYERS)
        for local, parameter in module.named_parameters(recurse=False)
        if local not in BIAS_NAMES and parameter.requires_grad
    }
    return list(found)


def _warn_of_parametrised(bnn: BayesianNet) -> None:
    """The default prior is for weights; what parametrisations make weights of is something else."""
    found = [
        f"{path}.{local}".lstrip(".")
        for path, module in bnn.net.named_modules()
        if isinstance(module, MATRIX_LAYERS) and is_parametrized(module)
        for local in module.get_submodule("parametrizations")._modules
        if local not in BIAS_NAMES
        and not any(
            name.startswith(f"{path}.parametrizations.{local}.".lstrip(".")) for name in bnn._priors
        )
    ]
    if found:
        warnings.warn(
            f"{', '.join(map(repr, found))}: made by a parametrisation, and so not under the prior "
            "but trained as points; torch.nn.utils.parametrize.remove_parametrizations makes them "
            "ordinary weights",
            TurboVBIWarning,
            stacklevel=3,
        )


def _check_parameters(net: nn.Module) -> None:
    for path, module in net.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                raise UnsupportedError(
                    "a layer holds a tensor that was computed from parameters and cannot be copied",
                    given=f"{path}.{name}" if path else name,
                    accepted="parameters and buffers; torch.nn.utils.parametrizations in the place "
                    "of torch.nn.utils.weight_norm",
                )
    for name, parameter in net.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise UnsupportedError(
                f"parameter {name!r} of a lazy module has no shape yet",
                accepted="a net that has been run once on an example input",
            )
        if parameter.dtype in HALF:
            raise UnsupportedError(
                f"parameter {name!r} of the net is in half precision, too coarse for a posterior",
                given=parameter.dtype,
                accepted="net.float(), and ptv.fit(autocast=torch.bfloat16) to compute in half "
                "precision",
            )
        if not bool(torch.isfinite(parameter).all()):
            raise InvalidDataError(
                f"parameter {name!r} of the net contains NaN or infinite values",
                accepted="finite start values",
            )


__all__ = ["BayesianNet", "lift", "weight_matrices"]
