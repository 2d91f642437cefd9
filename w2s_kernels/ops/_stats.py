"""Row statistics in plain torch: the reference's arithmetic, shared by the log-prob ops.

Everything is float64 and elementwise, sums are explicit trees over fixed columns: torch's
own reductions may change their order with the number of rows, and a row's bits must not.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ._check import IGNORE_INDEX

# A reference call works on blocks of rows of about this many elements, to bound its memory.
_BLOCK_ELEMENTS = 1 << 24


class RowStats(NamedTuple):
    """About a row's maximum m: s = Σ exp(x), u = Σ exp(x)·x, x = (z − m)/T. float64 `[n, 1]`."""

    m: Tensor
    s: Tensor
    u: Tensor


def tree_sum(values: Tensor) -> Tensor:
    """Sum over the last dimension by pairs of neighbours, `[n, V]` → `[n, 1]`.

    Columns of zeros appended at the end change no bits.
    """
    while values.shape[-1] > 1:
        folded = values[:, ::2].clone()
        folded[:, : values.shape[-1] // 2] += values[:, 1::2]
        values = folded
    return values


def effective_logits(logits: Tensor, softcap: float) -> Tensor:
    """Raw logits `[n, V]` → float64 soft-capped ones; −inf stays −inf, NaN and +inf become NaN.

    A capped logit is rounded to fp32, as m is: no x = (z − m)/T is above 0, and `logprob_stats`,
    which returns z_target in fp32, finishes to the bits of `logprob`.
    """
    z = logits.double()
    bad = z.isnan() | z.isposinf()
    if softcap > 0:
        z = torch.where(z.isneginf(), z, (softcap * torch.tanh(z / softcap)).float().double())
    return z.masked_fill(bad, float("nan"))


def row_stats(z: Tensor, temperature: Tensor) -> RowStats:
    """Statistics of effective logits z `[n, V]` at temperature `[n, 1]` (float64).

    A row with a NaN has NaN statistics; a fully masked one (−inf, 0, 0).
    """
    # amax propagates NaN. Rounded to fp32, as it is saved for the backward: s is about this m.
    m = z.amax(dim=-1, keepdim=True).float().double()
    x = ((z - m) / temperature).masked_fill(z.isneginf(), float("-inf"))
    e = torch.exp(x)
    u = tree_sum(torch.where(e == 0, 0.0, e * x))
    s = tree_sum(e)
    usable = (temperature > 0) & temperature.isfinite()
    nan = torch.full_like(m, float("nan"))
    return RowStats(torch.where(usable, m, nan), torch.where(usable, s, nan), u)


def temperature_column(scalar: float, rows: Tensor | None, like: Tensor) -> Tensor:
    """The temperature as float64 `[n, 1]`, from fp32 values as every backend reads them."""
    if rows is None:
        value = torch.full((like.shape[0], 1), scalar, dtype=torch.float32, device=like.device)
        return value.double()
    return rows.double().unsqueeze(1)


def target_logits(z: Tensor, target: Tensor, vocab_start: int = 0) -> tuple[Tensor, Tensor]:
    """z at the targets `[n, K]` and whether each lies in these columns."""
    column = target.long() - vocab_start
    inside = (column >= 0) & (column < z.shape[-1])
    return z.gather(1, column.clamp(0, z.shape[-1] - 1)), inside


def finish(
    stats: RowStats, z_target: Tensor, temperature: Tensor, target: Tensor, vocab: int
) -> Tensor:
    """float64 log-probs `[n, K]`: 0 at IGNORE_INDEX, NaN at other targets outside [0, vocab)."""
    value = (z_target - stats.m) / temperature - torch.log(stats.s)
    # x − log s of a masked row is −inf − −inf; name it instead of relying on it.
    value = value.masked_fill(~(stats.m > float("-inf")), float("nan"))
    invalid = (target < 0) | (target >= vocab)
    value = value.masked_fill(invalid, float("nan"))
    return value.masked_fill(target == IGNORE_INDEX, 0.0)


def finish_diff(
    stats_t: RowStats,
    z_target_t: Tensor,  # [n, K]
    temperature_t: Tensor,  # [n, 1]
    stats_u: RowStats,
    z_target_u: Tensor,
    temperature_u: Tensor,
    target: Tensor,  # [n, K]
    vocab: int,
) -> Tensor:
    """float64 differences `[n, K]`: ((z_t−m)/T tuned − untuned) − (log s_tuned − log s_untuned)."""
    x_t = (z_target_t - stats_t.m) / temperature_t
    x_u = (z_target_u - stats_u.m) / temperature_u
    value = (x_t - x_u) - (torch.log(stats_t.s) - torch.log(stats_u.s))
    usable = (stats_t.m > float("-inf")) & (stats_u.m > float("-inf"))
    invalid = (target < 0) | (target >= vocab)
    value = value.masked_fill(~usable | invalid, float("nan"))
    return value.masked_fill(target == IGNORE_INDEX, 0.0)


def entropy_of(stats: RowStats) -> Tensor:
    """Entropy in nats, float64 `[n, 1]`; NaN on rows without a finite logit (s = 0)."""
    return torch.log(stats.s) - stats.u / stats.s


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows that keep a block near `_BLOCK_ELEMENTS`."""
    step = max(1, _BLOCK_ELEMENTS // max(1, columns))
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def logit_gradient(
    logits: Tensor,  # [n, V_valid], raw
    target: Tensor,  # [n, K]
    grad: Tensor,  # [n, K]
    grad_entropy: Tensor | None,  # [n, 1]
    m: Tensor,  # [n, 1]
    s: Tensor,  # [n, 1]
    entropy: Tensor | None,  # [n, 1]
    temperature: Tensor,  # [n, 1]
    softcap: float,
    vocab: int,
    vocab_start: int = 0,
) -> Tensor:
    """float64 gradient `[n, V_valid]` of Σ grad·logprob + grad_entropy·entropy (numerics rule 11).

    A row whose targets are all ignored (and without an entropy gradient) gets exactly zero, also
    when it holds NaN; an invalid target makes its row's gradient NaN.
    """
    z = effective_logits(logits, softcap)
    ignored = target == IGNORE_INDEX
    counted = grad.double().masked_fill(ignored, 0.0)
    x = ((z - m) / temperature).masked_fill(z.isneginf(), float("-inf"))
    p = torch.exp(x) / s
    gradient = -p * counted.sum(dim=1, keepdim=True)
    column = target.long() - vocab_start
    inside = (column >= 0) & (column < z.shape[-1]) & ~ignored
    gradient.scatter_add_(1, column.clamp(0, z.shape[-1] - 1), torch.where(inside, counted, 0.0))
    used = (~ignored).any(dim=1, keepdim=True)
    if grad_entropy is not None and entropy is not None:
        log_p = torch.where(p == 0, 0.0, x - torch.log(s))
        gradient -= grad_entropy.double() * p * (log_p + entropy.double())
        used = used | (grad_entropy != 0)
    gradient = gradient / temperature
    if softcap > 0:
        slope = 1.0 - (z / softcap).clamp(min=-1.0) ** 2
        gradient = gradient * slope
    invalid = (((target < 0) | (target >= vocab)) & ~ignored).any(dim=1, keepdim=True)
    gradient = gradient.masked_fill(invalid | ~(m > float("-inf")), float("nan"))
    return gradient.masked_fill(~used, 0.0)
