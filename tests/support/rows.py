"""Rows of logits that have broken log-softmax kernels before (numerics.md), by name."""

import torch
from torch import Tensor

LEAF = 4096  # columns that kernels treat as one block
INF = float("inf")


def random_rows(
    rows: int, vocab: int, *, scale: float = 4.0, dtype: torch.dtype = torch.float32, seed: int = 0
) -> Tensor:
    """Normal logits `[rows, vocab]`."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, vocab, generator=generator) * scale).to(dtype)


def random_targets(rows: int, vocab: int, *, per_row: int = 0, seed: int = 0) -> Tensor:
    """Valid ids `[rows]`, or `[rows, per_row]`."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, per_row) if per_row else (rows,)
    return torch.randint(vocab, shape, generator=generator)


def hard_rows(vocab: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Finite and partly masked rows `[vocab]` (vocab > LEAF) that have a log-prob everywhere."""
    base = random_rows(1, vocab)[0]

    def edited(*, masked: slice | Tensor) -> Tensor:
        row = base.clone()
        row[masked] = -INF
        return row

    rows = {
        "random": base,
        "narrow": base / 100,
        "wide": base * 10,
        "offset +1e4": base + 1e4,
        "offset -1e4": base - 1e4,
        "offset +30000": base + 30000,
        "all equal": torch.zeros(vocab),
        "all equal and large": torch.full((vocab,), 1e4),
        "first leaf masked": edited(masked=slice(0, LEAF)),
        "last leaf masked": edited(masked=slice(-(vocab % LEAF or LEAF), None)),
        "every second masked": edited(masked=slice(1, None, 2)),
        "all masked but the first": edited(masked=slice(1, None)),
        "all masked but the last": edited(masked=slice(0, -1)),
        "all masked but one": edited(masked=torch.arange(vocab) != LEAF + 1),
        "rising": torch.linspace(-20, 20, vocab),
        "falling": torch.linspace(20, -20, vocab),
    }
    for height in (1.0, 12.0, 40.0):
        for column in (0, vocab - 1):
            row = torch.zeros(vocab)
            row[column] = height
            rows[f"one-hot {height:g} at {column}"] = row
    return {name: row.to(dtype) for name, row in rows.items()}


def rows_without_logprob(vocab: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Rows `[vocab]` whose every log-prob is NaN."""
    base = random_rows(1, vocab)[0]
    rows = {"all masked": torch.full((vocab,), -INF)}
    for column in (0, vocab // 2, vocab - 1):
        for name, value in (("nan", float("nan")), ("+inf", INF)):
            row = base.clone()
            row[column] = value
            rows[f"{name} at {column}"] = row
    lonely = torch.full((vocab,), -INF)
    lonely[vocab - 1] = float("nan")
    return rows | {"nan among masked": lonely}
