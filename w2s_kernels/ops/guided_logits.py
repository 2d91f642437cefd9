"""guided_logits: base + β(tuned − untuned), what other engines' logits processors need."""

import torch
from torch import Tensor

from .. import dispatch
from . import _check, _guided, _op, _stats

# |error| ≤ RTOL·|value| against float64 of the same rounded inputs: one fp32 rounding.
ATOL, RTOL = 0.0, 2.0**-24


def tolerance(value: Tensor) -> Tensor:
    """The largest allowed |error| at each float64 value."""
    return ATOL + RTOL * value.abs()


def example_inputs(
    rows: int, vocab: int, *, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Random (base, tuned, untuned), each `[rows, vocab]`."""
    generator = torch.Generator().manual_seed(seed)
    base, tuned, noise = torch.randn(3, rows, vocab, generator=generator)
    return (base * 4).to(dtype), (tuned * 3).to(dtype), (tuned * 3 + noise * 0.5).to(dtype)


def guided_logits(
    base: Tensor,
    tuned: Tensor,
    untuned: Tensor,
    *,
    beta: float | Tensor,
    row: Tensor | None = None,
    valid_vocab: _guided.ValidVocab = None,
) -> Tensor:
    """base + β(tuned − untuned), fp32. Not differentiable (gradients stop here).

    Emulated fine-tuning and proxy-tuning (Mitchell et al. 2023; Liu et al. 2024). Computed in
    float64, rounded once. An element is −inf where base or tuned is −inf, NaN where an input is NaN
    or +inf or untuned alone is −inf; β = 0 reads the base only.

    Args:
        base: `[B', V]` fp32, bf16 or fp16, last dimension contiguous, any row stride.
        tuned, untuned: `[B', V_t]`, `[B', V_u]`; the three may be padded differently.
        beta: a finite number, or a floating tensor `[B]`.
        row: `[B]` int32 or int64, the logits row of each result; None: B = B', one to one. An entry
            outside [0, B') gives a row of NaN.
        valid_vocab: columns from here on are padding: one number, (base, tuned, untuned), or None.

    Returns:
        fp32 `[B, V]`; columns from the smallest valid vocabulary on are −inf.

    Raises:
        DtypeError, ShapeError, DeviceError, LayoutError, RangeError: naming the argument.
    """
    found = _guided.sources(base, tuned, untuned, row, valid_vocab, beta)
    setting = _guided.beta_setting(beta, found.rows)
    device = _check.same_device(
        base=base, tuned=found.tuned, untuned=found.untuned, row=found.row, beta=setting.rows
    )
    op = dispatch.resolve("guided_logits", device)
    result: Tensor = op(
        found.base, found.tuned, found.untuned, found.row, setting.value, setting.rows,
        found.valid_base, found.valid_pair,
    )  # fmt: skip
    return result


_SCHEMA = (
    "(Tensor base, Tensor? tuned, Tensor? untuned, Tensor? row, float beta, Tensor? beta_rows, "
    "int valid_base, int valid_pair) -> Tensor"
)


def _reference(
    base: Tensor,  # [B', V]
    tuned: Tensor | None,
    untuned: Tensor | None,
    row: Tensor | None,  # [B]
    beta: float,
    beta_rows: Tensor | None,  # [B] float64
    valid_base: int,
    valid_pair: int,
) -> Tensor:
    out = _fake(base, tuned, untuned, row, beta, beta_rows, valid_base, valid_pair)
    betas = _guided.Setting(beta, beta_rows).column(out.shape[0], base.device, torch.float64)
    for block in _stats.row_blocks(*out.shape):
        out[block] = _guided.block_values(
            base, tuned, untuned, betas, row, valid_base, valid_pair, block
        )
    return out


def _fake(
    base: Tensor,
    tuned: Tensor | None,
    untuned: Tensor | None,
    row: Tensor | None,
    beta: float,
    beta_rows: Tensor | None,
    valid_base: int,
    valid_pair: int,
) -> Tensor:
    rows = base.shape[0] if row is None else row.shape[0]
    return base.new_empty((rows, base.shape[1]), dtype=torch.float32)


_op.define("guided_logits", _SCHEMA, reference=_reference, fake=_fake)
