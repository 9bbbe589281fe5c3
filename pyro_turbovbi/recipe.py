"""A whole training as one file: net, prior, likelihood, engine, data and schedule.

A recipe is plain data and values. Reading one imports and runs nothing that it names; `build` and
`fit` do, so run only recipes whose code you trust.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import torch
from torch import nn

from pyro_turbovbi import data as loaders
from pyro_turbovbi import engines, likelihoods
from pyro_turbovbi._checkpointing import Resume
from pyro_turbovbi.batches import Data
from pyro_turbovbi.data import GatedRecovery, Recovery, Splits, TensorPair
from pyro_turbovbi.engines.protocol import AnyEngine
from pyro_turbovbi.errors import InvalidArgumentError, SpecError
from pyro_turbovbi.fit import Callback, fit
from pyro_turbovbi.lift import BayesianNet, lift
from pyro_turbovbi.likelihoods import Likelihood
from pyro_turbovbi.persistence import Checkpoints
from pyro_turbovbi.priors import Prior, to_spec
from pyro_turbovbi.priors.selection import BySite
from pyro_turbovbi.priors.spec import AnyPrior, vocabulary
from pyro_turbovbi.result import Fit
from pyro_turbovbi.specs.calls import IMPORTED, Call, Function, rebase
from pyro_turbovbi.specs.families import Family, Vocabulary

if TYPE_CHECKING:
    from pyro_turbovbi.specs.documents import Document
    from pyro_turbovbi.specs.schema import Schema

Spec = Mapping[str, Any]


class Ingredients(NamedTuple):
    """What a recipe is made of, built.

    Attributes:
        bnn: The lifted net.
        engine: The engine.
        data: What the loader gave: `data.Splits`, or anything that `ptv.fit` takes.
    """

    bnn: BayesianNet
    engine: AnyEngine
    data: Any

    @property
    def train(self) -> Data:
        """The part of the data to train on."""
        if isinstance(self.data, Splits):
            return self.data.train
        if isinstance(self.data, Recovery | GatedRecovery):
            return TensorPair(self.data.x, self.data.y)
        return self.data


@dataclass(frozen=True)
class Recipe:
    """A whole training, declared.

    Everything of this package is named by `kind`, with its arguments beside it:
    ``{"kind": "Turbo", "lr": 0.004}``. Code of your own is named by `call`, with its arguments
    below: ``{"call": "package.module:factory", "arguments": {...}}`` or
    ``{"call": "models/digits_mlp.py:build"}``. Paths of files, the `path` of data among them,
    are relative to the recipe's file, and to the working directory where a recipe is made in
    Python; they are kept absolute.

    Args:
        net: A call that gives a `torch.nn.Module` or a lifted net.
        data: `kind` of a loader of `pyro_turbovbi.data`, or a call that gives `data.Splits` or
            whatever `ptv.fit` trains on.
        engine: `kind` of an engine, or a call.
        likelihood: `kind` of a likelihood, or a call. None: that of the lifted net.
        prior: A prior or a selection by site. None: that of the lifted net.
        epochs: Passes over the data.
        batch_size: Data points a step.
        seed: Seed of the net's start values and of the training. (A loader has its own.)

    Raises:
        SpecError: An `InvalidArgumentError`, if something is wrong; names the key and, in a file,
            its line.
    """

    net: Spec
    data: Spec
    engine: Spec = field(default_factory=lambda: {"kind": "Turbo"})
    likelihood: Spec | None = None
    prior: Prior | BySite | None = None
    epochs: int = 20
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        from pyro_turbovbi.specs.documents import Document

        for name in ("net", "data", "engine", "likelihood"):
            object.__setattr__(self, name, rebase(getattr(self, name), os.path.abspath))
        object.__setattr__(self, "data", _with_file(self.data, os.path.abspath))
        _parse(Document(self.to_spec()))

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Recipe:
        """Make a recipe from a dictionary of plain data, as a file has it.

        Raises:
            SpecError: See `Recipe`.
        """
        from pyro_turbovbi.specs.documents import Document

        return cls._of(Document(spec))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        changes: Mapping[tuple[str | int, ...], Any] | None = None,
    ) -> Recipe:
        """Read a recipe from a YAML or TOML file. Nothing that it names is imported or run.

        Args:
            path: The file.
            changes: Values that take the place of the file's, by the way to them:
                ``{("engine", "lr"): 0.004}``.

        Raises:
            SpecError: See `Recipe`; also if the file cannot be read.
        """
        from pyro_turbovbi.specs.changes import changed
        from pyro_turbovbi.specs.documents import read

        document = changed(read(path), changes or {})
        folder = Path(path).parent
        moved = _rebased(document.data, lambda file: os.path.abspath(folder / file))
        return cls._of(dataclasses.replace(document, data=moved))

    @classmethod
    def _of(cls, document: Document) -> Recipe:
        parts = _parse(document)
        return cls(**{**document.data, "prior": parts.prior})

    def to_spec(self) -> dict[str, Any]:
        """The recipe as plain data; what is None is left out."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.prior is not None:
            given["prior"] = to_spec(self.prior)
        return {name: value for name, value in given.items() if value is not None}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a YAML or TOML file, by its suffix, from which `load` makes an equal recipe.

        Files of code are named relative to it.

        Raises:
            SpecError: If the file cannot be written, or an argument is None and the file TOML,
                which has no null.
        """
        from pyro_turbovbi.specs.documents import write

        folder = os.path.abspath(Path(path).parent)
        write(path, _rebased(self.to_spec(), lambda file: _relative(file, folder)))

    def build(self) -> Ingredients:
        """Import the code that the recipe names, make the net and the engine and load the data.

        Raises:
            SpecError: If code is not there, does not take its arguments or gives something else
                than it should; or if the net is not lifted and a likelihood is missing.
        """
        return Ingredients(*self.build_model(), self.build_data())

    def build_model(self) -> tuple[BayesianNet, AnyEngine]:
        """Import the code that the recipe names and make the net and the engine, without data.

        Raises:
            SpecError: See `build`.
        """
        from pyro_turbovbi.specs.documents import Document

        parts = _parse(Document(self.to_spec()))
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            net = parts.net.build()
        likelihood = None if parts.likelihood is None else parts.likelihood.build()
        return _lifted(net, likelihood, self), parts.engine.build()

    def build_data(self) -> Any:
        """Load the data alone; see `Ingredients.data`.

        Raises:
            SpecError: If code is not there, or does not take its arguments.
        """
        from pyro_turbovbi.specs.documents import Document

        return _parse(Document(self.to_spec())).data.build()

    def fit(
        self,
        ingredients: Ingredients | None = None,
        *,
        callbacks: Sequence[Callback] = (),
        device: torch.device | str | None = None,
        progress: bool = True,
        checkpoint: str | os.PathLike[str] | Checkpoints | None = None,
        checkpoint_every: int = 1,
        resume: Resume = "auto",
    ) -> Fit:
        """Build everything and train.

        Args:
            ingredients: From `build`, where you want to have them at hand; None builds them.
            callbacks: See `ptv.fit`.
            device: See `ptv.fit`.
            progress: See `ptv.fit`.
            checkpoint: See `ptv.fit`.
            checkpoint_every: See `ptv.fit`.
            resume: See `ptv.fit`.

        Raises:
            SpecError: If the data say that targets are classes, and likelihood or net do not fit
                them.
            TurboVBIError: See `build` and `ptv.fit`.
        """
        made = self.build() if ingredients is None else ingredients
        _check_classes(made, self)
        return fit(
            made.bnn,
            made.train,
            engine=made.engine,
            epochs=self.epochs,
            seed=self.seed,
            batch_size=self.batch_size,
            callbacks=callbacks,
            device=device,
            progress=progress,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            resume=resume,
        )


@dataclass(frozen=True)
class _Deferred:
    """A member of a family with validated arguments, made when it is needed."""

    member: Callable[..., Any]
    arguments: Mapping[str, Any]

    def build(self) -> Any:
        arguments = {
            name: value.build() if isinstance(value, Call | Function) else value
            for name, value in self.arguments.items()
        }
        return self.member(**arguments)


def _defer(member: Callable[..., Any], arguments: dict[str, Any]) -> _Deferred | Call:
    if member is Call:
        return Call(**arguments)
    if isinstance(member, type):
        # A trial tells what is out of range; code of the user's own takes no part in it.
        plain = {n: v for n, v in arguments.items() if not isinstance(v, Call | Function)}
        member(**plain)
    return _Deferred(member, arguments)


class _Parts(NamedTuple):
    net: Call
    data: _Deferred | Call
    engine: _Deferred | Call
    likelihood: _Deferred | Call | None
    prior: Prior | BySite | None


# What annotates the choices in a recipe.
_Net = Annotated[Any, "net"]
_Data = Annotated[Any, "data"]
_Engine = Annotated[Any, "engine"]
_Likelihood = Annotated[Any, "likelihood"]


def _recipe(
    net: _Net,
    data: _Data,
    engine: _Engine = None,
    likelihood: _Likelihood | None = None,
    prior: AnyPrior | None = None,
    epochs: int = 1,
    batch_size: int = 1,
    seed: int = 0,
) -> _Parts:
    for name, number in (("epochs", epochs), ("batch_size", batch_size)):
        if number < 1:
            raise InvalidArgumentError(
                f"{name} is out of range", given=number, accepted="1, 2, ..."
            )
    if not -(2**63) <= seed < 2**63:
        raise InvalidArgumentError("seed is out of range", given=seed, accepted="64-bit integers")
    return _Parts(net, data, engine, likelihood, prior)


@functools.cache
def _schema() -> Schema:
    from pyro_turbovbi.specs.schema import Schema

    def family(noun: str, members: Mapping[str, Callable[..., Any]]) -> Family:
        return Family(noun, members, implied={"call": Call}, make=_defer)

    known = vocabulary()
    choices = {
        _Net: family("a network", {}),
        _Data: family("data", _exported(loaders, _is_loader)),
        _Engine: family("an engine", _exported(engines, _is_engine)),
        _Likelihood: family("a likelihood", _likelihoods()),
    }
    families = {**known.families, **choices}
    return Schema(_recipe, Vocabulary(families, known.adapters, fallback=IMPORTED))


def _parse(document: Document) -> _Parts:
    parts: _Parts = _schema().check(document)
    return parts


def _exported(module: Any, wanted: Callable[[Any], bool]) -> dict[str, Callable[..., Any]]:
    exported = {name: getattr(module, name) for name in module.__all__}
    return {name: value for name, value in exported.items() if wanted(value)}


def _is_loader(value: Any) -> bool:
    return inspect.isfunction(value) and value not in (loaders.augment, loaders.download)


def _is_engine(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and hasattr(value, "init") and hasattr(value, "step")


def _likelihoods() -> dict[str, Callable[..., Any]]:
    classes = {n: c for n, c in vars(likelihoods).items() if isinstance(c, type)}
    return {
        name: c
        for name, c in classes.items()
        if issubclass(c, Likelihood) and not inspect.isabstract(c)
    }


def _rebased(spec: Any, move: Callable[[str], str]) -> Any:
    """A specification with the path of every file in it replaced."""
    moved = rebase(spec, move)
    if isinstance(moved, Mapping) and "data" in moved:
        return {**moved, "data": _with_file(moved["data"], move)}
    return moved


def _with_file(data: Any, move: Callable[[str], str]) -> Any:
    """Loaders of files have the file as `path`."""
    if isinstance(data, Mapping) and "kind" in data and isinstance(data.get("path"), str):
        return {**data, "path": move(data["path"])}
    return data


def _relative(file: str, folder: str) -> str:
    try:
        return Path(os.path.relpath(file, folder)).as_posix()
    except ValueError:  # another drive
        return file


def _lifted(net: Any, likelihood: Any, recipe: Recipe) -> BayesianNet:
    """The recipe's likelihood and prior on a plain net; on a lifted one, where they are given."""
    address = recipe.net["call"]
    if not isinstance(net, nn.Module):
        accepted = "a torch.nn.Module, or a net that ptv.lift gave"
        raise SpecError(f"{address} gives no network", given=type(net).__name__, accepted=accepted)
    if likelihood is not None and not isinstance(likelihood, Likelihood):
        raise SpecError("this is no likelihood", given=likelihood, accepted=_likelihoods())
    if isinstance(net, BayesianNet):
        prior = net.prior if recipe.prior is None else recipe.prior
        return lift(net.net, likelihood=likelihood or net.likelihood, prior=prior)
    if likelihood is None or recipe.prior is None:
        missing = [name for name in ("likelihood", "prior") if getattr(recipe, name) is None]
        raise SpecError(
            f"{address} gives a plain network, and the recipe has no {' and no '.join(missing)}",
            accepted="both in the recipe, or a call that gives a lifted net",
        )
    return lift(net, likelihood=likelihood, prior=recipe.prior)


