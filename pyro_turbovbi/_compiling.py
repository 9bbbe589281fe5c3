"""Nets whose training steps are compiled, by `torch.compile` or another function of its kind."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

#: What torch.compile sets off by looking at .grad of all tensors that it is given.
_HARMLESS = r"The \.grad attribute of a Tensor that is not a leaf"
#: Evaluates a net under tensors in the place of its parameters, with positional arguments.
Evaluation = Callable[[dict[str, Tensor], tuple[Any, ...]], Tensor]
#: Gives a faster function that computes the same.
Compiler = Callable[[Evaluation], Evaluation]


def evaluation(net: nn.Module) -> Evaluation:
    """The function that evaluates a net; its tensors are by the places where modules hold them."""

    def evaluate(weights: dict[str, Tensor], inputs: tuple[Any, ...]) -> Tensor:
        output: Tensor = functional_call(net, weights, *inputs, tie_weights=False)
        return output

    return evaluate


def compiled(net: nn.Module, compiler: Compiler) -> Evaluation:
    """The same function, compiled.

    Args:
        net: The net.
        compiler: What compiles it.
    """
    plain = evaluation(net)
    assert isinstance(plain, FunctionType)
    # Code of its own: torch.compile counts what it has compiled by code, over all nets, and gives
    # up after eight.
    own = FunctionType(
        plain.__code__.replace(), plain.__globals__, plain.__name__, None, plain.__closure__
    )
    fast = compiler(own)

    def evaluate(weights: dict[str, Tensor], inputs: tuple[Any, ...]) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", _HARMLESS)
            return fast(weights, inputs)

    return evaluate


__all__ = ["Compiler", "Evaluation", "compiled", "evaluation"]
