"""guided_sample: the next token of the guided law, filtered, and its log-prob."""

import torch
from torch import Tensor

from .. import dispatch
from ..errors import DtypeError, ShapeError
from . import _check, _guided, _op, _philox, _stats

# Of the log-prob, against float64 of the same law: |error| ≤ ATOL + RTOL·|value|.
ATOL, RTOL = 2e-6, 2e-7


def tolerance(value: Tensor) -> Tensor:
    """The largest allowed |error| of the log-prob at each float64 value."""
    return ATOL + RTOL * value.abs()


def guided_sample(
    base: Tensor,
    tuned: Tensor | None = None,
    untuned: Tensor | None = None,
    *,
    beta: float | Tensor = 1.0,
    temperature: float | Tensor = 1.0,
    top_k: int | Tensor = 0,
    top_p: float | Tensor = 1.0,
    min_p: float | Tensor = 0.0,
    seed: Tensor,
    position: Tensor,
    candidate: Tensor | None = None,
    row: Tensor | None = None,
    finished: Tensor | None = None,
    pad_id: int = 0,
    valid_vocab: _guided.ValidVocab = None,
) -> tuple[Tensor, Tensor]:
    """Draws one token a row from softmax((base + β(tuned − untuned))/T), filtered.

    The draw is inverse-CDF over integer weights w = floor(exp((z − m)/T)·2⁴⁴): the token is the
    first id whose inclusive sum of kept weights exceeds floor(draw·Σw/2⁶⁴), where the 64-bit draw
    is Philox-4x32-10 of (seed, position, candidate). So the same (seed, position, candidate,
    settings, logits) gives the same token in any batch. Filters apply in the order temperature,
    top-k (exactly k, ties to the lower id), top-p (keeps a token iff the weight before it, in order
    of value then id, is < ceil(p·Σw)), min-p (relative to the largest); the first is always kept.
    Not differentiable.

    Args:
        base: `[B', V]` fp32, bf16 or fp16, V < 2¹⁹, last dimension contiguous, any row stride.
        tuned, untuned: `[B', V_t]`, `[B', V_u]`, or both None for the base alone; see
            `guided_logits` for masks and NaN. The law covers the smallest valid vocabulary.
        beta, temperature (≥ 0; 0 is arg max, log-prob 0), top_k (0 or ≥ V: off), top_p in (0, 1],
            min_p in [0, 1]: numbers, or tensors `[B]`. A tensor entry out of range makes its row
            (pad_id, NaN). top_p and min_p count as the exact rational of their float64 value.
        seed: `[B]` int64, all 64 bits count. position, candidate: `[B]` int32 or int64, their low
            32 bits count; candidate None is 0.
        row: `[B]` int32 or int64, the logits row of each draw; None: B = B'. An entry outside
            [0, B') gives (pad_id, NaN).
        finished: `[B]` bool; such a row gives (pad_id, 0).
        pad_id: the token of finished rows and of rows without a law.
        valid_vocab: columns from here on are padding: one number, (base, tuned, untuned), or None.

    Returns:
        (token `[B]` int64, log-prob `[B]` fp32 under the filtered law). A row with a NaN or +inf,
        or without a finite logit, gives (pad_id, NaN).

    Raises:
        DtypeError, ShapeError, DeviceError, LayoutError, RangeError: naming the argument.
    """
    found = _guided.sources(base, tuned, untuned, row, valid_vocab, beta)
    rows = found.rows
    if base.shape[1] > _guided.MAX_VOCAB:
        raise ShapeError(f"base has {base.shape[1]} columns, at most {_guided.MAX_VOCAB} are taken")
    seed = _guided.vector("seed", seed, (torch.int64,), rows)
    position = _guided.vector("position", position, _check.INTEGERS, rows)
    if candidate is not None:
        candidate = _guided.vector("candidate", candidate, _check.INTEGERS, rows)
    if finished is not None:
        finished = _guided.vector("finished", finished, (torch.bool,), rows)
    if isinstance(pad_id, bool) or not isinstance(pad_id, int):
        raise DtypeError(f"pad_id must be an integer, got {pad_id!r}")
    b = _guided.beta_setting(beta, rows)
    t = _guided.temperature_setting(temperature, rows)
    k = _guided.int_setting("top_k", top_k, rows)
    p = _guided.float_setting(
        "top_p", top_p, rows, torch.float64, lambda x: 0.0 < x <= 1.0, "lie in (0, 1] (1 is off)"
    )
    floor = _guided.float_setting(
        "min_p", min_p, rows, torch.float64, lambda x: 0.0 <= x <= 1.0, "lie in [0, 1] (0 is off)"
    )
    device = _check.same_device(
        base=base, tuned=found.tuned, untuned=found.untuned, seed=seed, position=position,
        candidate=candidate, row=found.row, finished=finished, beta=b.rows, temperature=t.rows,
        top_k=k.rows, top_p=p.rows, min_p=floor.rows,
    )  # fmt: skip
    op = dispatch.resolve("guided_sample", device)
    token, logprob = op(
        found.base, found.tuned, found.untuned, found.row, seed, position, candidate, finished,
        b.value, b.rows, t.value, t.rows, int(k.value), k.rows, p.value, p.rows,
        floor.value, floor.rows, pad_id, found.valid_base, found.valid_pair,
    )  # fmt: skip
    return token, logprob


