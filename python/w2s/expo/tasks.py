"""What is done with each tensor, and what was seen while doing it: shared by all of `w2s.expo`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch

# Codes of a safetensors header -> torch dtypes that can be extrapolated.
FLOATING = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
}  # fmt: skip


class StoredTensor(Protocol):
    """One tensor of a checkpoint on disk; nothing of it is in memory.

    name: in the checkpoint. code: of its dtype as safetensors headers have it ("BF16", "F32", …).
    shape: as stored. nbytes: length in bytes. shard: the plain name of the file it lies in.
    """

    @property
    def name(self) -> str: ...
    @property
    def code(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def shard(self) -> str: ...

    def read_into(self, buffer: memoryview, begin: int) -> None:
        """Fills `buffer` with the bytes from `begin` on of the tensor (row-major, contiguous).

        Raises:
            ExpoError: the file cannot be read, or ends early; names the file and the tensor.
        """


@dataclass(frozen=True)
class TensorTask:
    """One tensor of the result.

    aligned: θ₁'s tensor; the result has its name and shape. base: θ₀'s, None copies θ₁'s.
    alpha: 0.0 copies (converted to `out_code`). rows: entries of the first dimension that both
    have, None for all; later ones are copied. out_code: dtype of the result. why: in a few words,
    why all or a part is copied; empty otherwise. drawn_as: name of the tensor whose random bits it
    takes in stochastic rounding (tied weights that are stored twice stay equal); empty for its own.
    """

    aligned: StoredTensor
    base: StoredTensor | None
    alpha: float
    out_code: str
    rows: int | None = None
    why: str = ""
    drawn_as: str = ""

    @property
    def key_name(self) -> str:
        """The name that keys the random bits of stochastic rounding."""
        return self.drawn_as or self.aligned.name


@dataclass(frozen=True)
class TensorSums:
    """What was added up over one tensor of the result, in float64.

    name, alpha: as in its task. elements: extrapolated ones. theta1, delta: Σθ₁² and
    Σ(θ₁ − θ₀)². along: Σ(out − θ₁)(θ₁ − θ₀), so that along / delta is the α that the rounded result
    really has. overflowed: elements that became inf or NaN although θ₁ and θ₀ are finite there.
    """

    name: str
    alpha: float
    elements: int
    theta1: float
    delta: float
    along: float
    overflowed: int

    @property
    def effective_alpha(self) -> float:
        """⟨out − θ₁, Δ⟩ / ⟨Δ, Δ⟩; NaN where Δ is 0."""
        return self.along / self.delta if self.delta else float("nan")
