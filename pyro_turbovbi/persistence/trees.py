"""Trees of plain data and tensors: what the state of a training or a fit is written as.

A tree is None, a boolean, a number, a string, a tensor, or a list, tuple or dict (with strings as
keys) of trees. Tuples come back as lists. Nothing else can be written, so that nothing else can
come out of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from pyro_turbovbi.errors import UnsupportedError

#: Nested plain data and tensors, see above.
Tree = Any
#: The key that stands for a tensor in plain data.
TENSOR = "$tensor"

_PLAIN = (bool, int, float, str)


def split(tree: Tree) -> tuple[Tree, dict[str, Tensor]]:
    """Take the tensors out of a tree.

    Args:
        tree: See above; it is not changed.

    Returns:
        The tree with ``{"$tensor": name}`` in place of every tensor, plain data for JSON; and the
        tensors by name, copies on the CPU.

    Raises:
        UnsupportedError: If something in it is neither plain data nor a tensor; the message says
            where.
    """
    tensors: dict[str, Tensor] = {}

    def take(tensor: Tensor) -> dict[str, str]:
        name = str(len(tensors))
        tensors[name] = copied(tensor).cpu().contiguous()
        return {TENSOR: name}

    return _mapped(tree, take, ""), tensors


def join(plain: Tree, tensors: Mapping[str, Tensor]) -> Tree:
    """The inverse of `split`.

    Raises:
        KeyError: If a tensor is missing.
    """
    if isinstance(plain, dict):
        if plain.keys() == {TENSOR}:
            return tensors[plain[TENSOR]]
        return {key: join(value, tensors) for key, value in plain.items()}
    return [join(value, tensors) for value in plain] if isinstance(plain, list) else plain


def snapshot(tree: Tree) -> Tree:
    """A copy of a tree that stays as it is when its tensors are changed in place.

    Raises:
        UnsupportedError: See `split`.
    """
    return _mapped(tree, copied, "")


def copied(tensor: Tensor) -> Tensor:
    """A copy with memory of its own, without gradients."""
    return tensor.detach().clone()


def _mapped(tree: Tree, take: Callable[[Tensor], Tree], where: str) -> Tree:
    if isinstance(tree, Tensor):
        return take(tree)
    if tree is None or type(tree) in _PLAIN:
        return tree
    if isinstance(tree, list | tuple):
        return [_mapped(value, take, f"{where}/{i}") for i, value in enumerate(tree)]
    if isinstance(tree, Mapping) and all(type(key) is str and key != TENSOR for key in tree):
        return {key: _mapped(value, take, f"{where}/{key}") for key, value in tree.items()}
    raise UnsupportedError(
        f"what is at {where or '/'} cannot be stored",
        given=f"{type(tree).__module__}.{type(tree).__qualname__}",
        accepted="None, booleans, numbers, strings, tensors, and lists and dicts (with strings as "
        "keys) of them",
    )
