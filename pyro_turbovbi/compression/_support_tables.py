"""Supports as text: where the kept weights lie, and what their places cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from pyro_turbovbi.compression.regularity import Regularity

_LEAST_WIDTH = 8


class _Column(NamedTuple):
    header: str
    width: int
    show: Callable[[Regularity], str]


class _Group(NamedTuple):
    header: str
    columns: Sequence[_Column]

    @property
    def width(self) -> int:
        return sum(column.width for column in self.columns)


def _shape(part: Regularity) -> str:
    return f"{part.rows}x{part.weights // part.rows}" if part.rows else ""


_PLACES = (
    _Group(
        "",
        (
            _Column("shape", 14, _shape),
            _Column("kept", 12, lambda part: f"{part.kept:,}"),
            _Column("clusters", 12, lambda part: f"{part.clusters:,}"),
            _Column("mean run", 10, lambda part: f"{part.mean_cluster_length:.2f}"),
            _Column("longest", 9, lambda part: f"{part.max_cluster_length:,}"),
        ),
    ),
)
_COSTS = (
    _Group(
        "block fill",
        (
            _Column("8x8", 9, lambda part: f"{part.block_fill:.1%}"),
            _Column("4x4", 8, lambda part: f"{part.block_fill_4x4:.1%}"),
            _Column("1x8", 8, lambda part: f"{part.block_fill_1x8:.1%}"),
        ),
    ),
    _Group(
        "index bits a weight",
        (
            _Column("CSR", 9, lambda part: f"{part.index_bits_csr:.1f}"),
            _Column("runs", 8, lambda part: f"{part.index_bits_run_length:.1f}"),
            _Column("blocks", 8, lambda part: f"{part.index_bits_block_csr:.1f}"),
        ),
    ),
    _Group(
        "64-byte lines",
        (
            _Column("touched", 11, lambda part: f"{part.cache_lines:,}"),
            _Column("a weight", 10, lambda part: f"{part.cache_lines_per_weight:.2f}"),
        ),
    ),
)


def support_tables(parts: Mapping[str, Regularity], total: Regularity) -> list[str]:
    """Two tables with a line for every support and one for all of them.

    Two, because one would be too wide to read: how the kept weights lie, and what it costs to say
    where they are or to read them.

    Args:
        parts: The supports by name.
        total: All of them together.

    Returns:
        The lines.
    """
    width = max(_LEAST_WIDTH, *map(len, parts)) if parts else _LEAST_WIDTH
    shapeless = replace(total, rows=0)  # several matrices have no shape together
    places = [*_table(parts, _PLACES, width), _line("all", shapeless, _PLACES, width)]
    return [*places, "", *_table(parts, _COSTS, width), _line("all", total, _COSTS, width)]


def _table(parts: Mapping[str, Regularity], groups: Sequence[_Group], width: int) -> list[str]:
    over = " " * width + "".join(f"{group.header:>{group.width}}" for group in groups)
    columns = [column for group in groups for column in group.columns]
    header = f"{'support':{width}}" + "".join(f"{each.header:>{each.width}}" for each in columns)
    rows = [_line(name, part, groups, width) for name, part in parts.items()]
    return [*([over] if over.strip() else []), header, *rows]


def _line(name: str, part: Regularity, groups: Sequence[_Group], width: int) -> str:
    columns = [column for group in groups for column in group.columns]
    return f"{name:{width}}" + "".join(f"{each.show(part):>{each.width}}" for each in columns)
