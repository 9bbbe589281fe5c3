"""Labels of places, merged into units; and units, merged into coupling groups."""

from __future__ import annotations

FIXED = 0
"""The label of places that are never cut."""

Axis = list[int]
"""Labels of the places along one dim."""


class Partition:
    """Two partitions of labels.

    The finer one says which labels are the same unit; a unit that was merged with `FIXED` is never
    cut. The coarser one says which units lie along coupled dims, fixed or not.
    """

    def __init__(self) -> None:
        self._units = [FIXED]
        self._groups = [FIXED]

    def fresh(self, size: int) -> Axis:
        """New labels for a dim.

        Args:
            size: Number of places; a single one is fixed.

        Returns:
            As many labels, one group.
        """
        if size <= 1:
            return [FIXED] * size
        start = len(self._units)
        self._units += range(start, start + size)
        self._groups += [start] * size
        return list(range(start, start + size))

    def merge(self, a: int, b: int) -> None:
        """Makes two labels the same unit, and their groups one.

        Args:
            a: A label.
            b: Another.
        """
        _union(self._units, a, b)
        if FIXED not in (a, b):
            _union(self._groups, a, b)

    def find(self, label: int) -> int:
        """The unit that a label stands for.

        Args:
            label: A label.

        Returns:
            The least label that was merged with it; `FIXED` if it is never cut.
        """
        return _root(self._units, label)

    def group(self, label: int) -> int:
        """The coupling group that a label's unit belongs to.

        Args:
            label: A label.

        Returns:
            A number that is the same for all units along coupled dims.
        """
        return _root(self._groups, label)


def _root(parents: list[int], label: int) -> int:
    root = label
    while parents[root] != root:
        root = parents[root]
    while parents[label] != root:
        parents[label], label = root, parents[label]
    return root


def _union(parents: list[int], a: int, b: int) -> None:
    first, second = sorted((_root(parents, a), _root(parents, b)))
    parents[second] = first


__all__ = ["FIXED", "Axis", "Partition"]
