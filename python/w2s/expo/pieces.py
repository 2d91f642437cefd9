"""Pieces: the parts of a tensor that are read, worked out and written at once, and their memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from w2s.errors import ExpoError
from w2s.expo.layout import out_nbytes
from w2s.expo.shard_files import DTYPE_BITS
from w2s.expo.tasks import FLOATING, StoredTensor, TensorTask
from w2s.expo.writer import BLOCK, block_aligned

# Bytes of a piece in the widest of its dtypes, and how many pieces are under way: a fixed amount of
# memory whatever the tensors are, and a piece that stays in a cache between read, sum and write.
PIECE = 4 << 20
SLOTS = 6


@dataclass(frozen=True)
class Piece:
    """A run of elements of one tensor.

    count: of elements, 0 where bytes are copied as they are. start: the first one's index in the
    tensor. base: θ₀'s tensor, None where θ₁'s is only converted or copied.
    one, two, out: (first byte, how many) in θ₁'s tensor, in θ₀'s, and in the result's.
    """

    task: TensorTask
    base: StoredTensor | None
    start: int
    count: int
    one: tuple[int, int]
    two: tuple[int, int]
    out: tuple[int, int]


def pieces_of(task: TensorTask) -> Iterator[Piece]:
    """Cuts a tensor into pieces of at most `PIECE` bytes, in order.

    Where they are cut depends on the tensor alone, so its sums do too.
    """
    total = math.prod(task.aligned.shape)
    shared = total
    if task.rows is not None and total:
        shared = total // task.aligned.shape[0] * min(task.rows, task.aligned.shape[0])
    if task.base is None:
        shared = 0
    yield from _computed(task, task.base, 0, shared)
    if task.aligned.code == task.out_code:
        yield from _copied(task, shared * DTYPE_BITS[task.out_code] // 8)
    else:
        yield from _computed(task, None, shared, total)


def _computed(task: TensorTask, base: StoredTensor | None, begin: int, end: int) -> Iterator[Piece]:
    """Pieces of elements [begin, end) that pass through the kernel."""
    if begin == end:
        return
    one, out = _size(task.aligned.code, task), _size(task.out_code, task)
    two = _size(base.code, task) if base is not None else 0
    step = PIECE // max(one, two, out)
    for start in range(begin, end, step):
        count = min(step, end - start)
        parts = ((start * size, count * size) for size in (one, two, out))
        yield Piece(task, base, start, count, *parts)


def _copied(task: TensorTask, begin: int) -> Iterator[Piece]:
    end = out_nbytes(task)
    for first in range(begin, end, PIECE):
        part = (first, min(PIECE, end - first))
        yield Piece(task, None, 0, 0, part, (0, 0), part)


def _size(code: str, task: TensorTask) -> int:
    """Bytes of an element."""
    if code not in FLOATING:
        raise ExpoError(
            f"{task.aligned.name} cannot be extrapolated from {task.aligned.code} to "
            f"{task.out_code}; only {', '.join(FLOATING)} can"
        )
    return FLOATING[code].itemsize


class Slot:
    """Memory of one piece under way, used again and again: θ₁'s part, θ₀'s part, the result's.

    Each has `BLOCK` bytes of room, so that a result can lie as it will in the blocks of its file.
    """

    def __init__(self, nbytes: int) -> None:
        self.one, self.two, self.out = (block_aligned(nbytes + BLOCK) for _ in range(3))


def part(buffer: torch.Tensor, begin: int, end: int) -> memoryview:
    """Bytes [begin, end) of a buffer."""
    return buffer.numpy().data[begin:end]


def make_slots(tasks: Sequence[TensorTask]) -> list[Slot]:
    """Slots for these tensors: of less than `PIECE` bytes where no tensor is that large."""
    widest = max((_widest(task) for task in tasks), default=0)
    return [Slot(min(PIECE, widest)) for _ in range(SLOTS)]


def _widest(task: TensorTask) -> int:
    """Bytes of the tensor in the widest dtype that it is read or written in."""
    codes = [task.aligned.code, task.out_code, *([task.base.code] if task.base else [])]
    return math.prod(task.aligned.shape) * max(DTYPE_BITS[code] for code in codes) // 8 + 1
