"""`fit`: the one training loop, for every engine."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from numbers import Integral

import torch

from pyro_turbovbi._checkpointing import Keeper, Resume
from pyro_turbovbi._compiling import Compiler
from pyro_turbovbi._run import Callback, Run, Snapshot
from pyro_turbovbi.batches import Data, as_batches, in_one_batch
from pyro_turbovbi.checks import check_compiles
from pyro_turbovbi.distributed import World
from pyro_turbovbi.engines.protocol import AnyEngine, Engine
from pyro_turbovbi.engines.turbo import Turbo
from pyro_turbovbi.errors import InvalidArgumentError, SiteError, UnsupportedError
from pyro_turbovbi.guards import check_supports
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.persistence.checkpoints import Checkpoints
from pyro_turbovbi.priors.base import Prior
from pyro_turbovbi.priors.selection import BySite
from pyro_turbovbi.result import Fit


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
    autocast: torch.dtype | None = None,
    compile: Compiler | None = None,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | Checkpoints | None = None,
    checkpoint_every: int = 1,
    resume: Resume = "auto",
) -> Fit:
    """Fit a lifted net.

    Where `torch.distributed` is in use, all of its processes train one net together: each calls
    `fit` with the same arguments, works on its part of every batch, and gets the same `Fit`. The
    first one alone writes checkpoints and shows the bar. See `pyro_turbovbi.distributed`.

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
        autocast: ``torch.bfloat16`` runs the net in mixed precision (`torch.autocast`), which is
            faster on a GPU; posterior, messages and losses stay in single precision, and so does
            the net of the result. Default: single precision throughout.
        compile: What compiles the net for its training steps: `torch.compile`, with settings
            ``functools.partial(torch.compile, mode="reduce-overhead")`` (CUDA graphs). Compiling
            takes a minute or more, which a long training on a GPU may earn back; on a CPU it rarely
            does. What compaction has narrowed, and the net of the result, are not compiled.
            Default: nothing is.
        progress: Show a progress bar, where the error stream is a terminal or a notebook's.
        checkpoint: A directory for checkpoints of this training, or `Checkpoints` to say more;
            None: none. A training that was interrupted, however, goes on from the last one, and on
            the CPU ends with the same bits as one that was not.
        checkpoint_every: Epochs between two checkpoints.
        resume: What to do with checkpoints that are there. "auto": go on from the newest one, and
            start where there is none. True: go on; there must be one. False: start; there must be
            none. "best": no training at all, but the result of the best one.

    Returns:
        The `Fit`.

    Raises:
        InvalidArgumentError, InvalidDataError, ShapeError: before any training, if something does
            not fit.
        UnsupportedError: if the engine cannot handle the model, cannot be resumed and is to be, or
            is to train in several processes and cannot; or if the net is to be compiled and cannot.
        CheckpointError: if no checkpoint is intact, those there are belong to another training, or
            do not fit `resume`.
        StorageError: if the first checkpoint cannot be written. (A later one that cannot is a
            `CheckpointWarning`, and the training goes on.)
        DistributedError: if other processes of this training are gone, or do another one.
        NumericalError: if a loss, a gradient or a message stops being finite, also after a return
            to the last good state with a tenth of the learning rate, which is a `TrainingWarning`.

    Warns:
        TrainingWarning: if inputs or real targets are far from unit variance, a layer has lost all
            its weights and the net is the worse for it, or a large one has kept nearly all of them
            against its prior.
    """
    engine = engine if engine is not None else Turbo()
    _check_arguments(bnn, engine, epochs)
    _check_seed(seed)
    _check_autocast(autocast)
    world = World.current()
    _check_world(world, engine)
    _check_compiler(compile, world)
    keeper = _keeper(checkpoint, checkpoint_every, resume, world)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = copy.deepcopy(bnn).to(place)
    model.autocast = autocast
    devices = [place] if place.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        if engine.full_batch:  # a loader draws from the random state when it is read
            batches = in_one_batch(data)
        else:
            batches = as_batches(data, batch_size=batch_size, shuffle=True)
        run = Run(model, batches, engine, int(epochs), place, int(seed), world)
        model.compiler = compile  # from here on: what came before were checks
        if keeper is not None:
            keeper.begin(run, resume)
        if resume == "best":
            result = run.conclude()
        else:
            check_compiles(model, run.example)
            result = run.train(callbacks, progress, keeper)
    if world.first:
        check_supports(result, run.example, run.steps_done)
    return result


def fit_all(
    plan: Mapping[str, tuple[Prior | BySite, AnyEngine]],
    bnn: BayesianNet,
    data: Data,
    *,
    epochs: int = 20,
    seed: int = 0,
    batch_size: int = 128,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> dict[str, Fit]:
    """Fit one net under several priors and engines, everything else being equal.

    Args:
        plan: Pairs (prior, engine) by the name that the fit gets.
        bnn: From `ptv.lift`; its own prior does not count, its weights are where all fits start.
        data: See `fit`, as all that follow.
        epochs: Passes over the data.
        seed: Seed of everything random, the order of the data among it.
        batch_size: Data points a step; engines that need all data at once get all.
        device: Where to train.
        progress: Show a progress bar, where the error stream is a terminal or a notebook's.

    Returns:
        The fits by name, ready for `ptv.compare`.

    Raises:
        InvalidArgumentError, InvalidDataError, ShapeError, UnsupportedError, NumericalError: as
            `fit`.
        SiteError: before any training, if a prior matches no parameter of the net.
    """
    models = {name: bnn.with_prior(prior) for name, (prior, _) in plan.items()}
    for name, (_, engine) in plan.items():
        _check_arguments(models[name], engine, epochs)
    return {
        name: fit(
            models[name],
            data,
            engine=engine,
            epochs=epochs,
            seed=seed,
            batch_size=batch_size,
            device=device,
            progress=progress,
        )
        for name, (_, engine) in plan.items()
    }


def _keeper(
    checkpoint: str | os.PathLike[str] | Checkpoints | None,
    every: int,
    resume: Resume,
    world: World,
) -> Keeper | None:
    if checkpoint is None:
        if resume in (True, "best"):
            raise InvalidArgumentError(
                "there is nothing to resume from",
                given=f"resume={resume!r}, checkpoint=None",
                accepted="the directory of an interrupted training as checkpoint",
            )
        return None
    settings = checkpoint if isinstance(checkpoint, Checkpoints) else Checkpoints(checkpoint)
    return Keeper(settings, every, world)


def _check_arguments(bnn: object, engine: object, epochs: int) -> None:
    if not isinstance(bnn, BayesianNet):
        raise InvalidArgumentError(
            "fit needs a lifted net",
            given=type(bnn).__name__,
            accepted="ptv.lift(net, likelihood=..., prior=...)",
        )
    _check_engine(engine)
    if not isinstance(epochs, Integral) or epochs < 1:
        raise InvalidArgumentError(
            "epochs is out of range", given=repr(epochs), accepted="1, 2, ..."
        )
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


def _check_world(world: World, engine: AnyEngine) -> None:
    if not world.alone and not getattr(engine, "distributed", False):
        raise UnsupportedError(
            f"engine {engine.name!r} cannot train in several processes",
            given=f"{world.size} processes",
            accepted='engines.Turbo() with weights="diagonal", or one process',
        )


def _check_seed(seed: object) -> None:
    # as torch.manual_seed takes them: negative ones stand for their complement
    if not isinstance(seed, Integral) or not -(2**63) <= int(seed) < 2**64:
        raise InvalidArgumentError(
            "seed is no whole number of 64 bits", given=repr(seed), accepted="0, 1, 2, ..."
        )


def _check_autocast(autocast: object) -> None:
    # half precision would need its gradients scaled
    if autocast not in (None, torch.bfloat16):
        raise InvalidArgumentError(
            "autocast is no type that training can use",
            given=autocast,
            accepted="torch.bfloat16, or None",
        )


def _check_compiler(compiler: object, world: World) -> None:
    if compiler is not None and not callable(compiler):
        raise InvalidArgumentError(
            "compile is no function that compiles",
            given=repr(compiler),
            accepted="torch.compile, functools.partial(torch.compile, ...), or None",
        )
    if compiler is not None and not world.alone:  # batch statistics are added up within the net
        raise UnsupportedError(
            "nets are not compiled in several processes",
            given=f"{world.size} processes and compile",
            accepted="compile=None, or one process",
        )


__all__ = ["Callback", "Snapshot", "fit", "fit_all"]
