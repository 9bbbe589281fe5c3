"""What an engine of `ptv.fit` is: init, step, posterior."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from pyro_turbovbi.batches import Batch
from pyro_turbovbi.distributed import ALONE, World
from pyro_turbovbi.lift import BayesianNet
from pyro_turbovbi.posterior import Posterior

State = TypeVar("State")


@dataclass(frozen=True)
class Plan:
    """What an engine may know before training.

    Attributes:
        num_data: Size N of the data set; batch log-likelihoods are scaled by N / batch.
        num_steps: Steps that will be taken; schedules span them.
        example: One batch, on the model's device.
        world: The processes that train together.
    """

    num_data: int
    num_steps: int
    example: Batch
    world: World = ALONE


@runtime_checkable
class Engine(Protocol[State]):
    """An inference algorithm. Engines hold settings only; all that changes lives in the state.

    Attributes:
        name: Short name for tables.
        full_batch: True where every step needs the whole data set as its batch.

    An engine for several processes has one attribute more, `distributed`, which is True. `step` and
    `evaluate` are then given the whole batch in every process; the engine takes its part of it, and
    must give the same loss in all of them. See `World`.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def full_batch(self) -> bool: ...  # noqa: D102

    def init(self, bnn: BayesianNet, plan: Plan) -> State:
        """Build the state; all parameters exist afterwards.

        Raises:
            UnsupportedError: if the engine cannot handle the model; the message names alternatives.
        """

    def step(self, state: State, batch: Batch) -> float:
        """Take one step on a batch; return the (unbiased estimate of the) loss, -ELBO, in nats."""

    def evaluate(self, state: State, batch: Batch) -> float:
        """Estimate the loss on a batch without changing anything."""

    def finish(self, state: State) -> None:
        """Called once, after the last step and before the final `evaluate` and `posterior`."""

    def posterior(self, state: State) -> Posterior:
        """The posterior reached so far."""

    def elbo_kind(self, state: State) -> str:
        """What the loss is the negative of: "Bethe", "bound" or "log joint"."""


@runtime_checkable
class Resumable(Protocol):
    """A state that can be stored and taken up again: what checkpoints of `fit` ask for.

    What `Engine.init` makes anew from the same arguments need not be in it, nor the lifted net's
    own parameters and buffers.
    """

    def state_dict(self) -> dict[str, Any]:
        """All that training has changed: nested plain data and tensors, see `persistence.trees`.

        The tensors are the ones in use, no copies.

        Raises:
            UnsupportedError: if something in it cannot be stored.
        """

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, bit for bit; tensors are copied."""

    def scale_lr(self, factor: float) -> bool:
        """Multiply all learning rates from now on; False where they are not the engine's own."""


AnyEngine = Engine[Any]