_SCHEMA = (
    "(Tensor base, Tensor? tuned, Tensor? untuned, Tensor? row, Tensor seed, Tensor position, "
    "Tensor? candidate, Tensor? finished, float beta, Tensor? beta_rows, float temperature, "
    "Tensor? temperature_rows, int top_k, Tensor? top_k_rows, float top_p, Tensor? top_p_rows, "
    "float min_p, Tensor? min_p_rows, int pad_id, int valid_base, int valid_pair) "
    "-> (Tensor, Tensor)"
)


def _reference(
    base: Tensor,  # [B', V]
    tuned: Tensor | None,
    untuned: Tensor | None,
    row: Tensor | None,  # [B]
    seed: Tensor,  # [B] int64
    position: Tensor,  # [B]
    candidate: Tensor | None,  # [B]
    finished: Tensor | None,  # [B] bool
    beta: float,
    beta_rows: Tensor | None,  # [B] float64
    temperature: float,
    temperature_rows: Tensor | None,  # [B] fp32
    top_k: int,
    top_k_rows: Tensor | None,  # [B] int64
    top_p: float,
    top_p_rows: Tensor | None,  # [B] float64
    min_p: float,
    min_p_rows: Tensor | None,  # [B] float64
    pad_id: int,
    valid_base: int,
    valid_pair: int,
) -> tuple[Tensor, Tensor]:
    rows, device = seed.shape[0], base.device
    betas = _guided.Setting(beta, beta_rows).column(rows, device, torch.float64)
    t = _guided.Setting(temperature, temperature_rows).column(rows, device, torch.float32)
    k = _guided.Setting(top_k, top_k_rows).column(rows, device, torch.int64)
    p = _guided.Setting(top_p, top_p_rows).column(rows, device, torch.float64)
    floor = _guided.Setting(min_p, min_p_rows).column(rows, device, torch.float64)
    high, low = _philox.draw(seed, position, candidate)
    token = torch.empty(rows, dtype=torch.int64, device=device)
    value = torch.empty(rows, dtype=torch.float32, device=device)
    for block in _stats.row_blocks(rows, base.shape[1]):
        z = _guided.block_values(base, tuned, untuned, betas, row, valid_base, valid_pair, block)
        words = (high[block, None], low[block, None])
        chosen, logprob = _sample_block(z, t[block], k[block], p[block], floor[block], words)
        token[block] = chosen.masked_fill(logprob.isnan(), pad_id)
        value[block] = logprob
    if finished is not None:
        token, value = token.masked_fill(finished, pad_id), value.masked_fill(finished, 0.0)
    return token, value


def _sample_block(
    z: Tensor,  # [n, V]
    temperature: Tensor,  # [n, 1] fp32, and so on
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    draw: tuple[Tensor, Tensor],  # two words [n, 1]
) -> tuple[Tensor, Tensor]:
    """(token `[n]`, log-prob `[n]`, NaN where the row has no law)."""
    m = z.amax(dim=1, keepdim=True)  # NaN where the row holds one
    usable = m.isfinite() & (temperature >= 0) & temperature.isfinite()
    usable &= (top_k >= 0) & (top_p > 0) & (top_p <= 1) & (min_p >= 0) & (min_p <= 1)
    z = z.masked_fill(~usable, 0.0)
    m = m.masked_fill(~usable, 0.0)
    weight = _guided.integer_weights(z, m, temperature.masked_fill(~usable, 1.0))

    columns = z.shape[1]
    order = torch.sort(z, dim=1, descending=True, stable=True).indices  # value desc, id asc
    sorted_weight = weight.gather(1, order)
    k = torch.where((top_k <= 0) | (top_k >= columns), columns, top_k)
    rank = torch.arange(columns, device=z.device).unsqueeze(0)
    kept = torch.where(rank < k, sorted_weight, 0)
    inclusive = kept.cumsum(dim=1)
    total = inclusive[:, -1:]
    fraction = top_p.where((top_p > 0) & (top_p < 1), torch.full_like(top_p, 0.5))
    limit = torch.where(top_p < 1, _philox.ceil_share(fraction, total), total)
    kept = torch.where(inclusive - kept < limit, kept, 0)
    # The largest weight is exactly 2⁴⁴; scaling by it is exact, so is the ceiling.
    least = torch.ceil(min_p.clamp(0.0, 1.0) * 2.0**_guided.WEIGHT_BITS).long()
    kept = torch.where(kept >= least, kept, 0)

    cumulative = torch.zeros_like(kept).scatter(1, order, kept).cumsum(dim=1)
    total = cumulative[:, -1:]
    threshold = _philox.mulhi(draw, total)
    token = (cumulative <= threshold).sum(dim=1, keepdim=True)
    greedy = temperature == 0
    token = torch.where(greedy, order[:, :1], token)
    t = temperature.masked_fill(greedy | ~usable, 1.0)
    logprob = _guided.log_of_share(z.gather(1, token), m, t, total)
    logprob = logprob.masked_fill(greedy, 0.0).masked_fill(~usable, float("nan"))
    return token[:, 0], logprob[:, 0]


def _fake(
    base: Tensor, tuned: Tensor | None, untuned: Tensor | None, row: Tensor | None, seed: Tensor,
    *_: object,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return (
        torch.empty(seed.shape, dtype=torch.int64, device=seed.device),
        torch.empty(seed.shape, dtype=torch.float32, device=seed.device),
    )


_op.define("guided_sample", _SCHEMA, reference=_reference, fake=_fake)
