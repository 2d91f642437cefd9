"""What the guided_* ops share: their arguments, and the guided law in plain torch.

A guided logit is base + β(tuned − untuned), computed in float64 and rounded once to fp32, so every
backend has the same bits and cancellation costs nothing. Weights are w = floor(e·2⁴⁴) with
e = exp((z − m)·(1/T)) rounded to fp32: integers, so sums and filters on them are exact.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DtypeError, RangeError, ShapeError
from . import _check

WEIGHT_BITS = 44
# The sum of a row's weights must stay below 2⁶³, as torch has no unsigned 64-bit sums.
MAX_VOCAB = 2**19 - 1
_FLT_MAX = torch.finfo(torch.float32).max

ValidVocab = int | Sequence[int | None] | None


class Setting(NamedTuple):
    """A number for all rows, or (`rows` present) one a row."""

    value: float
    rows: Tensor | None

    def column(self, rows: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """`[rows, 1]` of this dtype."""
        if self.rows is None:
            return torch.full((rows, 1), self.value, dtype=dtype, device=device)
        return self.rows.to(dtype).unsqueeze(1)


class Sources(NamedTuple):
    """Checked inputs of a guided law: three matrices and which row each result reads."""

    base: Tensor  # [B', V]
    tuned: Tensor | None  # [B', V_t]
    untuned: Tensor | None  # [B', V_u]
    row: Tensor | None  # [B]
    rows: int  # B
    valid_base: int  # columns in use where β = 0
    valid_pair: int  # columns in use where β ≠ 0


def sources(
    base: Tensor,
    tuned: Tensor | None,
    untuned: Tensor | None,
    row: Tensor | None,
    valid_vocab: ValidVocab,
    beta: float | Tensor,
) -> Sources:
    """Checks the logits and `row`. A pair that a scalar β = 0 switches off is not looked at."""
    _check.logits("base", base)
    if base.dim() != 2:
        raise ShapeError(f"base must be [B, V], got {list(base.shape)}; reshape it first")
    if (tuned is None) != (untuned is None):
        missing = "tuned" if tuned is None else "untuned"
        raise RangeError(f"{missing} is None: tuned and untuned go together, give both or neither")
    if not isinstance(beta, Tensor) and beta == 0:
        tuned = untuned = None
    valid = _valid_per_model(valid_vocab)
    valid_base = _check.valid_columns("valid_vocab", valid[0], base.shape[1])
    valid_pair = valid_base
    for name, logits, limit in (("tuned", tuned, valid[1]), ("untuned", untuned, valid[2])):
        if logits is None:
            continue
        _check.logits(name, logits)
        if logits.dim() != 2 or logits.shape[0] != base.shape[0]:
            raise ShapeError(
                f"{name} must be [{base.shape[0]}, V] (the rows of base), got {list(logits.shape)}"
            )
        columns = _check.valid_columns("valid_vocab", limit, logits.shape[1])
        valid_pair = min(valid_pair, columns)
    if row is not None:
        row = vector("row", row, _check.INTEGERS)
    rows = base.shape[0] if row is None else row.shape[0]
    return Sources(base.detach(), _detached(tuned), _detached(untuned), row, rows,
                   valid_base, valid_pair)  # fmt: skip


def _detached(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach()


def _valid_per_model(value: ValidVocab) -> tuple[int | None, int | None, int | None]:
    if value is None or isinstance(value, int):
        return value, value, value
    if len(value) != 3:
        raise ShapeError(
            f"valid_vocab must be one number or (base, tuned, untuned), got {list(value)}"
        )
    return value[0], value[1], value[2]


def vector(
    name: str, value: object, dtypes: Sequence[torch.dtype], length: int | None = None
) -> Tensor:
    """A 1-D tensor `[B]` of one of these dtypes, made contiguous."""
    found = _check.tensor(name, value, dtypes)
    if found.dim() != 1:
        raise ShapeError(f"{name} must be one-dimensional, got {list(found.shape)}")
    if length is not None and found.shape[0] != length:
        raise ShapeError(f"{name} must have {length} entries (one a draw), got {found.shape[0]}")
    return found.contiguous()


def float_setting(
    name: str,
    value: float | Tensor,
    rows: int,
    dtype: torch.dtype,
    allowed: Callable[[float], bool],
    range_text: str,
) -> Setting:
    """A float in range, or a floating tensor `[B]` read as `dtype` (its entries are not looked at;
    one out of range makes its row NaN)."""
    if isinstance(value, Tensor):
        found = vector(name, value, (*_check.FLOATS, torch.float64), rows)
        return Setting(0.0, found.to(dtype))
    number = float(value)
    if not allowed(number):
        raise RangeError(f"{name} must {range_text}, got {value}")
    return Setting(number, None)


def beta_setting(value: float | Tensor, rows: int) -> Setting:
    """β: any finite number, float64."""
    return float_setting(
        "beta", value, rows, torch.float64, lambda x: abs(x) < float("inf"), "be a finite number"
    )


def temperature_setting(value: float | Tensor, rows: int) -> Setting:
    """T ≥ 0, fp32 (a positive one that rounds to 0 in fp32 counts as 0)."""
    return float_setting(
        "temperature", value, rows, torch.float32,
        lambda x: 0.0 <= x <= _FLT_MAX, "be a finite number >= 0 (0 is greedy)",
    )  # fmt: skip


def int_setting(name: str, value: int | Tensor, rows: int) -> Setting:
    """An integer ≥ 0, or an integer tensor `[B]`."""
    if isinstance(value, Tensor):
        return Setting(0, vector(name, value, _check.INTEGERS, rows).long())
    if isinstance(value, bool) or int(value) != value:
        raise DtypeError(f"{name} must be an integer, got {value!r}")
    if value < 0:
        raise RangeError(f"{name} must be >= 0 (0 is off), got {value}")
    return Setting(int(value), None)


# The law in plain torch ---------------------------------------------------------------------------


def pick_rows(logits: Tensor, row: Tensor | None, block: slice) -> Tensor:
    """Rows `block` of the results' logits; a `row` entry outside [0, B') reads row 0 (see
    `bad_rows`)."""
    if row is None:
        return logits[block]
    index = row[block].long()
    return logits[index.where((index >= 0) & (index < logits.shape[0]), torch.zeros_like(index))]


def bad_rows(row: Tensor | None, block: slice, count: int, like: Tensor) -> Tensor:
    """Which of the block's results name a logits row that does not exist, bool `[n]`."""
    if row is None:
        return torch.zeros(like.shape[0], dtype=torch.bool, device=like.device)
    return (row[block] < 0) | (row[block] >= count)


