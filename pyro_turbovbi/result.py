"""`Fit`: what a training gives, and what can be done with it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from math import isclose
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pyro_turbovbi.batches import Data, Inputs, to_device
from pyro_turbovbi.checks import check_inputs, network_takes
from pyro_turbovbi.errors import InvalidArgumentError
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.posterior import Posterior, Prediction, predict
from pyro_turbovbi.priors.hyperparameters import Hyperparameters, declared
from pyro_turbovbi.training import Training

if TYPE_CHECKING:
    import matplotlib.figure

    from pyro_turbovbi.compression import Compressed, FineTune
    from pyro_turbovbi.diagnostics.evaluation import Metrics
    from pyro_turbovbi.diagnostics.inference_data import Sites
    from pyro_turbovbi.diagnostics.khat import KHat
    from pyro_turbovbi.diagnostics.loo import LeaveOneOut
    from pyro_turbovbi.report import Report

#: Draws of a posterior predictive, unless told otherwise.
NUM_SAMPLES = 32


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch showed.

    Attributes:
        epoch: 1, 2, ...
        loss: Mean loss over its data points, -ELBO in nats on the scale of the whole data set.
        seconds: Wall seconds since the start of training.
        density: Share of weights with P(s = 1) > 1/2, by site (1 where the prior has no support
            layer).
    """

    epoch: int
    loss: float
    seconds: float
    density: dict[str, float] = field(default_factory=dict)

    @property
    def elbo(self) -> float:
        """-loss, in nats."""
        return -self.loss


class History(list[EpochRecord]):
    """Records of all epochs, in order."""

    @property
    def elbo(self) -> list[float]:
        """Mean ELBO of every epoch, in nats."""
        return [record.elbo for record in self]

    def plain(self) -> list[dict[str, Any]]:
        """The records as plain data."""
        return [asdict(record) for record in self]

    @classmethod
    def of_plain(cls, records: Iterable[Mapping[str, Any]]) -> History:
        """The history that `plain` describes."""
        return cls(EpochRecord(**record) for record in records)


