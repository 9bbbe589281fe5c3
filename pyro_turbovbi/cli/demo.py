"""The demo: one network, four ways to fit it, and what is left of it afterwards."""

from __future__ import annotations

import importlib.util
import io
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pyro_turbovbi import data, engines, likelihoods, priors, supports
from pyro_turbovbi.cli._demo_words import (
    INDEPENDENT,
    MAP,
    MARKOV,
    PICTURES,
    SVI,
    artifact,
    beginning,
    results,
    wrote,
)
from pyro_turbovbi.cli.interruption import on_interrupt
from pyro_turbovbi.compression import Compressed, load
from pyro_turbovbi.data import Splits, TensorPair
from pyro_turbovbi.diagnostics import Comparison, compare, error_rate, plots
from pyro_turbovbi.diagnostics.comparison import TOLERANCE
from pyro_turbovbi.errors import InvalidArgumentError, UnsupportedError
from pyro_turbovbi.fit import fit_all
from pyro_turbovbi.lift import lift
from pyro_turbovbi.persistence.files import write_atomically
from pyro_turbovbi.result import Fit

if TYPE_CHECKING:
    import matplotlib.figure

FIRST_LAYER = "0.weight"
_PACKAGES = ("constriction", "matplotlib", "sklearn")


@dataclass(frozen=True)
class Recipe:
    """Settings of the demo on one data set.

    Attributes:
        load: Loads the data for a seed.
        widths: Units of every layer, inputs first and outputs last.
        epochs: Passes over the data.
        batch_size: Points a step.
        kl_weight: Weight of Turbo's KL term.
        prior_scale: Standard deviation of the Gaussian prior of MAP and SVI.
        svi_lr: Step of SVI's Adam.
        image_width: Width of the images in pixels.
        threads: Threads to train with. One is as fast as two on a small network, and far faster
            where another process has the second processor. None leaves it to torch.
    """

    load: Callable[[int], Splits]
    widths: tuple[int, ...]
    epochs: int
    batch_size: int
    kl_weight: float
    prior_scale: float
    svi_lr: float
    image_width: int
    threads: int | None = None


RECIPES: Mapping[str, Recipe] = {
    "digits": Recipe(
        load=data.digits,
        widths=(64, 300, 100, 10),
        epochs=60,
        batch_size=32,
        kl_weight=0.1,
        prior_scale=0.3,
        svi_lr=5e-3,
        image_width=8,
        threads=1,
    ),
    "mnist": Recipe(
        load=lambda seed: data.mnist(seed=seed),
        widths=(784, 300, 100, 10),
        epochs=15,
        batch_size=128,
        kl_weight=0.2,
        prior_scale=0.1,
        svi_lr=1e-3,
        image_width=28,
    ),
}