def _check_classes(made: Ingredients, recipe: Recipe) -> None:
    """Refuses to train on the numbers of classes as if they were amounts, or with few outputs."""
    classes = made.data.classes if isinstance(made.data, Splits) else None
    if classes is None:
        return
    likelihood = made.bnn.likelihood
    binary = likelihood.kind == "classification" and len(classes) == 2
    if binary and not isinstance(likelihood, likelihoods.Categorical):
        return
    outputs = _num_outputs(made)
    few = outputs is not None and outputs < len(classes)
    if isinstance(likelihood, likelihoods.Categorical):
        problem = "the network has fewer outputs than there are classes" if few else ""
    elif likelihood.kind == "classification" and isinstance(likelihood, likelihoods.Bernoulli):
        problem = "Bernoulli is for two classes"
    elif likelihood.kind != "classification":
        problem = f"the targets are classes, which {type(likelihood).__name__} takes for amounts"
    else:
        problem = ""  # a likelihood of the user's own
    if problem:
        shown = ", ".join(classes[:5]) + (", ..." if len(classes) > 5 else "")
        given = f"{len(classes)} classes ({shown})"
        raise SpecError(
            problem,
            given=given if outputs is None else f"{given}, outputs: {outputs}",
            accepted=_lines_for_classes(recipe, len(classes), few=few),
        )


def _lines_for_classes(recipe: Recipe, classes: int, *, few: bool) -> str:
    """What to write into the recipe."""
    arguments = recipe.net.get("arguments")
    by_name = isinstance(arguments, Mapping) and "outputs" in arguments
    outputs = f"net.arguments.outputs: {classes}" if by_name else f"a net with {classes} outputs"
    kind = (recipe.likelihood or {}).get("kind")
    lines = [] if kind == "Categorical" else ["likelihood: {kind: Categorical}"]
    text = " and ".join([*lines, *([outputs] if few else [])]) + " in the recipe"
    if recipe.data.get("classes") is True:
        return f"{text}; or data without classes: true, if the target is an amount"
    return text


@torch.no_grad()
def _num_outputs(made: Ingredients) -> int | None:
    """Outputs of the net a data point; None if it cannot tell, which `ptv.fit` says in words."""
    bnn, x = made.bnn, made.train[0]
    training = bnn.training
    bnn.eval()
    try:
        output = bnn.output({}, x[:1])
    except Exception:
        return None
    finally:
        bnn.train(training)
    return int(output.shape[-1]) if isinstance(output, torch.Tensor) and output.dim() > 1 else 1
