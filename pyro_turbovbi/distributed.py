"""Training in several processes: each works on its part of every batch, and all know the same.

Every process reads the same batches in the same order, under the same seed, and draws the same
weights. Of a batch it takes its own rows; gradients are added up, so that all take the step that
one process would take with the whole batch. Of message passing each one does some weights, and
tells the others. What is built on top of this stays deterministic and needs no word between them.

`World` is what a process sees of the others. The world of one process alone is the normal case: it
costs nothing there and changes no bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import pyro
import torch
from torch import Tensor
from torch import distributed as dist

from pyro_turbovbi._batch_norm import SharedBatchNorm
from pyro_turbovbi.errors import DistributedError, InvalidArgumentError, TurboVBIError
from pyro_turbovbi.persistence.trees import Tree, join, split

T = TypeVar("T")

#: Seconds that a process waits for the others, unless told otherwise.
TIMEOUT = 1800.0
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Part(NamedTuple):
    """What one process works on of a batch.

    Attributes:
        arguments: The model's arguments, with this process's rows.
        share: What its log-likelihood counts in the whole: its part of the rows.
        divided: False where the batch has fewer rows than there are processes: then each takes all
            of it.
    """

    arguments: tuple[Any, ...]
    share: float
    divided: bool


@dataclass(frozen=True)
class World:
    """The processes that train together, seen from one of them.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        """The processes of `torch.distributed`; one alone where it is not in use.

        Raises:
            DistributedError: if a launcher has started several processes that have not been
                connected: each would do the whole work.
        """
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        if _launched() > 1:
            raise DistributedError(
                "this is one of several processes, and they are not connected",
                given=f"WORLD_SIZE={_launched()}",
                accepted="pyro_turbovbi.distributed.init() before training, or one process",
            )
        return cls()

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def part(self, arguments: tuple[Any, ...]) -> Part:
        """This process's rows of a batch: neighbours, one more or less than others.

        Args:
            arguments: A model's arguments: tensors and dicts of tensors, batch first; anything else
                is passed on.
        """
        rows = next((len(tensor) for tensor in _tensors(arguments)), 0)
        if self.alone or rows < self.size:
            return Part(arguments, 1.0 / self.size, divided=False)
        start, stop = (rows * rank // self.size for rank in (self.rank, self.rank + 1))
        return Part(_rows(arguments, slice(start, stop)), (stop - start) / rows, divided=True)

    @contextmanager
    def apart(self, part: Part, device: torch.device, step: int) -> Iterator[None]:
        """Context in which this process runs a model on its part of a batch.

        The model's own random numbers, those of dropout, are other ones in every process, and those
        that all have in common are afterwards where they were. Batch statistics are those of the
        whole batch. Parameters that a distribution refuses become a loss that is not finite, which
        all processes see, in the place of an error that one of them meets.

        Args:
            part: See `part`.
            device: Where the model runs.
            step: Number of the step.
        """
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), pyro.validation_enabled(False):
            torch.manual_seed((torch.initial_seed() + 1 + step * self.size + self.rank) % 2**63)
            with SharedBatchNorm(self.add if part.divided else None):
                yield

    def add(self, *tensors: Tensor) -> None:
        """Put the sums over all processes in the place of tensors, in one exchange.

        Raises:
            DistributedError: if another process is gone.
        """
        if self.alone:
            return
        with _exchanging():
            if len(tensors) == 1 and tensors[0].is_contiguous():
                dist.all_reduce(tensors[0])
                return
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            dist.all_reduce(flat)
            sums = flat.split([tensor.numel() for tensor in tensors])
            for tensor, total in zip(tensors, sums, strict=True):
                tensor.copy_(total.view(tensor.shape))

    def first_one(self, task: Callable[[], T]) -> T:
        """Let the first process do something, and give its result, or its error, to all of them.

        Args:
            task: What to do; its result must be fit to be pickled.

        Raises:
            TurboVBIError: What `task` raises; in all processes.
            DistributedError: if another process is gone.
        """
        if self.alone:
            return task()
        outcome: list[Any] = [None]
        failed: TurboVBIError | None = None
        if self.first:
            try:
                outcome[0] = task()
            except TurboVBIError as error:
                failed = error
        self.raise_first(failed)
        with _exchanging():
            dist.broadcast_object_list(outcome, src=0)
        result: T = outcome[0]
        return result

    def raise_first(self, error: TurboVBIError | None) -> None:
        """Raise, in all processes, what one of them has met.

        Args:
            error: This process's error; None: nothing has gone wrong here.

        Raises:
            TurboVBIError: the error of the lowest rank, if there is one.
            DistributedError: if another process is gone.
        """
        found: list[Any] = [error]
        if not self.alone:
            found *= self.size
            with _exchanging():
                dist.all_gather_object(found, None if error is None else portable(error))
        for met in found:
            if met is not None:
                raise met

    def told(self, tree: Tree, source: int) -> Tree:
        """Plain data and tensors of one process, for all of them.

        Args:
            tree: See `persistence.trees`; only what `source` gives counts.
            source: Rank of the process that tells.

        Returns:
            The tree; its tensors are copies on the CPU.
        """
        tensors: dict[str, Tensor] = {}
        if self.rank == source:
            tree, tensors = split(tree)
        with _exchanging():
            head: list[Any] = [tree, {name: (t.shape, t.dtype) for name, t in tensors.items()}]
            dist.broadcast_object_list(head, src=source)
            for name, (shape, dtype) in head[1].items():
                tensor = tensors.get(name, torch.empty(shape, dtype=dtype)).to(_device())
                dist.broadcast(tensor, src=source)
                tensors[name] = tensor.cpu()
        return join(head[0], tensors)

    def require_same(self, aspects: Mapping[str, str], accepted: str) -> None:
        """Hold something that must be the same in all processes against theirs.

        Args:
            aspects: Text by what it is about.
            accepted: What would make them the same, for the error.

        Raises:
            DistributedError: in all processes, if they differ; names the aspects.
        """
        if self.alone:
            return
        found: list[Any] = [None] * self.size
        with _exchanging():
            dist.all_gather_object(found, dict(aspects))
        differing = {
            name: rank for rank, other in enumerate(found) for name in other
            if other[name] != found[0].get(name)
        }  # fmt: skip
        if differing:
            raise DistributedError(
                f"the processes are not doing the same training: {', '.join(differing)} differ",
                given=f"process {min(differing.values())} unlike process 0",
                accepted=accepted,
            )

    def owners(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Divide pieces of work among the processes.

        Args:
            sizes: Size of the piece by name.

        Returns:
            Rank of the process that does it, by name: the largest first, each to whoever has least.
        """
        loads = [0] * self.size
        owners = {}
        for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
            rank = loads.index(min(loads))
            owners[name] = rank
            loads[rank] += sizes[name]
        return owners


#: The world of one process: the default everywhere.
ALONE = World()


def init(timeout: float = TIMEOUT) -> World:
    """Connect the processes that `torchrun`, or another launcher, has started.

    With a GPU for each process of this machine, they talk by NCCL, and each takes the GPU of its
    local rank; otherwise by Gloo.

    Args:
        timeout: Seconds that a process waits for the others before it gives up.

    Returns:
        The processes; one alone where none were started, and those that are connected already.

    Raises:
        InvalidArgumentError: if `timeout` is not positive.
        DistributedError: if they cannot be connected, or torch has been built without
            `torch.distributed`.
    """
    if not timeout > 0.0:
        raise InvalidArgumentError(
            "timeout is out of range", given=timeout, accepted="a positive number of seconds"
        )
    if _launched() == 1 or (dist.is_available() and dist.is_initialized()):
        return World.current()
    if not dist.is_available():
        raise DistributedError(
            "this torch cannot connect processes", accepted="a build with torch.distributed"
        )
    local = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
    backend = "gloo"
    if torch.cuda.is_available() and here <= torch.cuda.device_count():
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    wait = timedelta(seconds=timeout)
    c10d: Any = dist  # whose stubs leave these out
    with _exchanging():
        store, rank, size = next(c10d.rendezvous("env://", timeout=wait))
        # torchrun keeps its store: processes started anew must not find addresses of dead ones.
        store = c10d.PrefixStore(f"start-{_restarts()}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
    return World.current()


@contextmanager
def session(timeout: float = TIMEOUT) -> Iterator[World]:
    """Context in which the processes of a launcher are connected; see `init`.

    After an error they stay so until they end: to take leave of a process that is gone takes long.
    """
    before = dist.is_available() and dist.is_initialized()
    world = init(timeout)
    yield world
    if not before and not world.alone:
        dist.destroy_process_group()


def is_first() -> bool:
    """Whether this is the process that is to write and print: the only one, or that of rank 0."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return _launched() == 1 or int(os.environ["RANK"]) == 0


def restarted() -> bool:
    """Whether `torchrun` has started this process anew after one of them had died."""
    return _restarts() > 0


def portable(error: TurboVBIError) -> TurboVBIError:
    """The same error, fit to be sent to another process."""
    given = (
        error.given if error.given is None or isinstance(error.given, str) else repr(error.given)
    )
    accepted = error.accepted
    listed = accepted if accepted is None or isinstance(accepted, str) else list(map(str, accepted))
    new = type(error)(str(error))  # of what it says, an iterator may be used up
    new.problem, new.given, new.accepted = error.problem, given, listed
    return new


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _launched() -> int:
    """Processes that a launcher says it has started."""
    if not all(name in os.environ for name in _LAUNCHED):
        return 1
    return int(os.environ["WORLD_SIZE"])


def _device() -> torch.device:
    """Where tensors lie that are sent: the CPU, unless the processes can talk by NCCL alone."""
    reaches_cpu = "cpu" in str(dist.get_backend_config()) or dist.get_backend() == "gloo"
    return torch.device("cpu" if reaches_cpu else "cuda")


@contextmanager
def _exchanging() -> Iterator[None]:
    """Context of an exchange: that it fails means that another process is gone, or stuck."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        if isinstance(error, TurboVBIError):
            raise
        raise DistributedError(
            "the other processes of this training cannot be reached",
            given=" ".join(str(error).split())[:200],
            accepted="all of them running: what ended or stopped one of them is in its own output",
        ) from error


def _tensors(arguments: tuple[Any, ...]) -> Iterator[Tensor]:
    for argument in arguments:
        if isinstance(argument, Tensor):
            yield argument
        elif isinstance(argument, Mapping):
            yield from _tensors(tuple(argument.values()))


def _rows(arguments: tuple[Any, ...], rows: slice) -> tuple[Any, ...]:
    return tuple(
        argument[rows] if isinstance(argument, Tensor)
        else dict(zip(argument, _rows(tuple(argument.values()), rows), strict=True))
        if isinstance(argument, Mapping) else argument
        for argument in arguments
    )  # fmt: skip


__all__ = [
    "ALONE",
    "TIMEOUT",
    "Part",
    "World",
    "init",
    "is_first",
    "portable",
    "restarted",
    "session",
]
