"""`fit`: the one training loop, for every engine; and `Fit`, its result."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pyro_turbovbi._pyro import buffers_kept
from pyro_turbovbi.batches import Batch, Batches, Data, Inputs, as_batches, as_tensors, to_device
from pyro_turbovbi.checks import check_data
from pyro_turbovbi.engines.protocol import AnyEngine, Engine, Plan
from pyro_turbovbi.engines.turbo import Turbo
from pyro_turbovbi.errors import InvalidArgumentError, SiteError
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.posterior import Posterior, Prediction, predict

if TYPE_CHECKING:
    import matplotlib.figure

    from pyro_turbovbi.compression import Compressed
    from pyro_turbovbi.diagnostics.evaluation import Metrics
    from pyro_turbovbi.diagnostics.inference_data import Sites
    from pyro_turbovbi.diagnostics.khat import KHat
    from pyro_turbovbi.diagnostics.loo import LeaveOneOut

#: Draws of a posterior predictive, unless told otherwise.
NUM_SAMPLES = 32
#: Data points on which a compressed net is held against the masked one.
VERIFIED_ROWS = 2048


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


@dataclass(eq=False)
class Fit:
    """A fitted net: its posterior, and what can be done with it.

    Attributes:
        bnn: The fitted copy of the lifted net (the one given to `fit` is untouched).
        posterior: Posterior over the weight sites.
        history: One record an epoch.
        engine_name: The engine's short name.
        elbo: Final ELBO on the training data in nats (one posterior draw a batch); None for point
            estimates.
        elbo_kind: "bound", "Bethe" (grid supports: an approximation, no bound) or "log joint".
        seconds: Wall seconds of training.
    """

    bnn: BayesianNet
    posterior: Posterior
    history: History
    engine_name: str
    elbo: float | None
    elbo_kind: str
    seconds: float

    def support_probs(self) -> dict[str, Tensor]:
        """P(s = 1 | data) of every weight, by site; ones where the prior has no support layer."""
        return _support_probs(self.bnn, self.posterior)

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
        """
        if num_samples < 0:
            raise InvalidArgumentError(
                "num_samples is out of range", given=num_samples, accepted="0, 1, 2, ..."
            )
        device = next(self.bnn.net.parameters()).device
        return predict(self.bnn, self.posterior, to_device(x, device), num_samples)

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

    def mean_net(self) -> nn.Module:
        """A plain copy of the user's network that carries the posterior means, in eval mode."""
        return self.bnn.net_with(self.posterior.mean())

    def compress(self, data: Data | None = None, *, keep: float | None = None) -> Compressed:
        """Cut the pruned weights out of the network.

        Args:
            data: Data (or a tensor of inputs); on its first 2,048 points the smaller net is
                verified against the masked one.
            keep: See `masks`.

        Raises:
            UnsupportedError: if the network is no chain of layers that can be cut.
            VerificationError: if the smaller net computes something else.
        """
        from pyro_turbovbi.compression import compress

        if data is None:
            raise InvalidArgumentError(
                "compress needs inputs on which the smaller net is verified",
                accepted="the training or test data, or a tensor of inputs",
            )
        inputs = data if isinstance(data, Tensor) else as_tensors(data)[0]
        if not isinstance(inputs, Tensor):
            raise InvalidArgumentError("compress needs a net with one input", given=list(inputs))
        device = next(self.bnn.net.parameters()).device
        return compress(self.mean_net(), self.masks(keep), inputs[:VERIFIED_ROWS].to(device))


Snapshot = Callable[[], Fit]
Callback = Callable[[EpochRecord, Snapshot], None]