def guided_values(
    base: Tensor,  # [n, V]
    tuned: Tensor | None,  # [n, V_t]
    untuned: Tensor | None,  # [n, V_u]
    beta: Tensor,  # [n, 1] float64
    valid_base: int,
    valid_pair: int,
) -> Tensor:
    """Guided logits fp32 `[n, V]`: bad elements NaN, masked ones and padding −inf."""
    alone = torch.full(base.shape, float("-inf"), dtype=torch.float32, device=base.device)
    alone[:, :valid_base] = _nan_where_bad(base[:, :valid_base].float())
    if tuned is None or untuned is None:
        return alone
    b, t, u = (x[:, :valid_pair].double() for x in (base, tuned, untuned))
    masked = b.isneginf() | t.isneginf()
    value = b + beta * (t - u)
    value = value.masked_fill(u.isneginf(), float("nan")).masked_fill(masked, float("-inf"))
    for x in (b, t, u):
        value = value.masked_fill(x.isnan() | x.isposinf(), float("nan"))
    guided = torch.full_like(alone, float("-inf"))
    guided[:, :valid_pair] = _nan_where_bad(value.float())
    return torch.where(beta == 0, alone, guided)


def _nan_where_bad(value: Tensor) -> Tensor:
    return value.masked_fill(value.isposinf(), float("nan"))


def block_values(
    base: Tensor,
    tuned: Tensor | None,
    untuned: Tensor | None,
    beta: Tensor,  # [B, 1] float64
    row: Tensor | None,
    valid_base: int,
    valid_pair: int,
    block: slice,
) -> Tensor:
    """`guided_values` for the results `block`; all NaN where `row` names no logits row."""
    picked = [None if x is None else pick_rows(x, row, block) for x in (tuned, untuned)]
    own = pick_rows(base, row, block)
    z = guided_values(own, picked[0], picked[1], beta[block], valid_base, valid_pair)
    bad = bad_rows(row, block, base.shape[0], z)
    return z.masked_fill(bad.unsqueeze(1), float("nan"))


def integer_weights(z: Tensor, m: Tensor, temperature: Tensor) -> Tensor:
    """w = floor(exp((z − m)/T)·2⁴⁴), int64 `[n, V]`, for rows with finite m; fp32 m, T `[n, 1]`.

    (z − m) and its product with 1/T (at most FLT_MAX) are fp32 operations, as in every backend; exp
    is float64 rounded to fp32, where a kernel's own fp32 exp may differ by a rounding.
    """
    inverse = (1.0 / temperature).clamp(max=_FLT_MAX)
    x = ((z - m) * inverse).masked_fill(z.isneginf(), float("-inf"))
    e = torch.exp(x.double()).float().double()
    return torch.floor(e * 2.0**WEIGHT_BITS).long()


def log_of_share(z: Tensor, m: Tensor, temperature: Tensor, total: Tensor) -> Tensor:
    """(z − m)/T − log(Σw / 2⁴⁴) in float64, rounded once to fp32; total int64."""
    x = (z.double() - m.double()) / temperature.double()
    return (x - torch.log(total.double() * 2.0**-WEIGHT_BITS)).float()
