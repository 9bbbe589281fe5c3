"""Stock Pyro SVI behind the interface of `ptv.fit`."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import pyro
import torch
from pyro import infer, poutine
from pyro.infer import autoguide as autoguides
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor, nn

from pyro_turbovbi._pyro import buffers_kept, of_distribution
from pyro_turbovbi.batches import Batch
from pyro_turbovbi.engines._guides import FunctionGuide, own_parameters
from pyro_turbovbi.engines._latents import (
    Sites,
    moments_of,
    point_moments,
    require_inference,
    start_values,
    weights_from,
)
from pyro_turbovbi.engines._optimizers import (
    load_optimizer,
    optimizer_state,
    pyro_optimizers,
    scale_rates,
)
from pyro_turbovbi.engines._support_probs import guide_support_probs
from pyro_turbovbi.engines.protocol import Plan
from pyro_turbovbi.errors import InvalidArgumentError, NumericalError, UnsupportedError
from pyro_turbovbi.families import SiteGuide
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.posterior import DiagonalPosterior, Posterior, SampledPosterior, Weights
from pyro_turbovbi.priors.base import Moments, NonCentred

AUTOGUIDES: dict[str, type[autoguides.AutoGuide]] = {
    "auto_delta": autoguides.AutoDelta,
    "auto_normal": autoguides.AutoNormal,
    "auto_diagonal_normal": autoguides.AutoDiagonalNormal,
    "auto_low_rank_multivariate_normal": autoguides.AutoLowRankMultivariateNormal,
    "auto_multivariate_normal": autoguides.AutoMultivariateNormal,
    "auto_structured": autoguides.AutoStructured,
}
"""Autoguides by the name that `SVI(guide=...)` takes."""
_POINT_GUIDES = ("auto_delta",)
#: Draws behind the posterior means and scales of a guide that has none in closed form.
CENTER_DRAWS = 64


@dataclass
class SVIState:
    """State of one SVI run: Pyro's own `SVI` object, its guide and the last batch of inputs."""

    svi: infer.SVI
    guide: Callable[..., Any]
    bnn: BayesianNet
    example: Batch
    own_optim: bool

    def state_dict(self) -> dict[str, Any]:
        """See `engines.protocol.Resumable`.

        Raises:
            UnsupportedError: if the guide is no module.
        """
        optimizers = pyro_optimizers(self.svi.optim, self._trained())
        return {
            "guide": dict(self._module().state_dict()),
            "optimizers": {name: optimizer_state(o) for name, o in optimizers.items()},
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """See `engines.protocol.Resumable`."""
        self._module().load_state_dict(saved["guide"])
        for name, optimizer in pyro_optimizers(self.svi.optim, self._trained()).items():
            load_optimizer(optimizer, saved["optimizers"][name])

    def scale_lr(self, factor: float) -> bool:
        """See `engines.protocol.Resumable`."""
        if self.own_optim:
            scale_rates(pyro_optimizers(self.svi.optim, self._trained()).values(), factor)
        return self.own_optim

    def _module(self) -> nn.Module:
        if isinstance(self.guide, nn.Module):
            return self.guide
        raise UnsupportedError(
            "the guide keeps its parameters to itself, so that a training cannot be stored",
            given=self.guide,
            accepted="a guide that is a torch.nn.Module, as all of Pyro's autoguides are",
        )

    def _trained(self) -> dict[str, nn.Parameter]:
        """All parameters, of the guide and of the net, by name."""
        self._module()
        return _trained(self.guide, self.bnn)


@dataclass(frozen=True, eq=False, kw_only=True)
class GuidePosterior(SampledPosterior):
    """A posterior known through a Pyro guide; `draw` runs it.

    Attributes:
        guide: The guide.
        example: The batch that it is run on.
        engine: The engine that made it.
    """

    guide: Callable[..., Any]
    example: Batch
    engine: SVI

    @classmethod
    def of(
        cls,
        guide: Callable[..., Any],
        example: Batch,
        engine: SVI,
        sites: Sites,
        support: Weights | None,
    ) -> GuidePosterior:
        """The posterior that a guide stands for.

        Args:
            guide: The guide; nothing else must train it.
            example: The batch that it is run on.
            engine: The engine that made it.
            sites: Weight sites by name.
            support: P(s = 1) by site name, where a site has a support layer.
        """
        return cls(
            lambda: _draw(guide, example, sites),
            lambda: _center(guide, example, sites),
            support=support,
            latents=lambda: _moments(guide, example, sites),
            guide=guide,
            example=example,
            engine=engine,
        )


@dataclass(frozen=True)
class SVI:
    """Stock `pyro.infer.SVI`, with any autoguide by name or a guide of your own.

    Args:
        guide: One of the names in `AUTOGUIDES`, or a callable ``guide(model)`` that returns a Pyro
            guide: a module, or a function, whose `pyro.param`s every fit has for itself.
        lr: Step of Pyro's Adam; ignored where `optim` is given.
        optim: A ready Pyro optimiser; no scheduler, whose steps nobody would take.
        loss: A Pyro ELBO; default `Trace_ELBO()`.
        init_scale: Start of the posterior scales, for autoguides that have one.

    Raises:
        InvalidArgumentError: if the guide's name is unknown, or a setting cannot be used.
    """

    guide: str | Callable[[BayesianNet], Any] = "auto_normal"
    lr: float = 1e-3
    optim: PyroOptim | None = None
    loss: Any = field(default_factory=infer.Trace_ELBO)
    init_scale: float = 0.02

    def __post_init__(self) -> None:
        for name in ("lr", "init_scale"):
            if not getattr(self, name) > 0.0:
                raise InvalidArgumentError(
                    f"SVI setting {name!r} is out of range",
                    given=getattr(self, name),
                    accepted="a positive number",
                )
        if self.optim is not None and not isinstance(self.optim, pyro.optim.PyroOptim):
            raise InvalidArgumentError(
                "optim is of the wrong kind",
                given=self.optim,
                accepted="an optimiser of pyro.optim, or None",
            )
        if isinstance(self.optim, PyroLRScheduler):
            raise InvalidArgumentError(
                "schedulers of Pyro are not supported: nothing calls their step()",
                given=self.optim.pt_scheduler_constructor.__name__,
                accepted="a plain optimiser of pyro.optim, or None",
            )
        if isinstance(self.guide, str) and self.guide not in AUTOGUIDES:
            raise InvalidArgumentError("unknown guide", given=self.guide, accepted=AUTOGUIDES)
        if not isinstance(self.guide, str) and not callable(self.guide):
            raise InvalidArgumentError(
                "guide is of the wrong kind",
                given=self.guide,
                accepted="a name or a callable guide(model)",
            )

    @property
    def name(self) -> str:
        """Short name for tables."""
        return f"svi ({self.guide if isinstance(self.guide, str) else 'custom guide'})"

    @property
    def full_batch(self) -> bool:
        """False."""
        return False

    def init(self, bnn: BayesianNet, plan: Plan) -> SVIState:
        """See `Engine.init`."""
        guide = self.make_guide(bnn)
        kind = "map" if isinstance(guide, autoguides.AutoDelta) else "vi"
        require_inference(bnn.sites, kind, self.name)
        optim = self.optim or PyroOptim(torch.optim.Adam, {"lr": self.lr})
        with pyro.settings.context(module_local_params=True):
            svi: Any = infer.SVI(bnn, guide, optim, self.loss)
        _draw(guide, plan.example, bnn.sites)  # creates what Pyro would create lazily
        svi.loss_and_grads = _guarded(svi.loss_and_grads, _trained(guide, bnn))
        return SVIState(svi, guide, bnn, plan.example, own_optim=self.optim is None)

    def rebuilt(
        self,
        bnn: BayesianNet,
        example: Batch,
        parameters: Mapping[str, Any],
        support: Weights | None,
    ) -> GuidePosterior:
        """The posterior of a guide that was trained before.

        Args:
            bnn: The lifted net.
            example: A batch to run the guide on.
            parameters: The trained guide's `state_dict`.
            support: See `GuidePosterior.of`.

        Raises:
            RuntimeError: if the parameters are those of another guide.
        """
        guide = self.make_guide(bnn)
        devices = [example.y.device] if example.y.is_cuda else []
        with torch.random.fork_rng(devices=devices), buffers_kept(bnn):
            _draw(guide, example, bnn.sites)
        assert isinstance(guide, nn.Module)
        guide.load_state_dict(parameters)
        return GuidePosterior.of(guide, example, self, bnn.sites, support)

    def step(self, state: SVIState, batch: Batch) -> float:
        """See `Engine.step`."""
        _mark_leaves(state.guide)
        with own_parameters(state.guide):
            return float(state.svi.step(*batch))

    def evaluate(self, state: SVIState, batch: Batch) -> float:
        """See `Engine.evaluate`."""
        with own_parameters(state.guide):
            return float(state.svi.evaluate_loss(*batch))

    def finish(self, state: SVIState) -> None:
        """Nothing to do."""

    def posterior(self, state: SVIState) -> Posterior:
        """See `Engine.posterior`."""
        sites, example = state.bnn.sites, state.example
        direct = not any(isinstance(site.prior, NonCentred) for site in sites.values())
        support = guide_support_probs(
            state.guide, example, sites, lambda: _draw(state.guide, example, sites)
        )
        if isinstance(state.guide, SiteGuide):
            return _factorised(state.guide, support)
        if isinstance(state.guide, autoguides.AutoNormal) and direct:
            return _diagonal(state.guide, sites, support)
        # Later steps must not move a posterior that has been handed out; the model is not copied.
        guide = copy.deepcopy(state.guide, {id(state.bnn): state.bnn})
        return GuidePosterior.of(guide, example, self, sites, support)

    def elbo_kind(self, state: SVIState) -> str:
        """See `Engine.elbo_kind`: "log joint" for point guides, otherwise "bound"."""
        return "log joint" if isinstance(state.guide, autoguides.AutoDelta) else "bound"

    def make_guide(self, bnn: BayesianNet) -> Callable[..., Any]:
        """The guide of a lifted net, at its start; Pyro creates its parameters at the first run.

        Raises:
            UnsupportedError: if an autoguide is to handle a prior with discrete sites.
        """
        if not isinstance(self.guide, str):
            with pyro.settings.context(module_local_params=True):
                guide: Callable[..., Any] = self.guide(bnn)
            return guide if isinstance(guide, nn.Module) else FunctionGuide(guide)
        discrete = [name for name, site in bnn.sites.items() if site.prior.discrete]
        if discrete:
            raise UnsupportedError(
                f"autoguide {self.guide!r} cannot handle the discrete supports of its priors",
                given=f"weights {', '.join(discrete)}",
                accepted="priors.ThreeLayer(..., collapse=True), engines.Turbo(), engines.SVI "
                "with a guide of your own (guides/turbo.py), or another prior by "
                "bnn.with_prior(priors.Normal())",
            )
        start = autoguides.init_to_value(values=start_values(bnn.sites))
        options: dict[str, Any] = {"init_loc_fn": start}
        if self.guide not in (*_POINT_GUIDES, "auto_structured"):
            options["init_scale"] = self.init_scale
        with pyro.settings.context(module_local_params=True):
            return AUTOGUIDES[self.guide](bnn, **options)


def _diagonal(
    guide: autoguides.AutoNormal, sites: Sites, support: Weights | None
) -> DiagonalPosterior:
    moments = _normal_moments(guide, sites)
    return DiagonalPosterior(
        {name: moments[name].mean for name in sites},
        {name: moments[name].scale for name in sites},
        support,
    )


def _normal_moments(guide: autoguides.AutoNormal, names: Iterable[str]) -> dict[str, Moments]:
    """Moments of sites: `AutoNormal`'s own parameters, which live in unconstrained coordinates."""
    return {
        name: Moments(*(t.detach().clone() for t in guide._get_loc_and_scale(name)))
        for name in names
    }


def _factorised(guide: SiteGuide, support: Weights | None) -> DiagonalPosterior:
    return DiagonalPosterior(
        loc={factor.name: factor.loc.detach().clone() for factor in guide},
        scales={factor.name: factor.scale.detach() for factor in guide},
        support=support,
    )


def _trained(guide: Callable[..., Any], bnn: BayesianNet) -> dict[str, nn.Parameter]:
    """All parameters by name: of the guide, where it is a module, and of the net."""
    own = guide.named_parameters() if isinstance(guide, nn.Module) else ()
    return {f"guide.{name}": parameter for name, parameter in own} | bnn.points


def _guarded(
    loss_and_grads: Callable[..., Any], parameters: Mapping[str, nn.Parameter]
) -> Callable[..., Any]:
    """Pyro's loss and gradients, which go to its optimiser only where they are finite.

    Raises:
        NumericalError: by what is returned, if something is not finite.
    """

    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            loss = loss_and_grads(*args, **kwargs)
            _require_finite("the loss", float(loss))
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    _require_finite(f"the gradient of {name}", float(parameter.grad.norm()))
        except (ValueError, NumericalError) as error:
            for parameter in parameters.values():
                parameter.grad = None  # Pyro adds to what it finds
            if isinstance(error, NumericalError) or not of_distribution(error):
                raise
            given = str(error).partition("\n")[0]
            raise _not_finite("a parameter of a distribution", given) from error
        return loss

    return guarded


def _require_finite(what: str, value: float) -> None:
    if not isfinite(value):
        raise _not_finite(what, value)


def _not_finite(what: str, given: object) -> NumericalError:
    return NumericalError(
        f"{what} is not finite", given=given, accepted="a smaller lr, or scaled inputs"
    )


def _mark_leaves(guide: Callable[..., Any]) -> None:
    """Tell Pyro's optimiser that plain parameters are their own leaves.

    Pyro 1.9 forgets it where parameters are local to their module, and copying a guide undoes it.
    """
    for parameter in guide.parameters() if isinstance(guide, nn.Module) else ():
        if not hasattr(parameter, "unconstrained"):
            parameter.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]


