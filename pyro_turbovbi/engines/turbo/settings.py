"""Settings of Turbo-VBI and its schedules."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from pyro_turbovbi.engines.turbo.reduction import ModelReduction
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.families.factors import INIT_SCALE
from pyro_turbovbi.priors.three_layer import Components, GammaParameters, closed_component

Factorisation = Literal["structured", "mean_field"]
WeightFamily = Literal["diagonal", "exact"]

SettingsT = TypeVar("SettingsT", bound="TurboSettings")

# Chosen on MNIST's validation split, those of regressions on validation points of the UCI sets
# (docs: "Choices").
CLASSIFIER_KL_WEIGHT = 0.1
LR = 4e-3
REGRESSION_LR, REGRESSION_INIT_SCALE = 1e-2, 0.1


@dataclass(frozen=True)
class SpikeAnnealing:
    """Narrows the spike during training, from wide to the one that the prior declares.

    A weight can only leave the slab while the spike is wide enough to take it: with the final
    spike from the start, weights that see little data stay active for ever.

    Args:
        start: Spike scale sqrt(b0 / a0) at the start, in units of its final value; 1 keeps the
            scale, and from then on only the concentration moves.
        concentration: Spike concentration a0 at the start, at most the prior's own.
        until: Fraction of the training after which the spike has its final shape, in (0, 1].
    """

    start: float = 15.0
    concentration: float = 1.0
    until: float = 0.8

    def __post_init__(self) -> None:
        if self.start < 1.0 or self.concentration <= 0.0 or not 0.0 < self.until <= 1.0:
            raise InvalidArgumentError(
                "spike annealing is out of range",
                given=self,
                accepted="start >= 1, concentration > 0, 0 < until <= 1",
            )

    def done(self, progress: float) -> bool:
        """Whether the spike has its final scale at a fraction of the training."""
        return self.start == 1.0 or progress >= self.until

    def components(self, final: Components, progress: float) -> Components:
        """The two components at a given fraction of the training.

        Args:
            final: The components that the prior declares.
            progress: Fraction of the training that is done, in [0, 1].

        Returns:
            The same slab; a spike whose scale moves geometrically and whose concentration moves
            linearly. The start is held below the slab, which a spike must never outgrow.
        """
        left = max(0.0, 1.0 - progress / self.until)
        active, inactive = final
        widest = max(inactive.scale, min(self.start * inactive.scale, 0.5 * active.scale))
        scale = inactive.scale * (widest / inactive.scale) ** left
        start = min(self.concentration, inactive.concentration)
        concentration = inactive.concentration + left * (start - inactive.concentration)
        return Components(active, GammaParameters(concentration, concentration * scale**2))

    def closed(self, final: Components, progress: float) -> GammaParameters:
        """The law of precisions behind closed gates at a given fraction of the training.

        Args:
            final: The components that the prior declares.
            progress: Fraction of the training that is done, in [0, 1].

        Returns:
            At first the spike: a gate may close on weights that are merely inactive. Then its
            concentration grows geometrically, and either pulls them to zero or opens the gate.
        """
        left = 0.0 if self.done(progress) else 1.0 - progress / self.until
        spike, shut = self.components(final, progress).inactive, closed_component(final)
        concentration = shut.concentration * (spike.concentration / shut.concentration) ** left
        return GammaParameters(concentration, concentration * spike.scale**2)


@dataclass(frozen=True)
class TurboSettings:
    """Settings of the Turbo-VBI engine; the defaults are meant for every net.

    Args:
        lr: Adam's step for posterior means and point parameters. None: 0.01 for lifted regressions
            and 0.004 for everything else.
        scale_lr: Adam's step for logarithms of posterior scales, in units of `lr`.
        lr_decay: Decay both linearly to zero over the training.
        factorisation: "structured" q(rho | s) q(s) (default) or "mean_field" q(rho) q(s), the
            published form, which does not move from where it starts (docs: "What is known to
            fail").
        annealing: Schedule of the spike.
        reduction: When active weights are held against what they would be as inactive ones
            (Bayesian model reduction); for diagonal q(w) under the structured factorisation. None:
            `ModelReduction()` for lifted classifiers, and none for everything else.
        compression: The trade of error (small) against size (large): a factor on the default KL
            weight. More leaves fewer weights, at a higher error.
        kl_weight: Weight of the KL term in the gradient, in the place of the default times
            `compression`. 1 maximises the ELBO; below 1 the posterior is a cold one. The reported
            ELBO always has weight 1. None: 0.1 for lifted classifiers and 1 for everything else:
            where the noise is learned, a cold posterior explains it away and keeps every weight.
        kl_warmup: Fraction of the training over which the KL weight rises from 0.
        init_scale: Start of the posterior scales, in units of 1 / sqrt(fan-in). None: 0.1 for
            lifted regressions and 0.3 for everything else.
        refresh_every: Steps between closed-form updates of the precisions.
        messages_every: Steps between message passes; None: a fiftieth of the training, at most 100.
        damping: Share of the old value kept in the extrinsic log-odds at every pass, in [0, 1).
        gates_from: Fraction of the training after which shared unit gates act, in [0, 1].
        learn_hyper: Learn the support prior's density and transition probabilities, and the slab's
            rate, by EM, once the annealing is done.
        weights: "diagonal" q(w) trained by gradients, or "exact": the full-covariance Gaussian of
            a linear net under Gaussian noise, by an inverse of the size of the observations.
        start: Exact weights and mean field only: the side on which all weights start, "inactive"
            or "active".
    """

    lr: float | None = None
    scale_lr: float = 5.0
    lr_decay: bool = True
    factorisation: Factorisation = "structured"
    annealing: SpikeAnnealing = field(default_factory=SpikeAnnealing)
    reduction: ModelReduction | None = None
    compression: float = 1.0
    kl_weight: float | None = None
    kl_warmup: float = 0.15
    init_scale: float | None = None
    refresh_every: int = 20
    messages_every: int | None = None
    damping: float = 0.5
    gates_from: float = 0.3
    learn_hyper: bool = False
    weights: WeightFamily = "diagonal"
    start: Literal["inactive", "active"] = "inactive"

    def __post_init__(self) -> None:
        for name in ("scale_lr", "compression"):
            _require(name, getattr(self, name), getattr(self, name) > 0.0, "a positive number")
        if self.kl_weight is not None and self.compression != 1.0:
            raise InvalidArgumentError(
                "compression and kl_weight are two names of one trade",
                given=f"compression={self.compression}, kl_weight={self.kl_weight}",
                accepted="one of them",
            )
        for name in ("lr", "init_scale", "kl_weight"):
            value = getattr(self, name)
            _require(name, value, value is None or value > 0.0, "a positive number, or None")
        for name in ("kl_warmup", "damping"):
            _require(
                name, getattr(self, name), 0.0 <= getattr(self, name) < 1.0, "a number in [0, 1)"
            )
        start = self.gates_from
        _require("gates_from", start, 0.0 <= start <= 1.0, "a number in [0, 1]")
        _require("refresh_every", self.refresh_every, self.refresh_every >= 1, "1, 2, ...")
        every = self.messages_every
        _require("messages_every", every, every is None or every >= 1, "1, 2, ..., or None")
        _choice("factorisation", self.factorisation, ("structured", "mean_field"))
        _choice("weights", self.weights, ("diagonal", "exact"))
        _choice("start", self.start, ("inactive", "active"))

    @property
    def reduces(self) -> bool:
        """Whether there is model reduction at all."""
        possible = self.factorisation == "structured" and self.weights == "diagonal"
        return possible and self.reduction is not None and self.reduction.strength > 0.0

    def settles_at(self, progress: float) -> bool:
        """Whether inactive means are held at zero at a fraction `progress` of the training."""
        return self.reduces and self.reduction is not None and self.reduction.settles_at(progress)

    def completed(self: SettingsT, model: object) -> SettingsT:
        """The same settings with those that are None as they suit a model.

        Args:
            model: A lifted net, whose likelihood counts, or any other Pyro model.
        """
        kind = getattr(getattr(model, "likelihood", None), "kind", None)
        regression = kind not in (None, "classification")
        lr, init_scale = (REGRESSION_LR, REGRESSION_INIT_SCALE) if regression else (LR, INIT_SCALE)
        classes = kind == "classification"
        kl_weight = self.compression * (CLASSIFIER_KL_WEIGHT if classes else 1.0)
        return replace(
            self,
            compression=1.0,
            reduction=self.reduction or (ModelReduction() if classes else None),
            lr=lr if self.lr is None else self.lr,
            init_scale=init_scale if self.init_scale is None else self.init_scale,
            kl_weight=kl_weight if self.kl_weight is None else self.kl_weight,
        )

    def kl_weight_at(self, progress: float) -> float:
        """Weight of the KL term at a fraction `progress` of the training; 1 in place of None."""
        beta = 1.0 if self.kl_weight is None else self.kl_weight
        return beta * (min(1.0, progress / self.kl_warmup) if self.kl_warmup else 1.0)

    def lr_factor_at(self, progress: float) -> float:
        """Factor on the learning rates at a fraction `progress` of the training."""
        return max(0.0, 1.0 - progress) if self.lr_decay else 1.0

    def travel_left_at(self, progress: float) -> float:
        """Integral of the learning rates' factor over the rest of the training, in trainings."""
        left = max(0.0, 1.0 - progress)
        return 0.5 * left**2 if self.lr_decay else left

    def message_interval(self, num_steps: int) -> int:
        """Steps between message passes in a training of `num_steps`."""
        return self.messages_every or max(1, min(100, num_steps // 50))


def _require(name: str, value: object, holds: bool, accepted: str) -> None:
    if not holds:
        raise InvalidArgumentError(
            f"Turbo setting {name!r} is out of range", given=value, accepted=accepted
        )


def _choice(name: str, value: str, names: tuple[str, ...]) -> None:
    if value not in names:
        raise InvalidArgumentError(
            f"Turbo setting {name!r} is unknown", given=value, accepted=names
        )
