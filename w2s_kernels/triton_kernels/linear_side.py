"""What the linear kernels are launched on: one model's half of a call, and its parts."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops._linear import HeadArgs
from .linear_plan import cdiv, slices
from .linear_product import operand_dtype
from .linear_settings import LinearSettings, linear_settings


class Side(NamedTuple):
    """One model's half of a call."""

    hidden: Tensor  # [N, D]
    head: HeadArgs
    temperature: float
    temperature_rows: Tensor | None  # [N] fp32

    def rows(self, group: slice | None) -> "Side":
        """The side of a group of rows (None: all of them)."""
        if group is None:
            return self
        t_rows = None if self.temperature_rows is None else self.temperature_rows[group]
        return self._replace(hidden=self.hidden[group], temperature_rows=t_rows)

    @property
    def operand(self) -> torch.dtype:
        """dtype of the product's operands."""
        return operand_dtype(self.hidden.dtype, self.head.weight.dtype)

    def settings(self) -> LinearSettings:
        """The committed settings for this side's device and operands."""
        return linear_settings(self.hidden.device, 8 * self.operand.itemsize)


def groups(rows: int, step: int) -> Iterator[slice | None]:
    """Groups of at most `step` rows; None where one group is all, so that nothing is sliced."""
    if rows <= step:
        yield None
    else:
        yield from slices(rows, step)


def taken(tensor: Tensor, group: slice | None) -> Tensor:
    """A group's rows of a tensor."""
    return tensor if group is None else tensor[group]


class Parts(NamedTuple):
    """What a row's parts hold, in order over the vocabulary."""

    parts: Tensor  # [3, N, P] fp32: m, s, u
    z_target: Tensor  # [N, K] fp32, not written where a target is no valid column


def empty_parts(side: Side, target: Tensor, columns: int) -> Parts:
    """Room for parts of so many columns."""
    rows, count = side.hidden.shape[0], cdiv(side.head.valid, columns)
    parts = side.hidden.new_empty(3, rows, count, dtype=torch.float32)
    return Parts(parts, side.hidden.new_empty(target.shape, dtype=torch.float32))