@torch.no_grad()
def _latents(guide: Callable[..., Any], example: Batch) -> dict[str, Tensor]:
    """One joint draw of the guide's sample sites, by name."""
    with own_parameters(guide):
        trace: Any = poutine.trace(guide).get_trace(*example)
    return {name: trace.nodes[name]["value"].detach() for name in trace.stochastic_nodes}


def _draw(guide: Callable[..., Any], example: Batch, sites: Sites) -> Weights:
    return weights_from(sites, _latents(guide, example))


@torch.no_grad()
def _median(guide: Callable[..., Any], example: Batch) -> Mapping[str, Tensor] | None:
    """Medians of the guide's sample sites by name, where the guide has them."""
    if isinstance(guide, autoguides.AutoGuide):
        try:
            with pyro.settings.context(module_local_params=True):
                return guide.median(*example)  # type: ignore[no-any-return]
        except (NotImplementedError, AttributeError):
            pass
    return None


def _center(guide: Callable[..., Any], example: Batch, sites: Sites) -> Weights:
    """Weights at the medians where the guide has them, otherwise means over draws."""
    median = _median(guide, example)
    if median is not None:
        return weights_from(sites, median)
    draws = [_draw(guide, example, sites) for _ in range(CENTER_DRAWS)]
    return {name: torch.stack([draw[name] for draw in draws]).mean(0) for name in sites}


def _moments(guide: Callable[..., Any], example: Batch, sites: Sites) -> dict[str, Moments]:
    """Posterior moments of the priors' latent sites."""
    median = _median(guide, example)
    if isinstance(guide, autoguides.AutoNormal):
        assert median is not None
        return _normal_moments(guide, median)
    if isinstance(guide, autoguides.AutoDelta):
        assert median is not None
        return point_moments(sites, median)
    return moments_of(sites, lambda: _latents(guide, example), CENTER_DRAWS)


__all__ = ["AUTOGUIDES", "SVI", "GuidePosterior", "SVIState"]
