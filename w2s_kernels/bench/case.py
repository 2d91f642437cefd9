"""What is measured of an op: its inputs, who computes it, the least it costs, what is right."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

Inputs = tuple[Any, ...]


@dataclass(frozen=True)
class Size:
    """Of one call: rows N, vocab V, dim D (linear ops), k (top-k, positions moved)."""

    rows: int = 256
    vocab: int = 49152
    dim: int = 576
    k: int = 50
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def __str__(self) -> str:
        return f"N={self.rows} V={self.vocab} {str(self.dtype).removeprefix('torch.')}"


@dataclass(frozen=True)
class Provider:
    """Someone who computes the op.

    call: takes what `prepare` makes of a call's inputs (outside the timing), gives the op's result.
    absent: why it cannot run here, or None.
    judged: its result is an approximation of the op's, held to its tolerance when `strict`.
    """

    call: Callable[..., Any]
    prepare: Callable[[Inputs], Inputs] = lambda inputs: inputs
    absent: Callable[[Size], str | None] = lambda size: None
    judged: bool = True
    strict: bool = False


@dataclass(frozen=True)
class Case:
    """One op.

    inputs: random inputs of a call on the CPU, by size and seed. providers: by name; "ours" first.
    least_bytes: what any implementation must read and write. exps: exponentials it must take.
    flops: of the products it must form. error: a result's largest |error| against float64 and that
    error over the op's tolerance (at most 1 where it is right), NaN in the same places.
    """

    op: str
    inputs: Callable[[Size, int], Inputs]
    providers: dict[str, Provider]
    least_bytes: Callable[[Size], int]
    error: Callable[[Any, Inputs], tuple[float, float]]
    exps: Callable[[Size], int] = lambda size: 0
    flops: Callable[[Size], int] = lambda size: 0
    size: Size = field(default_factory=Size)
    uses: frozenset[str] = frozenset({"rows", "vocab", "dtype"})

    def sized(self, **given: Any) -> Size:
        """The default size with what was given; `ValueError` for what this op has no use for."""
        for name, value in given.items():
            if value is not None and name not in self.uses | {"device"}:
                raise ValueError(
                    f"{self.op} has no --{name}; it takes {', '.join(sorted(self.uses))}"
                )
        return replace(self.size, **{k: v for k, v in given.items() if v is not None})


def moved(value: Any, device: str) -> Any:
    """`value` with all its tensors on `device`."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(moved(v, device) for v in value)
    weight = getattr(value, "weight", None)
    if isinstance(weight, Tensor):
        return replace(value, weight=weight.to(device))
    return value


def tensors(value: Any) -> list[Tensor]:
    """All tensors in inputs or results."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [t for v in value for t in tensors(v)]
    weight = getattr(value, "weight", None)
    return [weight] if isinstance(weight, Tensor) else []


def nbytes(value: Any) -> int:
    """Bytes of all tensors in inputs or results."""
    return sum(t.numel() * t.element_size() for t in tensors(value))


def worst(found: Tensor, expected: Tensor, tolerance: Tensor) -> tuple[float, float]:
    """(largest |error|, largest error over tolerance); inf where only one of the two is NaN."""
    found, expected = found.double().cpu(), expected.double().cpu()
    if found.shape != expected.shape:
        return float("inf"), float("inf")
    same = (found == expected) | (found.isnan() & expected.isnan())
    error = (found - expected).abs().masked_fill(same, 0.0).nan_to_num(nan=float("inf"))
    if error.numel() == 0:
        return 0.0, 0.0
    ratio = torch.where(error > 0, error / tolerance.double().cpu(), error)
    return float(error.max()), float(ratio.max())
