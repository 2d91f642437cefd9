"""Which kernel makes a head's logits, and its tile: a committed table, nothing is searched for.

A tile is [columns, rows, depth, warps, stages], see `Tile`; entries are by the bits of an operand,
those of `tile` by rows too. `few_rows` is the number of rows up to which the weights stream through
the fused tile; `many` says what makes the products of more: "chunked" (the vendor's matrix product)
or "fused".
"""

import contextlib
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import RangeError
from ..ops._warm import forget

_TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("linear_settings.json").read_text())
PATHS = ("tile", "chunked", "fused")
_forced: str | None = None


@dataclass(frozen=True)
class Tile:
    """A program's share of the product: columns of the vocabulary × rows, D in steps of `depth`."""

    columns: int
    rows: int
    depth: int
    warps: int
    stages: int


@dataclass(frozen=True)
class LinearSettings:
    """What the table says about one architecture and operand size."""

    arch: int  # 80, 90, 100, …; 0 under the interpreter
    few_rows: int
    many: str  # "chunked" or "fused"
    tiles: tuple[Tile, ...]  # by rows, ascending
    invariant: Tile
    fused: Tile | None

    def tile(self, rows: int) -> Tile:
        """The tile for so many rows: the smallest that takes them at once, else the largest."""
        return next((t for t in self.tiles if rows <= t.rows), self.tiles[-1])

    def path(self, rows: int) -> str:
        """What makes the products of so many rows."""
        if _forced is not None:
            return _forced
        return "tile" if rows <= self.few_rows else self.many


@functools.cache
def linear_settings(device: torch.device, bits: int) -> LinearSettings:
    """The entry for operands of so many bits (16 or 32) on a device."""
    if device.type != "cuda":
        return for_arch(0, 32)
    major, minor = torch.cuda.get_device_capability(device)
    return for_arch(10 * major + minor, bits)


def for_arch(arch: int, bits: int) -> LinearSettings:
    """The entry of the newest architecture that is not newer than `arch` (90 for sm_90)."""
    known = sorted(int(name) for name in _TABLE)
    entry = _TABLE[str(max((name for name in known if name <= arch), default=known[0]))]
    size = str(bits)
    fused = entry.get("fused", {}).get(size)
    return LinearSettings(
        arch=arch,
        few_rows=entry["few_rows"][size],
        many=entry["many"],
        tiles=tuple(Tile(*shape) for shape in entry["tile"][size].values()),
        invariant=Tile(*entry["invariant"][size]),
        fused=None if fused is None else Tile(*fused),
    )


@contextlib.contextmanager
def use_path(path: str | None) -> Iterator[None]:
    """Forces a path inside a `with` block, for tests and for timing one beside another."""
    global _forced
    if path is not None and path not in PATHS:
        raise RangeError(f"path {path!r} is unknown; choose one of {', '.join(PATHS)}")
    before, _forced = _forced, path
    forget()
    try:
        yield
    finally:
        _forced = before
        forget()