def fit(
    bnn: BayesianNet,
    data: Data,
    *,
    engine: AnyEngine | None = None,
    epochs: int = 20,
    seed: int = 0,
    batch_size: int = 128,
    callbacks: Sequence[Callback] = (),
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Fit:
    """Fit a lifted net.

    Args:
        bnn: From `ptv.lift`; it is copied and not changed.
        data: A `DataLoader`, a `Dataset`, or a pair of tensors; batches (x, y), or a dict with the
            key "y".
        engine: `engines.Turbo()` (default), `engines.SVI(...)`, `engines.MAP(...)`, or any
            `engines.Engine`.
        epochs: Passes over the data.
        seed: Seed of everything random; the caller's random state is left as it was.
        batch_size: Data points a step, for a `Dataset` or tensors.
        callbacks: Called after every epoch with its record and a function that gives a `Fit` of
            the present state.
        device: Where to train; default: a GPU if there is one.
        progress: Show a progress bar.

    Returns:
        The `Fit`.

    Raises:
        InvalidArgumentError, InvalidDataError, ShapeError: before any training, if something does
            not fit.
        UnsupportedError: if the engine cannot handle the model.
        NumericalError: if the loss stops being finite.
    """
    engine = engine if engine is not None else Turbo()
    _check_arguments(bnn, engine, epochs)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = copy.deepcopy(bnn).to(place)
    if engine.full_batch:
        batches = as_batches(as_tensors(data), batch_size=_FULL, shuffle=False)
    else:
        batches = as_batches(data, batch_size=batch_size, shuffle=True)
    devices = [place] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        return _Run(model, batches, engine, epochs, place).train(callbacks, progress)


#: More data points than any data set has: one batch.
_FULL = 2**62


class _Run:
    """One training: the state that the loop needs."""

    def __init__(
        self,
        bnn: BayesianNet,
        batches: Batches,
        engine: AnyEngine,
        epochs: int,
        device: torch.device,
    ) -> None:
        self.bnn, self.batches, self.engine, self.device = bnn, batches, engine, device
        self.epochs = epochs
        bnn.num_data = batches.num_data
        example = check_data(bnn, batches, device)
        self.history = History()
        self.started = time.perf_counter()
        plan = Plan(batches.num_data, epochs * len(batches), example)
        with buffers_kept(bnn):
            self.state = engine.init(bnn.train(), plan)

    def train(self, callbacks: Sequence[Callback], progress: bool) -> Fit:
        bar = tqdm(
            total=self.epochs * len(self.batches), disable=not progress, unit="step", leave=False
        )
        with bar:
            for epoch in range(1, self.epochs + 1):
                record = self._epoch(epoch, bar)
                self.history.append(record)
                for callback in callbacks:
                    callback(record, self._snapshot)
                    self.bnn.train()
        seconds = time.perf_counter() - self.started
        self.engine.finish(self.state)
        return self._result(seconds, self._final_elbo())

    def _epoch(self, epoch: int, bar: Any) -> EpochRecord:
        total, rows = 0.0, 0
        bar.set_description(f"{self.engine.name} {epoch}/{self.epochs}")
        for batch in self.batches:
            total += self.engine.step(self.state, self._on_device(batch)) * len(batch.y)
            rows += len(batch.y)
            bar.update()
        density = {
            name: float((probs > 0.5).float().mean())
            for name, probs in _support_probs(self.bnn, self.engine.posterior(self.state)).items()
        }
        loss = total / rows
        bar.set_postfix(elbo=f"{-loss:.4g}", left=f"{_share(density, self.bnn):.2%}")
        return EpochRecord(epoch, loss, time.perf_counter() - self.started, density)

    def _on_device(self, batch: Batch) -> Batch:
        if self.device.type == "cpu":
            return batch
        return Batch((to_device(batch.x, self.device), batch.y.to(self.device, non_blocking=True)))

    def _final_elbo(self) -> float | None:
        if self.engine.elbo_kind(self.state) == "log joint":
            return None
        self.bnn.eval()
        total, rows = 0.0, 0
        for batch in self.batches:
            loss = self.engine.evaluate(self.state, self._on_device(batch))
            total, rows = total + loss * len(batch.y), rows + len(batch.y)
        return -total / rows

    def _snapshot(self) -> Fit:
        return self._result(time.perf_counter() - self.started, None)

    def _result(self, seconds: float, elbo: float | None) -> Fit:
        return Fit(
            bnn=copy.deepcopy(self.bnn).eval(),
            posterior=self.engine.posterior(self.state),
            history=History(self.history),
            engine_name=self.engine.name,
            elbo=elbo,
            elbo_kind=self.engine.elbo_kind(self.state),
            seconds=seconds,
        )


def _check_arguments(bnn: object, engine: object, epochs: int) -> None:
    if not isinstance(bnn, BayesianNet):
        raise InvalidArgumentError(
            "fit needs a lifted net",
            given=type(bnn).__name__,
            accepted="ptv.lift(net, likelihood=..., prior=...)",
        )
    _check_engine(engine)
    if not isinstance(epochs, int) or epochs < 1:
        raise InvalidArgumentError("epochs is out of range", given=epochs, accepted="1, 2, ...")
    if not bnn.sites:
        raise SiteError(
            "no parameter of the net has a prior",
            given=type(bnn.net).__name__,
            accepted="a net with linear, convolution or attention layers, or priors.by_site({name: "
            "prior})",
        )


def _check_engine(engine: object) -> None:
    if isinstance(engine, Engine) and not isinstance(engine, type):
        return
    members = [name for name in vars(Engine) if not name.startswith("_")]
    missing = [name for name in members if not hasattr(engine, name)]
    if isinstance(engine, type) or len(missing) == len(members):
        problem, accepted = "unknown engine", "engines.Turbo(), engines.SVI(), engines.MAP()"
    else:
        problem = f"the engine lacks {', '.join(missing)}"
        accepted = f"an object with {', '.join(members)}"
    raise InvalidArgumentError(problem, given=engine, accepted=accepted)


def _support_probs(bnn: BayesianNet, posterior: Posterior) -> dict[str, Tensor]:
    known = posterior.support_probs() or {}
    device = next(bnn.net.parameters()).device
    return {
        name: known[name] if name in known else torch.ones(site.shape, device=device)
        for name, site in bnn.sites.items()
    }


def _surviving_masks(bnn: BayesianNet, posterior: Posterior) -> dict[str, Tensor]:
    probs, supported = _support_probs(bnn, posterior), posterior.support_probs() or {}
    masks = {name: p > 0.5 for name, p in probs.items()}
    sites = {name: site for name, site in bnn.sites.items() if name not in supported}
    moments = posterior.moments() if sites else {}
    for name, site in sites.items():
        survivors = site.prior.survivors(name, moments)
        if survivors is not None:
            masks[name] = survivors
    return masks


def _share(density: Mapping[str, float], bnn: BayesianNet) -> float:
    sizes = {name: site.shape.numel() for name, site in bnn.sites.items()}
    return sum(density[name] * size for name, size in sizes.items()) / sum(sizes.values())


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