@dataclass(eq=False, repr=False)
class Fit:
    """A fitted net: its posterior, and what can be done with it.

    Attributes:
        bnn: The fitted copy of the lifted net (the one given to `fit` is untouched).
        posterior: Posterior over the weight sites.
        history: One record an epoch.
        engine_name: The engine's short name.
        elbo: Final ELBO on the training data in nats (one posterior draw a batch); None for point
            estimates.
        elbo_kind: "bound", "Bethe" (grid supports and shared gates: an approximation, no bound) or
            "log joint".
        seconds: Wall seconds of training.
        training: Epochs, batch size, data, seed and start of the training.
    """

    bnn: BayesianNet
    posterior: Posterior
    history: History
    engine_name: str
    elbo: float | None
    elbo_kind: str
    seconds: float
    training: Training

    def __repr__(self) -> str:
        """How the fit came about, and of every site what is left and under which prior."""
        return _described(self)

    def _repr_html_(self) -> str:
        """What `repr` says, as a table, for notebooks."""
        from pyro_turbovbi.diagnostics.notebook import fit_table

        return fit_table(self).to_html()

    def support_probs(self) -> dict[str, Tensor]:
        """P(s = 1 | data) of every weight, by site; ones where the prior has no support layer."""
        return support_probs(self.bnn, self.posterior)

    def gate_probs(self) -> dict[str, Tensor]:
        """P(gate open | data) of every unit, by group; empty unless units share gates.

        A group has the name of the first weight that leads to its units, ``"input"`` for features.
        """
        return self.posterior.gate_probs()

    def masks(self, keep: float | None = None) -> dict[str, Tensor]:
        """Which weights survive, by site; boolean tensors of the weights' shapes.

        Args:
            keep: Share of weights to keep, in (0, 1]: ranked over all sites by |mean| / scale
                where the posterior has scales, otherwise by |mean|. Default: P(s = 1) > 1/2 where
                the prior has a support layer, elsewhere the rule of the prior's authors
                (`Prior.survivors`); every weight stays where there is none.

        Raises:
            InvalidArgumentError: if `keep` is outside (0, 1].
        """
        if keep is None:
            return _surviving_masks(self.bnn, self.posterior)
        return _ranked_masks(self.posterior, keep)

    @property
    def learned(self) -> tuple[str, ...]:
        """Sites whose prior's hyper-parameters were learned, as `Turbo(learn_hyper=True)` does."""
        return tuple(self.posterior.learned())

    def hyperparameters(self) -> dict[str, Hyperparameters]:
        """Hyper-parameters of every site's prior, by name: learned ones as they were at last.

        Of a three-layer prior: `density`, `mean_run`, `p01`, `p10` (as far as the support prior has
        them; see `priors.hyperparameters.support_parameters`), and concentration and rate of the
        two Gamma laws. Of another prior, the numbers that it was declared with.
        """
        declarations = {name: declared(site) for name, site in self.bnn.sites.items()}
        return declarations | self.posterior.learned()

    def sample(self, n: int) -> dict[str, Tensor]:
        """`n` joint posterior draws of all weights; shape [n, *weight] by site.

        Raises:
            InvalidArgumentError: if `n` is not positive.
        """
        if n < 1:
            raise InvalidArgumentError("n is out of range", given=n, accepted="1, 2, ...")
        draws = [self.posterior.draw() for _ in range(n)]
        return {name: torch.stack([draw[name] for draw in draws]) for name in draws[0]}

    def predict(self, x: Inputs, num_samples: int = NUM_SAMPLES) -> Prediction:
        """Posterior predictive at inputs `x`; `num_samples=0` uses the posterior mean alone.

        Raises:
            InvalidArgumentError: if `num_samples` is negative.
            InvalidDataError: if `x` is neither a tensor nor a dict of tensors, or has no point.
            ShapeError: if the net cannot take the inputs.
        """
        if num_samples < 0:
            raise InvalidArgumentError(
                "num_samples is out of range", given=num_samples, accepted="0, 1, 2, ..."
            )
        check_inputs(x)
        x = to_device(x, next(self.bnn.net.parameters()).device)
        with network_takes(self.bnn, x):
            return predict(self.bnn, self.posterior, x, num_samples)

    def evaluate(self, test: Data, num_samples: int = NUM_SAMPLES) -> Metrics:
        """Error or RMSE, NLL and calibration of the posterior predictive on test data."""
        from pyro_turbovbi.diagnostics.evaluation import evaluate

        return evaluate(self, test, num_samples=num_samples)

    def loo(self, train: Data, *, num_draws: int = 1000, seed: int = 0) -> LeaveOneOut:
        """Leave-one-out cross-validation; see `diagnostics.leave_one_out`."""
        from pyro_turbovbi.diagnostics.loo import leave_one_out

        return leave_one_out(self, train, num_draws=num_draws, seed=seed)

    def khat(self, train: Data, *, num_draws: int = 1000, seed: int = 0) -> KHat:
        """Distance of q(w) from the posterior; see `diagnostics.variational_khat`."""
        from pyro_turbovbi.diagnostics.khat import variational_khat

        return variational_khat(self, train, num_draws=num_draws, seed=seed)

    def to_arviz(
        self, test: Data, *, num_samples: int = 200, sites: Sites | None = None, seed: int = 0
    ) -> Any:
        """Posterior, predictive, log-likelihood and ELBO; see `diagnostics.to_inference_data`."""
        from pyro_turbovbi.diagnostics.inference_data import to_inference_data

        return to_inference_data(self, test, num_samples=num_samples, sites=sites, seed=seed)

    def plot_elbo(self) -> matplotlib.figure.Figure:
        """The ELBO of every epoch."""
        from pyro_turbovbi.diagnostics.plots import elbo_curves

        return elbo_curves({self.engine_name: self.history.elbo})

    def plot_history(self) -> matplotlib.figure.Figure:
        """ELBO, and share of weights left, of every epoch."""
        from pyro_turbovbi.diagnostics.training_plots import training_history

        sizes = {name: site.shape.numel() for name, site in self.bnn.sites.items()}
        return training_history(self.history, sizes)

    def plot_weights(
        self, number: int = 12, *, num_samples: int = 200, seed: int = 0
    ) -> matplotlib.figure.Figure:
        """Posterior of the weights of largest magnitude; see `diagnostics.weight_plots`."""
        from pyro_turbovbi.diagnostics.weight_plots import weight_draws, weight_intervals

        draws = weight_draws(self, number=number, num_samples=num_samples, seed=seed)
        return weight_intervals(draws)

    def plot_supports(self) -> matplotlib.figure.Figure:
        """P(s = 1 | data) of every weight, one picture a site."""
        from pyro_turbovbi.diagnostics.plots import support_matrices

        return support_matrices(self.support_probs())

    def plot_reliability(
        self, test: Data, num_samples: int = NUM_SAMPLES
    ) -> matplotlib.figure.Figure:
        """Accuracy against confidence, for classes; see `diagnostics.reliability`."""
        from pyro_turbovbi.diagnostics.calibration_plots import plot_reliability

        return plot_reliability({self.engine_name: self}, test, num_samples=num_samples)

    def plot_pit(self, test: Data, num_samples: int = NUM_SAMPLES) -> matplotlib.figure.Figure:
        """Calibration of a regression; see `diagnostics.probability_integral_transform`."""
        from pyro_turbovbi.diagnostics.calibration_plots import plot_pit

        return plot_pit({self.engine_name: self}, test, num_samples=num_samples)

    def report(
        self,
        test: Data | None = None,
        *,
        name: str = "fit",
        compressed: Compressed | None = None,
        others: Mapping[str, Fit] | None = None,
        stages: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> Report:
        """One HTML page about the fit, for readers who do not know the method.

        Args:
            test: Data that the fit has not seen.
            name: What the page calls the fit.
            compressed: What `compress` gave.
            others: Fits of the same data to compare it with, by name.
            stages: Supports during training, `callbacks.Supports.stages`.

        Returns:
            The page; `.save("report.html")` writes it. See `report.make_report`.

        Raises:
            UnsupportedError: if matplotlib is not installed.
            InvalidArgumentError, InvalidDataError: if fits or data do not fit together.
        """
        from pyro_turbovbi.report import make_report

        return make_report(
            self, test, name=name, compressed=compressed, others=others, stages=stages
        )

    def mean_net(self) -> nn.Module:
        """A plain copy of the user's network that carries the posterior means, in eval mode."""
        return self.bnn.net_with(self.posterior.mean())

    def compress(
        self,
        data: Data | None = None,
        *,
        keep: float | None = None,
        reorder: bool = False,
        fine_tune: FineTune | bool = False,
        validation: Data | None = None,
    ) -> Compressed:
        """Cut the pruned weights out of the network, and train those that are left further.

        Args:
            data: Data (or a tensor of inputs); on its first 2,048 points the smaller net is
                verified against the masked one. Fine-tuning trains on it: the training data.
            keep: See `masks`.
            reorder: Whether to put hidden units with similar weights next to each other first, for
                a more regular support and a smaller file; the net computes the same. See
                `compression.reorder`.
            fine_tune: Whether to train the surviving weights further, zeros staying zero; True, or
                how: `compression.FineTune(epochs=..., lr=...)`. What comes out is never worse on
                the validation data; `.report.fine_tuning` tells what was gained.
            validation: Data that fine-tuning chooses by, best such that the fit has not seen.
                Default: a tenth of `data` is held out of fine-tuning (`FineTune(holdout=...)`).

        Raises:
            UnsupportedError: if what the network does cannot be recorded, or its units cannot be
                found, or the settings of fine-tuning ask for what the fit does not have.
            VerificationError: if the smaller net computes something else.
            InvalidArgumentError, InvalidDataError, ShapeError: before anything is cut, if arguments
                or data do not fit.
        """
        from pyro_turbovbi._compress import compress_fit

        return compress_fit(
            self, data, keep=keep, reorder_units=reorder, tuning=fine_tune, validation=validation
        )

    def save(self, path: str | os.PathLike[str]) -> int:
        """Save the fit to one file, all or nothing: safetensors with a JSON manifest, no pickle.

        Everything is in it: net, likelihood, prior, posterior, history. A posterior under an
        autoguide other than "auto_normal" also needs one batch of the training data, and exact
        weights need all inputs. An older file of that name stays intact until the new one is
        complete.

        Args:
            path: Where to write.

        Returns:
            The number of bytes.

        Raises:
            UnsupportedError: if a prior, the likelihood, the posterior or what the net calls its
                state is of a kind that cannot be stored; nothing has been written then.
            StorageError: if the file cannot be written.
        """
        from pyro_turbovbi.persistence.fits import save_fit

        return save_fit(self, path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        net: nn.Module | None = None,
        *,
        guide: Callable[[BayesianNet], Any] | None = None,
    ) -> Fit:
        """Load a fit that was saved by `save`, onto the CPU: the same numbers bit for bit.

        Args:
            path: The file.
            net: A network of the class that was lifted, whatever its weights; it is not touched.
                Not needed for a `Sequential` of layers that the package knows (those that
                `compress` can cut).
            guide: The function that made the guide, where the fit was made with
                ``engines.SVI(guide=function)`` and the guide is none of this package.

        Raises:
            ArtifactError: if the file is damaged, of an unknown version, or holds no fit.
            InvalidArgumentError: if the file needs a net or a guide that is not given.
            ShapeError: if the net does not fit the file.
            StorageError: if the file cannot be read.
        """
        from pyro_turbovbi.persistence.fits import load_fit

        return load_fit(path, net, guide=guide)


def support_probs(bnn: BayesianNet, posterior: Posterior) -> dict[str, Tensor]:
    """P(s = 1 | data) of every weight, by site; ones where the prior has no support layer."""
    known = posterior.support_probs() or {}
    device = next(bnn.net.parameters()).device
    return {
        name: known[name] if name in known else torch.ones(site.shape, device=device)
        for name, site in bnn.sites.items()
    }


def _surviving_masks(bnn: BayesianNet, posterior: Posterior) -> dict[str, Tensor]:
    probs, supported = support_probs(bnn, posterior), posterior.support_probs() or {}
    masks = {name: p > 0.5 for name, p in probs.items()}
    sites = {name: site for name, site in bnn.sites.items() if name not in supported}
    moments = posterior.moments() if sites else {}
    for name, site in sites.items():
        survivors = site.prior.survivors(name, moments)
        if survivors is not None:
            masks[name] = survivors
    return masks


def _ranked_masks(posterior: Posterior, keep: float) -> dict[str, Tensor]:
    if not 0.0 < keep <= 1.0:
        raise InvalidArgumentError("keep is out of range", given=keep, accepted="a share in (0, 1]")
    mean, scale = posterior.mean(), posterior.scale()
    score = {
        n: m.abs() / scale[n] if scale and bool((scale[n] > 0).all()) else m.abs()
        for n, m in mean.items()
    }
    ranked = torch.cat([s.flatten() for s in score.values()]).sort(descending=True).values
    threshold = ranked[max(1, round(keep * len(ranked))) - 1]
    return {name: s >= threshold for name, s in score.items()}


def _described(fit: Fit) -> str:
    """One line on the training, one on every site."""
    elbo = "" if fit.elbo is None else f", ELBO {fit.elbo:,.1f} nats ({fit.elbo_kind})"
    how = fit.training
    lines = [
        f"Fit by {fit.engine_name}: {how.epochs} epochs of {how.num_data:,} points in "
        f"{fit.seconds:.1f} s{elbo}"
    ]
    supported, learned = fit.posterior.support_probs() or {}, fit.posterior.learned()
    for name, site in fit.bnn.sites.items():
        parts = [f"  {name}: {'x'.join(map(str, site.shape))} under {site.prior}"]
        if name in supported:
            parts.append(f"{float((supported[name] > 0.5).double().mean()):.2%} left")
        if name in learned:
            parts.append(f"learned {_changed(learned[name], declared(site))}")
        lines.append("; ".join(parts))
    return "\n".join(lines)


def _changed(now: Hyperparameters, before: Hyperparameters) -> str:
    changed = {name: value for name, value in now.items() if not isclose(value, before[name])}
    return ", ".join(f"{name}={value:.4g}" for name, value in changed.items()) or "nothing yet"


__all__ = ["NUM_SAMPLES", "EpochRecord", "Fit", "History", "support_probs"]
