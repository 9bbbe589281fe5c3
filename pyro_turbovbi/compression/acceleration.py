"""A faster way to compute a cut network, chosen by measured time: layout of images, kernels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain, pairwise
from statistics import median

import torch
from torch import Tensor, nn

from pyro_turbovbi.compression.kernel_choice import DENSE, KernelChoice, Timer, beats, choose
from pyro_turbovbi.compression.layers import InputSelect
from pyro_turbovbi.compression.linear_chains import LinearChain, runs_in
from pyro_turbovbi.compression.measure import timings_of
from pyro_turbovbi.compression.memory_layout import (
    CHANNELS_LAST,
    CONTIGUOUS,
    ChannelsLast,
    channels_last,
    has_images,
)
from pyro_turbovbi.compression.verification import BATCH, check_inputs, verify
from pyro_turbovbi.errors import InvalidArgumentError, ShapeError


@dataclass(frozen=True)
class Acceleration:
    """What choosing kernels achieved, on this machine and for one size of batches.

    Attributes:
        layers: The kernel of every `nn.Linear`, by its name in the network, and why.
        batch_size: Number of inputs in the batch that was timed.
        latency: Median seconds of that batch through the accelerated network.
        latency_ordinary: The same of the network with its ordinary layers; the two took turns.
        max_error: Largest deviation between the two in double precision, relative to the largest
            output.
        layout: How images lie in memory: `"contiguous"` or `"channels last"`.
    """

    layers: Mapping[str, KernelChoice]
    batch_size: int
    latency: float
    latency_ordinary: float
    max_error: float
    layout: str = CONTIGUOUS

    def to_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """The time of the whole network, and one line for every layer."""
        lines = [
            f"kernels for batches of {self.batch_size}: {self.latency_ordinary * 1e3:.3f} ms with "
            f"ordinary layers, {self.latency * 1e3:.3f} ms with these"
        ]
        if self.layout != CONTIGUOUS:
            lines.append(f"  images: {self.layout}")
        return "\n".join(lines + [f"  {name}: {how}" for name, how in self.layers.items()])


@dataclass(frozen=True, eq=False)
class Accelerated:
    """A network that is computed in the way that was measured to be fastest.

    Attributes:
        module: The network, in evaluation mode, for inference. It cannot be saved by `save` or
            trained: keep the one that it was made of.
        report: Which layout and kernels, and how much faster.
    """

    module: nn.Module
    report: Acceleration

    def __repr__(self) -> str:
        """The report."""
        return f"Accelerated\n{self.report}"


def accelerate(
    module: nn.Module, inputs: Tensor, *, batch_size: int = BATCH, timer: Timer = timings_of
) -> Accelerated:
    """Chooses the fastest layout of images, and kernel for every linear layer that has zeros left.

    Networks for images are first tried with all channels of a pixel together in memory.

    The linear layers are taken in the order in which they are registered, and each is timed on what
    it is given inside the network, with the layers before it already replaced. A layer stays an
    `nn.Linear` unless another kernel is clearly faster (see `kernel_choice.choose`); also if it has
    hooks, the network's own code needs one, or the network as a whole would not be faster. All
    other layers stay as they are.

    The choice holds for this machine, its number of threads, and batches of this size.

    Args:
        module: Any network with one input, such as `load` returns; it is not touched.
        inputs: Inputs to check on, shape (points, ...); repeated or cut to one batch for timing.
        batch_size: Number of inputs that the network will be given at once.
        timer: How candidates are timed.

    Returns:
        The accelerated network and what was measured.

    Raises:
        VerificationError: If it deviates by more than 1e-5 of the largest output.
        ShapeError: If the network cannot be applied to the inputs.
        InvalidDataError, InvalidArgumentError: If the inputs or the batch size are unusable.
    """
    check_inputs(inputs)
    ordinary = copy.deepcopy(module).eval()
    inputs = inputs.to(_device_of(ordinary))
    batch = _batch(inputs, batch_size)
    problem = _problem(ordinary, batch)
    if problem is not None:
        raise ShapeError(
            f"the network cannot be applied to the inputs: {problem}",
            given=f"shape {tuple(batch.shape)}, {batch.dtype}",
            accepted="inputs of the shape and type that the network takes",
        )
    laid_out = _laid_out(ordinary, batch, timer)
    images = batch if laid_out is None else channels_last(batch)
    inner = copy.deepcopy(ordinary) if laid_out is None else laid_out.net
    # In a container, so that a network that is a linear layer itself is replaced like any other.
    holder = nn.Sequential(inner)
    layers = {
        name: _replaced(holder, layer, images, timer)
        for name, layer in list(inner.named_modules())
        if type(layer) is nn.Linear
    }
    _join(holder, layers, images, timer)
    fast = _without_shell(holder[0])
    if laid_out is not None:
        laid_out.net = fast
        fast = laid_out
    return _checked(ordinary, fast, layers, inputs, batch, timer)


def _laid_out(net: nn.Module, batch: Tensor, timer: Timer) -> ChannelsLast | None:
    """The network with the channels of a pixel together, if it is clearly faster that way."""
    if not has_images(net, batch):
        return None
    candidate = ChannelsLast(net)
    if _problem(candidate, batch) is not None:  # code that asks for the other layout (`view`)
        return None
    contiguous, other = timer([net, candidate], batch)
    return candidate if beats(other, contiguous) else None


def _checked(
    ordinary: nn.Module,
    fast: nn.Module,
    layers: dict[str, KernelChoice],
    inputs: Tensor,
    batch: Tensor,
    timer: Timer,
) -> Accelerated:
    """Holds the whole network against the ordinary one: the same outputs in less time."""
    names = ("the network", "the accelerated network")
    error = verify(ordinary, fast, inputs, names=names)
    before, after = timer([ordinary, fast], batch)
    if not beats(after, before, margin=0.0):
        reason = "the network as a whole would not be faster"
        layers = {name: how.rejected(reason) for name, how in layers.items()}
        fast, after, error = ordinary, before, 0.0
    layout = CHANNELS_LAST if isinstance(fast, ChannelsLast) else CONTIGUOUS
    report = Acceleration(layers, len(batch), median(after), median(before), error, layout)
    return Accelerated(fast, report)


def _replaced(net: nn.Module, linear: nn.Linear, batch: Tensor, timer: Timer) -> KernelChoice:
    """Chooses the kernel of a layer and puts it into the network."""
    if linear._forward_hooks or linear._forward_pre_hooks:
        return KernelChoice(DENSE, "it has hooks")
    select = _select_before(net, linear)
    x = _input_of(net, linear if select is None else select, batch)
    if x is None:
        return KernelChoice(DENSE, "the network does not call it")
    kernel, choice = choose(linear, x, select=select, timer=timer)
    if kernel is None:
        return choice
    places: dict[nn.Module, nn.Module] = {linear: kernel}
    if select is not None:
        places[select] = nn.Identity()
    _swap(net, places)
    problem = _problem(net, batch)
    if problem is not None:
        _swap(net, {new: old for old, new in places.items()})
        return choice.rejected(f"the network needs an nn.Linear: {problem}")
    return choice


def _join(
    holder: nn.Sequential, layers: dict[str, KernelChoice], batch: Tensor, timer: Timer
) -> None:
    """Computes neighbouring linear layers as one where that is clearly faster."""
    for run in list(runs_in(holder)):
        names = {module: name for name, module in holder[0].named_modules()}
        first = next(iter(run.members.values()))
        x = _input_of(holder, first, batch)
        if x is None or any(layer not in names for layer in run.linears()):
            continue
        chain_of_them = run.chain()
        apart, together = timer([nn.Sequential(*run.members.values()), chain_of_them], x)
        if not beats(together, apart):
            continue
        before = dict(run.parent._modules)
        run.put(chain_of_them)
        if _problem(holder, batch) is not None:  # code that asks for one of them by its name
            run.parent._modules = before
            continue
        gain = median(apart) / median(together)
        for name in (names[layer] for layer in run.linears()):
            layers[name] = layers[name].joined(gain)


def _without_shell(net: nn.Module) -> nn.Module:
    """What is left of an `nn.Sequential` whose layers are computed as one."""
    inner = next(iter(net.children()), net)
    alone = type(net) is nn.Sequential and len(net) == 1 and isinstance(inner, LinearChain)
    return inner if alone and not (net._forward_hooks or net._forward_pre_hooks) else net


def _select_before(net: nn.Module, linear: nn.Linear) -> InputSelect | None:
    """The selection of inputs in front of a layer, if both stand in one place alone."""
    places = [child for parent in net.modules() for child in parent._modules.values()]
    for parent in net.modules():
        if type(parent) is nn.Sequential:
            for first, second in pairwise(parent):
                if second is linear and type(first) is InputSelect:
                    once = all(sum(child is it for child in places) == 1 for it in (first, second))
                    return first if once else None
    return None


def _input_of(net: nn.Module, layer: nn.Module, batch: Tensor) -> Tensor | None:
    """What a layer is given; the largest tensor if it is used several times, None if never."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.extend([*args, *kwargs.values()]), with_kwargs=True
    )
    try:
        with torch.inference_mode():
            net(batch.clone())
    finally:
        handle.remove()
    return max(seen, key=Tensor.numel, default=None)


def _problem(net: nn.Module, batch: Tensor) -> str | None:
    """What is raised when a network is applied to a batch; None if nothing."""
    try:
        with torch.inference_mode():
            net(batch.clone())
    except Exception as error:  # user code runs here: anything may come out
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def _swap(net: nn.Module, places: Mapping[nn.Module, nn.Module]) -> None:
    """Puts layers in the places of others under all of their names."""
    for parent in net.modules():
        for name, child in parent._modules.items():
            if child is not None and child in places:
                parent._modules[name] = places[child]


def _device_of(net: nn.Module) -> torch.device:
    tensor = next(chain(net.parameters(), net.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _batch(inputs: Tensor, size: int) -> Tensor:
    """As many inputs as there shall be in a batch, again from the first if there are too few."""
    if size < 1:
        raise InvalidArgumentError("batch_size is out of range", given=size, accepted="1, 2, ...")
    return inputs[torch.arange(size, device=inputs.device) % len(inputs)]
