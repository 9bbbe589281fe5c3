"""`TurboVBI`: Turbo-VBI with the face of `pyro.infer.SVI`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.optim import PyroOptim
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_turbovbi._pyro import buffers_kept, of_distribution
from pyro_turbovbi.distributed import ALONE, World
from pyro_turbovbi.engines._optimizers import load_optimizer, optimizer_state, scale_rates
from pyro_turbovbi.engines.turbo import optimizer, sharding
from pyro_turbovbi.engines.turbo.settings import TurboSettings
from pyro_turbovbi.engines.turbo.shared_gates import GatedSpikeSlab, SharedGates, put_blame
from pyro_turbovbi.engines.turbo.site import SiteState, ThreeLayerSite, make_site
from pyro_turbovbi.errors import InvalidArgumentError, NumericalError
from pyro_turbovbi.families.factors import INIT_SCALE, NormalFactor, ThreeLayerFactor
from pyro_turbovbi.families.guide import TurboGuide, turbo_guide
from pyro_turbovbi.priors.base import SubstituteWeights

#: Steps that the schedules of a bare `TurboVBI` span.
DEFAULT_STEPS = 5000


class _Draw(NamedTuple):
    """One draw from q(w): per site the scale, the signed noise, the weight and E[w^2]."""

    scales: list[Tensor]
    noises: list[Tensor]
    weights: dict[str, Tensor]
    second_moments: list[Tensor]


class TurboVBI:
    """Turbo-VBI on a Pyro model: a drop-in for `pyro.infer.SVI`.

    Any Pyro model will do, lifted or written by hand, as long as its weights are drawn by
    ``prior.sample(name, shape)``. Further continuous latent sites get an `AutoNormal` guide,
    further params are trained as points.

    Args:
        model: The Pyro model; its log-likelihood is scaled as for SVI (by plates or
            `poutine.scale`).
        optim: A Pyro optimiser such as ``pyro.optim.Adam({"lr": 1e-3})``: its rule and arguments
            are used for one torch optimiser over all parameters. Default: Adam with the settings'
            rates and decay.
        settings: Everything else, see `TurboSettings`.
        num_steps: Number of steps that the schedules span; further steps keep their final values.
        world: The processes that train a lifted net together. `step` and `evaluate_loss` take the
            whole batch in each of them, batch first in every argument, and must be called alike.

    Attributes:
        sites: Engine state by weight-site name.
        gates: State of the unit gates; None where the prior has none.

    Raises:
        InvalidArgumentError: if `optim` or `num_steps` is of the wrong kind.
    """

    gates: SharedGates | None

    def __init__(
        self,
        model: Callable[..., Any],
        optim: PyroOptim | None = None,
        *,
        settings: TurboSettings | None = None,
        num_steps: int = DEFAULT_STEPS,
        world: World = ALONE,
    ) -> None:
        optimizer.check(optim)
        if num_steps < 1:
            raise InvalidArgumentError(
                "num_steps is out of range", given=num_steps, accepted="1, 2, ..."
            )
        self.model = model
        self.settings = (settings or TurboSettings()).completed(model)
        self.num_steps = num_steps
        self.world = world
        self.steps_done = 0
        self.sites: dict[str, SiteState] = {}
        self._optim = optim
        self._noises: list[Tensor] = []
        self._guide: TurboGuide | None = None

    @property
    def guide(self) -> TurboGuide:
        """The guide that is fitted.

        Raises:
            InvalidArgumentError: if there is none yet: neither `setup` nor a step.
        """
        if self._guide is None:
            raise self._not_set_up()
        return self._guide

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The one optimizer over all parameters."""
        return self._optimizer

    @property
    def noises(self) -> list[Tensor]:
        """The noise of the last step, by factor; empty before the first one."""
        return self._noises

    @property
    def progress(self) -> float:
        """Fraction of the schedules that is done, in [0, 1]."""
        return min(1.0, self.steps_done / self.num_steps)

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Create all parameters from one batch of the model's arguments.

        The first step does it otherwise. The model's batch statistics are left as they are.

        Raises:
            UnsupportedError: if the model cannot be handled, see `turbo_guide`.
        """
        with buffers_kept(self.model):
            self._create(*args, **kwargs)

    def _create(self, *args: Any, **kwargs: Any) -> None:
        scale = self.settings.init_scale or INIT_SCALE
        self._guide = turbo_guide(self.model, *args, init_scale=scale, **kwargs)
        self._factors = list(self.guide)
        self.sites = {f.name: self._make_site(f) for f in self._factors}
        factors = self.guide.gate_factors
        self.gates = SharedGates(factors, self.settings) if factors else None
        reduction = self.settings.reduction
        if self.gates is not None and reduction is not None:
            gated = [site for site in self.sites.values() if isinstance(site, GatedSpikeSlab)]
            put_blame(gated, reduction.unit_loss)
        self._others = self._other_parameters(*args, **kwargs)
        self._optimizer = self._make_optimizer()
        self._base_rates = [group["lr"] for group in self._optimizer.param_groups]
        for site in self.sites.values():
            if isinstance(site, ThreeLayerSite):
                site.travel = self._base_rates[0] * self.num_steps

    def _make_site(self, factor: NormalFactor) -> SiteState:
        site = self.guide.sites[factor.name]
        if site.gates is not None and isinstance(factor, ThreeLayerFactor):
            return GatedSpikeSlab(site, factor, self.settings)
        return make_site(site, factor, self.settings)

    def step(self, *args: Any, **kwargs: Any) -> float:
        """One stochastic step on a batch.

        Returns:
            The loss, an estimate of -ELBO in nats on the scale of the whole data set, before the
            step.

        Raises:
            NumericalError: if the loss or a gradient is not finite; no parameter has been changed
                then.
        """
        if not self.sites:
            self.setup(*args, **kwargs)
        draw = self._begin_step()
        try:
            log_joint = self._own_log_joint(draw.weights, *args, **kwargs)
        except ValueError as error:
            if not of_distribution(error):
                raise
            raise self._not_finite(str(error).partition(":")[0]) from error
        for parameter in self._others:
            parameter.grad = None
        (-log_joint).backward()
        self._complete_gradients(draw)
        self._add_up(log_joint, draw)
        self._set_gradients(draw)
        # Read at the end and in one go: on a GPU this is where the step waits for the device.
        prior, likelihood, gradients = _read(
            self._prior_loss(draw.second_moments), log_joint, self._gradient_size()
        )
        loss = prior - likelihood
        if not isfinite(loss):
            raise self._not_finite(f"{loss}, {self._source(draw)}")
        if not isfinite(gradients):
            raise self._gradients_not_finite()
        self._decay_rates()
        self._optimizer.step()
        self.steps_done += 1
        self._settle()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """All that training has changed, nested plain data and tensors in use: no copies.

        Of a model that is a module, its buffers are in it; its parameters are those that a step
        trains.

        Raises:
            InvalidArgumentError: if there is nothing yet: neither `setup` nor a step.
        """
        self._require_setup()
        return {
            "steps_done": self.steps_done,
            "guide": dict(self.guide.state_dict()),
            "others": [parameter.detach() for parameter in self._others],
            "buffers": self._buffers(),
            "optimizer": optimizer_state(self._optimizer),
            "base_rates": list(self._base_rates),
            "noises": list(self._noises),
            "sites": {name: site.state_dict() for name, site in self.sites.items()},
            "gates": None if self.gates is None else self.gates.state_dict(),
        }

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave in a run on an equal model, bit for bit.

        Args:
            saved: The state; its tensors are copied.

        Raises:
            InvalidArgumentError: if the parameters do not exist yet: call `setup` first.
        """
        self._require_setup()
        self.steps_done, self._base_rates = saved["steps_done"], list(saved["base_rates"])
        self.guide.load_state_dict(saved["guide"])
        for parameter, value in zip(self._others, saved["others"], strict=True):
            parameter.copy_(value)
        for name, buffer in self._buffers().items():
            buffer.copy_(saved["buffers"][name])
        load_optimizer(self._optimizer, saved["optimizer"])
        factors = zip(self._factors, saved["noises"], strict=False)  # none before the first step
        self._noises = [noise.to(factor.loc, copy=True) for factor, noise in factors]
        for name, site in self.sites.items():
            site.load_state_dict(saved["sites"][name])
        if self.gates is not None:
            self.gates.load_state_dict(saved["gates"])

    def scale_lr(self, factor: float) -> bool:
        """Multiply all learning rates from now on.

        Args:
            factor: What to multiply them with.

        Returns:
            False where the optimiser is the user's: its rates have not been changed.
        """
        if self._optim is not None:
            return False
        self._base_rates = [rate * factor for rate in self._base_rates]
        scale_rates([self._optimizer], factor)
        return True

    def _buffers(self) -> dict[str, Tensor]:
        return dict(self.model.named_buffers()) if isinstance(self.model, nn.Module) else {}

    def _require_setup(self) -> None:
        if not self.sites:
            raise self._not_set_up()

    def _not_set_up(self) -> InvalidArgumentError:
        return InvalidArgumentError(
            "the run has no parameters yet",
            given="a new TurboVBI",
            accepted="one after setup(*args), with one batch of the model's arguments",
        )

    def _not_finite(self, given: object, what: str = "the loss") -> NumericalError:
        return NumericalError(
            f"{what} is not finite at step {self.steps_done}",
            given=given,
            accepted="a smaller lr, or inputs scaled to about unit variance",
        )

    def _source(self, draw: _Draw) -> str:
        """Which part of a loss is not finite."""
        for (name, site), m in zip(self.sites.items(), draw.second_moments, strict=True):
            if not isfinite(float(site.prior_bound(m))):
                return f"by the prior of weight {name!r}"
        return "by the likelihood"

    def _gradients_not_finite(self) -> NumericalError:
        """The error that names the first of them."""
        named: dict[str, Tensor] = {f"weight {f.name!r}": f.loc for f in self._factors}
        named |= {f"parameter {i}": parameter for i, parameter in enumerate(self._others)}
        for name, parameter in named.items():
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                count = int((~parameter.grad.isfinite()).sum())
                given = f"{count} of {parameter.numel()} elements are NaN or infinite"
                return self._not_finite(given, f"the gradient of {name}")
        return self._not_finite("an overflow of its square", "the size of the gradient")

    def _gradient_size(self) -> Tensor:
        """A scalar that is finite only if all gradients are.

        Those of the scales follow from those of the means.
        """
        parameters = (*(factor.loc for factor in self._factors), *self._others)
        gradients = [p.grad for p in parameters if p.grad is not None]
        return torch.stack(torch._foreach_norm(gradients)).sum()

    @torch.no_grad()
    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """Estimate of -ELBO in nats on a batch, at the present state; no parameter is changed.

        As in plain PyTorch, a module in training mode still updates its batch statistics.
        """
        if not self.sites:
            self.setup(*args, **kwargs)
        draw = self._draw(self._fresh_noise())
        log_joint = self._own_log_joint(draw.weights, *args, **kwargs)
        self.world.add(log_joint)
        prior, likelihood = _read(self._prior_loss(draw.second_moments), log_joint)
        return prior - likelihood

    @torch.no_grad()
    def exchange(self) -> None:
        """A full exchange between Module A and Module B at every site, at the present q(w).

        Raises:
            InvalidArgumentError: if there is nothing yet: neither `setup` nor a step.
        """
        self._require_setup()
        for site in self.sites.values():
            site.anneal(self.progress)
        self._exchange({factor.name: factor.second_moment() for factor in self._factors})
        self._settle()

    def _exchange(self, second_moments: dict[str, Tensor]) -> None:
        if self.world.alone:
            for name, site in self.sites.items():
                site.exchange(second_moments[name])
        else:
            sharding.exchange(self.world, self.sites, self._factors, second_moments)
        if self.gates is not None:
            gated = [site for site in self.sites.values() if isinstance(site, GatedSpikeSlab)]
            self.gates.exchange(gated, second_moments, self.progress)

    @torch.no_grad()
    def _closed_form_updates(self, second_moments: list[Tensor]) -> None:
        step, settings = self.steps_done, self.settings
        exchange = step % settings.message_interval(self.num_steps) == 0
        if not exchange and step % settings.refresh_every:
            return
        for site in self.sites.values():
            site.anneal(self.progress)
        by_name = dict(zip(self.sites, second_moments, strict=True))
        if exchange:
            self._exchange(by_name)
        else:
            for name, site in self.sites.items():
                site.refresh(by_name[name])

    def _settle(self) -> None:
        """Late in a training, what is inactive is zero, so that cutting it changes nothing."""
        if self.settings.settles_at(self.progress):
            for site in self.sites.values():
                if isinstance(site, ThreeLayerSite):
                    site.clear_inactive()

    def _begin_step(self) -> _Draw:
        """Draw from the present q(w), and do what updates are due for it."""
        draw = self._draw(self._training_noise())
        self._closed_form_updates(draw.second_moments)
        return draw

    @torch.no_grad()
    def _draw(self, noises: list[Tensor]) -> _Draw:
        scales, weights, second_moments = [], {}, []
        for factor, noise in zip(self._factors, noises, strict=True):
            scale = factor.log_scale.exp()
            scales.append(scale)
            weights[factor.name] = torch.addcmul(factor.loc, scale, noise)
            second_moments.append((scale * scale).addcmul_(factor.loc, factor.loc))
        return _Draw(scales, noises, weights, second_moments)

    @torch.no_grad()
    def _fresh_noise(self) -> list[Tensor]:
        return [torch.randn_like(factor.loc) for factor in self._factors]

    @torch.no_grad()
    def _training_noise(self) -> list[Tensor]:
        """Antithetic noise: every second step takes the mirror image of the one before.

        Each step's gradient stays unbiased, the noise of two successive steps cancels to first
        order, and half of the random numbers, a sixth of a small net's step, need not be drawn.
        """
        if self.steps_done % 2 == 0:
            self._noises = self._fresh_noise()
        else:
            for noise in self._noises:
                noise.neg_()
        return self._noises

    def _own_log_joint(self, weights: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """This process's part of the log joint: all of it where there is no other process."""
        if self.world.alone:
            return self._log_joint(weights, *args, **kwargs)
        part = self.world.part((*args, kwargs))
        device = next(iter(weights.values())).device
        with self.world.apart(part, device, self.steps_done):
            *args_here, kwargs_here = part.arguments
            return part.share * self._log_joint(weights, *args_here, **kwargs_here)

    @torch.no_grad()
    def _complete_gradients(self, draw: _Draw) -> None:
        """Dense gradients of all weights, also of those that the model has not used this time.

        A net may leave layers out, always or at random: the data then say nothing of their weights.
        """
        for weight in draw.weights.values():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        for tensor in (*draw.weights.values(), *self._others):
            if tensor.grad is not None and tensor.grad.is_sparse:  # nn.Embedding(sparse=True)
                tensor.grad = tensor.grad.to_dense()

    @torch.no_grad()
    def _add_up(self, log_joint: Tensor, draw: _Draw) -> None:
        """Put log joint and gradients of the whole batch in the place of this process's part."""
        if self.world.alone:
            return
        for parameter in self._others:
            if parameter.grad is None:  # another process may have used it
                parameter.grad = torch.zeros_like(parameter)
        used = [p.grad for p in (*draw.weights.values(), *self._others) if p.grad is not None]
        self.world.add(log_joint.detach(), *used)

    def _log_joint(self, weights: dict[str, Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Log joint of data and other latents given weights, minus ln q(other latents)."""
        for weight in weights.values():
            weight.requires_grad_(torch.is_grad_enabled())
        with SubstituteWeights(weights):
            if self.guide.autoguide is None:
                return _log_prob(poutine.trace(self.model).get_trace(*args, **kwargs))
            with pyro.settings.context(module_local_params=True):
                guide = poutine.trace(self.guide.autoguide).get_trace(*args, **kwargs)
            replayed = poutine.replay(self.model, trace=guide)
            model = poutine.trace(replayed).get_trace(*args, **kwargs)
            return _log_prob(model) - _log_prob(guide)

    @torch.no_grad()
    def _prior_loss(self, second_moments: list[Tensor]) -> Tensor:
        """KL(q || prior): minus the entropy of q(w), minus the prior's part of the ELBO."""
        total = second_moments[0].new_zeros(())
        for factor, site, m in zip(self._factors, self.sites.values(), second_moments, strict=True):
            total -= factor.entropy() + site.prior_bound(m)
        return total

    @torch.no_grad()
    def _set_gradients(self, draw: _Draw) -> None:
        """Gradients of loc and log_scale by hand.

        With g = dNLL / dw at w = loc + scale * noise and KL weight beta:
            d / d loc       = g + beta E[rho] loc
            d / d log_scale = g noise scale + beta (E[rho] scale^2 - 1)
        """
        beta = self.settings.kl_weight_at(self.progress)
        for factor, site, scale, noise in zip(
            self._factors, self.sites.values(), draw.scales, draw.noises, strict=True
        ):
            gradient = draw.weights[factor.name].grad
            assert gradient is not None
            pull = (noise * gradient).addcmul_(scale, site.precision, value=beta)
            factor.log_scale.grad = pull.mul_(scale).sub_(beta)
            factor.loc.grad = gradient.addcmul_(factor.loc, site.precision, value=beta)

    def _other_parameters(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        with torch.no_grad(), SubstituteWeights(self._draw(self._fresh_noise()).weights):
            trace = poutine.trace(self.model, param_only=True).get_trace(*args, **kwargs)
        nodes: Any = trace.nodes
        found = [nodes[name]["value"].unconstrained() for name in trace.param_nodes]
        autoguide = self.guide.autoguide
        return found + (list(autoguide.parameters()) if autoguide is not None else [])

    def _make_optimizer(self) -> torch.optim.Optimizer:
        return optimizer.make(self._optim, self._factors, self._others, self.settings)

    def _decay_rates(self) -> None:
        if self._optim is not None:
            return  # the user's optimiser is the user's to schedule
        factor = self.settings.lr_factor_at(self.progress)
        for group, rate in zip(self._optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * factor


def _log_prob(trace: poutine.Trace) -> Tensor:
    """Log-density of all sample sites, scaled and masked as their plates say.

    As `trace.log_prob_sum`, which warns of NaN where a step is to raise.
    """
    total = torch.zeros(())
    nodes: Any = trace.nodes
    for site in nodes.values():
        if site["type"] == "sample" and not site_is_subsample(site):
            log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
            total = total + scale_and_mask(log_prob, site["scale"], site["mask"]).sum()
    return total


def _read(*scalars: Tensor) -> list[float]:
    """The values of scalars, in one go."""
    place = scalars[0].device
    values: list[float] = torch.stack([s.detach().to(place) for s in scalars]).tolist()
    return values


__all__ = ["DEFAULT_STEPS", "TurboVBI"]