def run_demo(
    name: str = "digits",
    out: Path = Path("demo_output"),
    *,
    epochs: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Fits one network by MAP, SVI and Turbo-VBI, compares the fits and compresses the last.

    Prints what matters of the comparison, in words for newcomers, and writes to `out`: all of it as
    text and as JSON, pictures of supports and training, and the compressed network, its weights
    rounded as far as the validation data tolerate.

    Args:
        name: The data set: `"digits"` or `"mnist"`.
        out: Directory to write to; made if it is missing.
        epochs: Passes over the data; None takes the data set's recipe.
        seed: Seed of the split, the start and the training.

    Returns:
        The comparison on the test set.

    Raises:
        DataNotFoundError: If the data set is not on this machine.
        InvalidArgumentError: If the data set is unknown, `epochs` is not positive, or `out` cannot
            be a directory.
        UnsupportedError: If a package that only the demo needs is missing.
    """
    if name not in RECIPES:
        raise InvalidArgumentError("unknown data set", given=name, accepted=sorted(RECIPES))
    _check_packages()
    _make_directory(out)
    recipe = RECIPES[name]
    splits = recipe.load(seed)
    with _threads(recipe.threads):
        fits = _fit_all(recipe, splits, recipe.epochs if epochs is None else epochs, seed)
        comparison = compare(fits, splits.test, validation=splits.validation, seed=seed)
    kept = f"the files in {out} are complete, but not all; the same command writes all of them"
    with on_interrupt(lambda: kept):
        _write(fits, comparison, splits, recipe, out)
    return comparison


def _write(
    fits: Mapping[str, Fit], comparison: Comparison, splits: Splits, recipe: Recipe, out: Path
) -> None:
    for suffix, text in (("txt", str(comparison)), ("json", comparison.to_json())):
        write_atomically(out / f"comparison.{suffix}", f"{text}\n".encode())
    compressed = {name: fits[name].compress(splits.validation) for name in (INDEPENDENT, MARKOV)}
    rough = compressed[MARKOV].quantise(splits.validation, tolerance=TOLERANCE)
    print(results(comparison, len(splits.test.x), rough.report.bytes_dense))
    print(wrote(out / "comparison.txt", "all measures, for experts; comparison.json: for programs"))
    _write_pictures(fits, compressed, comparison, recipe, out)
    _check_artifact(rough, splits.test, out / "net.ptv")


def _fit_all(recipe: Recipe, splits: Splits, epochs: int, seed: int) -> dict[str, Fit]:
    gaussian = priors.Normal(scale=recipe.prior_scale)
    turbo = engines.Turbo(kl_weight=recipe.kl_weight)
    plan: dict[str, tuple[priors.Prior, engines.Engine[Any]]] = {
        MAP: (gaussian, engines.MAP()),
        SVI: (gaussian, engines.SVI(guide="auto_normal", lr=recipe.svi_lr)),
        INDEPENDENT: (priors.ThreeLayer(support=supports.Independent()), turbo),
        MARKOV: (priors.ThreeLayer(support=supports.Chain(mean_run=10.0)), turbo),
    }
    bnn = lift(_mlp(recipe.widths, seed), likelihood=likelihoods.Categorical(), prior=gaussian)
    print(beginning(splits, recipe.widths, epochs), flush=True)
    return fit_all(
        plan,
        bnn,
        splits.train,
        epochs=epochs,
        seed=seed,
        batch_size=recipe.batch_size,
    )


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Runs with a number of threads; None leaves it to torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _mlp(widths: tuple[int, ...], seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def _write_pictures(
    fits: Mapping[str, Fit],
    compressed: Mapping[str, Compressed],
    comparison: Comparison,
    recipe: Recipe,
    out: Path,
) -> None:
    trained = {name: fits[name].support_probs()[FIRST_LAYER] for name in compressed}
    ticks = recipe.image_width * max(1, recipe.widths[0] // recipe.image_width // 14)
    _save(
        plots.support_before_after(
            {
                name: (torch.ones_like(probs), probs, compressed[name].masks[FIRST_LAYER])
                for name, probs in trained.items()
            },
            labels=("start", "trained", "cut"),
            heading="First layer: before training, after training, after cutting",
            xlabel="input pixel",
            ylabel="hidden unit",
        ),
        out / "support_before_after.png",
    )
    _save(
        plots.support_matrices(
            trained,
            xlabel="input pixel",
            ylabel="hidden unit",
            column_ticks=ticks,
            heading="First layer: which weights stay",
        ),
        out / "support_side_by_side.png",
    )
    curves = {
        f"{name} ({each.elbo_kind})": each.history.elbo
        for name, each in fits.items()
        if each.elbo is not None
    }
    _save(plots.elbo_curves(curves), out / "elbo.png")
    _save(comparison.plot(), out / "error_against_size.png")


def _save(figure: matplotlib.figure.Figure, path: Path) -> None:
    content = io.BytesIO()
    figure.savefig(content)
    write_atomically(path, content.getvalue())
    print(wrote(path, PICTURES[path.name]))


def _check_artifact(compressed: Compressed, test: TensorPair, path: Path) -> None:
    """Saves the compressed network, loads it again and says what the loaded one achieves."""
    size = compressed.save(path)
    with torch.no_grad():
        error = error_rate(load(path)(test.x), test.y)
    print(artifact(path, size, compressed.report, error))


def _make_directory(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgumentError(
            "the output directory cannot be made",
            given=f"{out} ({error.strerror})",
            accepted="a directory that exists or can be made",
        ) from error


def _check_packages() -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            "the demo needs packages that are not installed",
            given=", ".join(missing),
            accepted='an installation with the extra "demo": pip install "pyro-turbovbi[demo]"',
        )
