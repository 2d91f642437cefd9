"""What both linear ops share: a head as op arguments, checks, the finish of a value, tolerances."""

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DtypeError, ShapeError
from ..head import Head
from . import _check

# |error| ≤ ATOL + RTOL·|value| + LOGIT·2⁻²⁴·(‖h‖·max‖w‖ + max|b|)·|logit_scale|/T against float64:
# the last term is what fp32 logits cost, also for bf16 inputs.
ATOL, RTOL, LOGIT = 2e-6, 2e-7, 8.0


class HeadArgs(NamedTuple):
    """A `Head` as the arguments of a torch op, in the order of `HEAD_SCHEMA`."""

    weight: Tensor  # [V, D]
    bias: Tensor | None  # [V]
    weight_scale: Tensor | None  # [V]
    softcap: float
    logit_scale: float
    valid: int  # columns that count


class RowLaw(NamedTuple):
    """The law of each row: m (fp32), s and, when asked, the entropy; and z at the targets."""

    m: Tensor  # [N] fp32, max z
    s: Tensor  # [N] fp64, Σ exp((z − m)/T)
    entropy: Tensor  # [N] or [0] fp32, nats
    z_target: Tensor  # [N, K]


def head_schema(suffix: str = "") -> str:
    """Schema text of a head's arguments, each name with a suffix."""
    return (
        f"Tensor weight{suffix}, Tensor? bias{suffix}, Tensor? weight_scale{suffix}, "
        f"float softcap{suffix}, float logit_scale{suffix}, int valid_vocab{suffix}"
    )


def head_args(head: Head) -> HeadArgs:
    """The head as op arguments."""
    return HeadArgs(
        head.weight, head.bias, head.weight_scale,
        float(head.softcap), float(head.logit_scale), head.vocab,
    )  # fmt: skip


def check(hidden: Tensor, head: Head, *, hidden_name: str, head_name: str) -> torch.Size:
    """Checks hidden states `[…, D]` against a head and returns their leading shape."""
    if not isinstance(head, Head):
        raise DtypeError(f"{head_name} must be a w2s_kernels.Head, got {type(head).__name__}")
    _check.logits(hidden_name, hidden)
    if hidden.shape[-1] != head.weight.shape[1]:
        raise ShapeError(
            f"{hidden_name} must be […, {head.weight.shape[1]}] to fit {head_name}.weight "
            f"{list(head.weight.shape)}, got {list(hidden.shape)}"
        )
    _check.same_device(**{hidden_name: hidden, f"{head_name}.weight": head.weight})
    _check.no_nan(hidden_name, hidden)
    return hidden.shape[:-1]


def used_rows(target: Tensor, grad_entropy: Tensor | None) -> Tensor:
    """`[N]` bool: rows whose gradient is not zero by rule (some target counts, or the entropy)."""
    used = (target != _check.IGNORE_INDEX).any(dim=1)
    return used if grad_entropy is None else used | (grad_entropy != 0)


def shifted_targets(law: RowLaw, temperature: Tensor) -> Tensor:
    """(z_target − m)/T, float64 `[N, K]`; NaN on rows without a finite logit."""
    m = law.m.double().unsqueeze(1)
    shifted = (law.z_target.double() - m) / temperature
    return shifted.masked_fill(~(m > float("-inf")), float("nan"))


def mark_targets(value: Tensor, target: Tensor, *vocabs: int) -> Tensor:
    """0 at IGNORE_INDEX, NaN at any other target outside one of [0, vocab); else `value`."""
    invalid = (target < 0) | (target >= min(vocabs))
    return value.masked_fill(invalid, float("nan")).masked_fill(target == _check.IGNORE_INDEX, 0.0)


def tolerance(value: Tensor, hidden: Tensor, head: Head, *, temperature: float = 1.0) -> Tensor:
    """The largest allowed |error| at float64 values `[N]` or `[N, K]` of hidden states `[N, D]`."""
    pieces = head.weight[: head.vocab].split(4096)
    norms = torch.cat([piece.double().norm(dim=-1) for piece in pieces])  # [V]
    if head.weight_scale is not None:
        norms = norms * head.weight_scale[: head.vocab].double().abs()
    size = hidden.double().norm(dim=-1) * norms.max()
    if head.bias is not None:
        bias = head.bias[: head.vocab].double()
        size = size + bias.masked_fill(bias.isinf(), 0.0).abs().max()
    logit = LOGIT * 2.0**-24 * size * abs(head.logit_scale) / temperature
    logit = logit + 4 * 2.0**-23 * head.softcap / temperature
    if value.dim() > logit.dim():
        logit = logit.unsqueeze(-1)
    allowed: Tensor = ATOL + RTOL * value.abs() + logit
    return allowed
