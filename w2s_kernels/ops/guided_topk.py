"""guided_topk: the k likeliest tokens of the guided law and their log-probs."""

import torch
from torch import Tensor

from .. import dispatch
from ..errors import DtypeError, RangeError, ShapeError
from . import _check, _guided, _op, _stats

# |error| ≤ ATOL + RTOL·|value| against float64 of the same guided logits.
ATOL, RTOL = 2e-6, 2e-7


def tolerance(value: Tensor) -> Tensor:
    """The largest allowed |error| at each float64 value."""
    return ATOL + RTOL * value.abs()


def guided_topk(
    base: Tensor,
    tuned: Tensor | None,
    untuned: Tensor | None,
    k: int,
    *,
    beta: float | Tensor = 1.0,
    temperature: float | Tensor = 1.0,
    row: Tensor | None = None,
    valid_vocab: _guided.ValidVocab = None,
) -> tuple[Tensor, Tensor]:
    """The k likeliest tokens of softmax((base + β(tuned − untuned))/T), best first.

    Ordered by logit descending, then id ascending; the log-probs are of the whole law, not of
    the k. Not differentiable.

    Args:
        base, tuned, untuned, beta, row, valid_vocab: as in `guided_sample`.
        k: how many, 1 … V.
        temperature: ≥ 0, a number or a tensor `[B]`; 0 gives log-prob 0 to the first, −inf to the
            others. A tensor entry out of range makes its row NaN.

    Returns:
        (log-probs `[B, k]` fp32, ids `[B, k]` int64). Masked columns come last with −inf. A row
        with a NaN or +inf, or without a finite logit, gives NaN and the ids 0 … k − 1.

    Raises:
        DtypeError, ShapeError, DeviceError, LayoutError, RangeError: naming the argument; k > V is
            a RangeError (a ValueError).
    """
    found = _guided.sources(base, tuned, untuned, row, valid_vocab, beta)
    columns = base.shape[1]
    if columns > _guided.MAX_VOCAB:
        raise ShapeError(f"base has {columns} columns, at most {_guided.MAX_VOCAB} are taken")
    if isinstance(k, bool) or not isinstance(k, int):
        raise DtypeError(f"k must be an integer, got {k!r}")
    if not 1 <= k <= columns:
        raise RangeError(f"k must lie in [1, {columns}] (the columns of base), got {k}")
    b = _guided.beta_setting(beta, found.rows)
    t = _guided.temperature_setting(temperature, found.rows)
    device = _check.same_device(
        base=base, tuned=found.tuned, untuned=found.untuned, row=found.row, beta=b.rows,
        temperature=t.rows,
    )  # fmt: skip
    op = dispatch.resolve("guided_topk", device)
    logprobs, ids = op(
        found.base, found.tuned, found.untuned, found.row, k, b.value, b.rows, t.value, t.rows,
        found.valid_base, found.valid_pair,
    )  # fmt: skip
    return logprobs, ids


_SCHEMA = (
    "(Tensor base, Tensor? tuned, Tensor? untuned, Tensor? row, int k, float beta, "
    "Tensor? beta_rows, float temperature, Tensor? temperature_rows, int valid_base, "
    "int valid_pair) -> (Tensor, Tensor)"
)


def _reference(
    base: Tensor,  # [B', V]
    tuned: Tensor | None,
    untuned: Tensor | None,
    row: Tensor | None,  # [B]
    k: int,
    beta: float,
    beta_rows: Tensor | None,  # [B] float64
    temperature: float,
    temperature_rows: Tensor | None,  # [B] fp32
    valid_base: int,
    valid_pair: int,
) -> tuple[Tensor, Tensor]:
    values, ids = _fake(base, tuned, untuned, row, k)
    rows, device = values.shape[0], base.device
    betas = _guided.Setting(beta, beta_rows).column(rows, device, torch.float64)
    t = _guided.Setting(temperature, temperature_rows).column(rows, device, torch.float32)
    for block in _stats.row_blocks(rows, base.shape[1]):
        z = _guided.block_values(base, tuned, untuned, betas, row, valid_base, valid_pair, block)
        values[block], ids[block] = _topk_block(z, t[block], k)
    return values, ids


def _topk_block(z: Tensor, temperature: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """z `[n, V]`, T `[n, 1]` fp32 → log-probs and ids `[n, k]`."""
    m = z.amax(dim=1, keepdim=True)  # NaN where the row holds one
    usable = m.isfinite() & (temperature >= 0) & temperature.isfinite()
    z = z.masked_fill(~usable, 0.0)
    m = m.masked_fill(~usable, 0.0)
    greedy = temperature == 0
    t = temperature.masked_fill(greedy | ~usable, 1.0)
    total = _guided.integer_weights(z, m, t).sum(dim=1, keepdim=True)
    # A stable sort, as torch.topk promises nothing about ties.
    best = torch.sort(z, dim=1, descending=True, stable=True)
    values, ids = best.values[:, :k], best.indices[:, :k]
    logprobs = _guided.log_of_share(values, m, t, total)
    point_mass = torch.full_like(logprobs, float("-inf"))
    point_mass[:, 0] = 0.0
    logprobs = torch.where(greedy, point_mass, logprobs)
    return logprobs.masked_fill(~usable, float("nan")), ids


def _fake(
    base: Tensor, tuned: Tensor | None, untuned: Tensor | None, row: Tensor | None, k: int,
    *_: object,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    rows = base.shape[0] if row is None else row.shape[0]
    return (
        base.new_empty((rows, k), dtype=torch.float32),
        base.new_empty((rows, k), dtype=torch.int64),
    )


_op.define("guided_topk", _SCHEMA, reference=_reference, fake=_fake)
