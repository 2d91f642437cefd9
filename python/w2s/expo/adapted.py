"""`AdaptedTensor`: W₀ + s·BA as if it were stored, in float64, worked out piece by piece."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field

import torch

from w2s.errors import ExpoError
from w2s.expo.lora import Factors
from w2s.expo.tasks import FLOATING, StoredTensor

# Elements of a tile: the part of a weight that is worked out at once. Tiles do not depend on how a
# tensor is cut into pieces, so its bits do not either.
_TILE = 1 << 20


@dataclass(eq=False)
class AdaptedTensor:
    """A weight with an adapter on it (a `StoredTensor` of float64).

    The sum is not rounded before it is extrapolated, as it would be in a checkpoint that peft had
    merged. A, B and W₀ are taken to float64, exactly; the product is one float64 GEMM a tile.

    weight: W₀ of any floating dtype. factors: of its adapter. transposed: the layer keeps its
    weight as [in, out]. name, shape and shard are those of `weight`.

    Raises:
        ExpoError: BA has another shape than the weight.
    """

    weight: StoredTensor
    factors: Factors
    transposed: bool = False
    code: str = "F64"
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _sides: tuple[torch.Tensor, torch.Tensor] | None = field(default=None, repr=False)
    _tile: tuple[int, torch.Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        a, b = self.factors.a.shape, self.factors.b.shape
        rows, columns = b[0], math.prod(a[1:])
        if self._flipped:
            rows, columns = columns, rows
        if math.prod(b[2:]) != 1 or (rows, columns) != (self.rows, self.columns):
            raise ExpoError(
                f"{self.factors.module} of the adapter adds [{rows}, {columns}] to {self.name}, "
                f"which is {list(self.shape)}; give the base that the adapter was trained on"
            )

    @property
    def name(self) -> str:
        return self.weight.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.weight.shape

    @property
    def nbytes(self) -> int:
        return 8 * math.prod(self.shape)

    @property
    def shard(self) -> str:
        return self.weight.shard

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def columns(self) -> int:
        """Of the weight as a matrix: a convolution's [out, in, …] has in·… of them."""
        return math.prod(self.shape[1:])

    @property
    def _flipped(self) -> bool:
        return self.transposed or self.factors.embedding

    def read_into(self, buffer: memoryview, begin: int) -> None:
        """Fills `buffer` with the bytes from `begin` on of the float64 sum."""
        tile_rows = max(1, _TILE // max(1, self.columns))
        tile_bytes = 8 * tile_rows * self.columns
        with self._lock:
            done = 0
            while done < len(buffer):
                number, offset = divmod(begin + done, tile_bytes)
                tile = self._work_out(number, tile_rows)
                values = tile.view(torch.uint8)[offset : offset + len(buffer) - done]
                torch.frombuffer(buffer, dtype=torch.uint8, offset=done, count=len(values)).copy_(
                    values
                )
                done += len(values)
            if begin + done == self.nbytes:  # nobody comes back: one tensor is held at a time
                self._sides = self._tile = None

    def _work_out(self, number: int, tile_rows: int) -> torch.Tensor:
        """Tile `number` as float64, flat; the last one is kept, as pieces may end within it."""
        if self._tile is not None and self._tile[0] == number:
            return self._tile[1]
        if self._sides is None:
            self._sides = self._load_sides()
        left, right = self._sides
        begin = number * tile_rows
        end = min(begin + tile_rows, self.rows)
        size = self.weight.nbytes // self.rows  # bytes of a row
        weight = load(self.weight, begin * size, (end - begin) * size)
        start = weight.double().view(end - begin, self.columns)
        total = torch.addmm(start, left[begin:end], right, alpha=self.factors.scale).view(-1)
        self._tile = number, total
        return total

    def _load_sides(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[rows, r] and [r, columns] in float64 whose product is BA, laid like the weight."""
        a, b = (
            load(side).double().view(side.shape).flatten(1)
            for side in (self.factors.a, self.factors.b)
        )
        return (a.t().contiguous(), b.t().contiguous()) if self._flipped else (b, a)


def load(tensor: StoredTensor, begin: int = 0, length: int | None = None) -> torch.Tensor:
    """`length` bytes of a stored tensor from `begin` on, all by default; flat."""
    length = tensor.nbytes - begin if length is None else length
    dtype = FLOATING[tensor.code]
    if not length:
        return torch.empty(0, dtype=dtype)
    data = bytearray(length)
    tensor.read_into(memoryview(data), begin)
    return torch.frombuffer(data, dtype=dtype)
