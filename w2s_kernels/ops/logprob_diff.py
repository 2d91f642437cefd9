"""logprob_diff: log p_tuned − log p_untuned at the targets, both models read in one launch.

The quantity the search keeps text by (arXiv 2405.19262, section 3).
"""

from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from . import _check, _op, _stats
from ._warm import warm
from .logprob import ATOL, RTOL

__all__ = ["ATOL", "RTOL", "example_inputs", "logprob_diff", "tolerance"]


def tolerance(
    value: Tensor,
    *,
    softcap: tuple[float, float] = (0.0, 0.0),
    temperature: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """The largest allowed |error| at each float64 difference."""
    capped = sum(c / t for c, t in zip(softcap, temperature, strict=True))
    return ATOL + RTOL * value.abs() + 4 * 2.0**-23 * capped


def example_inputs(
    rows: int, vocab: int, *, dtype: torch.dtype = torch.float32, seed: int = 0, targets: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Random (tuned `[rows, vocab]`, untuned, target); untuned is tuned and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    tuned = torch.randn(rows, vocab, generator=generator) * 4
    untuned = tuned + torch.randn(rows, vocab, generator=generator)
    shape = (rows, targets) if targets else (rows,)
    target = torch.randint(vocab, shape, generator=generator)
    return tuned.to(dtype), untuned.to(dtype), target


@warm
def logprob_diff(
    tuned: Tensor,
    untuned: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor | tuple[float | Tensor, float | Tensor] = 1.0,
    softcap: float | tuple[float, float] = 0.0,
    valid_vocab: int | tuple[int | None, int | None] | None = None,
) -> Tensor:
    """log p_tuned − log p_untuned at the targets, rounded once. Differentiable in both.

    An option is one value for both models or a 2-tuple (tuned, untuned).
    `diff(a, b) = −diff(b, a)` and `diff(a, a) = 0` hold bit for bit.

    Args:
        tuned, untuned: `[…, V]` and `[…, V']` fp32, bf16 or fp16 (each its own), last dimension
            contiguous; the two may be padded differently.
        target: `[…]` or `[…, K]` int32 or int64. −100 gives exactly 0 and zero gradient; any other
            id outside [0, the smaller valid vocabulary) gives NaN.
        temperature: a number > 0, or a tensor `[…]` of them (an entry ≤ 0 makes its row NaN).
        softcap: c > 0 applies c·tanh(z/c) first; 0 for none.
        valid_vocab: columns from here on are padding; None for all.

    Returns:
        fp32 of target's shape. A target masked in both models gives NaN, only in tuned −inf, only
        in untuned +inf; a row without a finite logit, or with NaN or +inf, in either gives NaN.

    Raises:
        DtypeError, ShapeError, DeviceError, LayoutError, RangeError: naming the argument.
    """
    leading = _check.logits("tuned", tuned).shape[:-1]
    _check.same_rows("untuned", _check.logits("untuned", untuned), leading, "tuned")
    _check.targets_of(target, leading, "tuned")
    device = _check.same_device(tuned=tuned, untuned=untuned, target=target)
    softcap_t, softcap_u = (
        _check.non_negative("softcap", value) for value in _check.pair("softcap", softcap)
    )
    wanted_t, wanted_u = _check.pair("valid_vocab", valid_vocab)
    valid_t = _check.valid_columns("valid_vocab (tuned)", wanted_t, tuned.shape[-1])
    valid_u = _check.valid_columns("valid_vocab (untuned)", wanted_u, untuned.shape[-1])
    wanted: tuple[float | Tensor, float | Tensor] = _check.pair("temperature", temperature)
    (scalar_t, rows_t), (scalar_u, rows_u) = (_check.temperature_of(t, leading) for t in wanted)
    _check.target_values(target, min(valid_t, valid_u))
    _check.no_nan("tuned", tuned)
    _check.no_nan("untuned", untuned)

    op = dispatch.resolve("logprob_diff", device)
    value: Tensor = op(
        tuned.reshape(-1, tuned.shape[-1]),
        untuned.reshape(-1, untuned.shape[-1]),
        _check.rows_of_targets(target, leading),
        scalar_t, scalar_u, rows_t, rows_u, softcap_t, softcap_u, valid_t, valid_u,
    )[0]  # fmt: skip
    return value.reshape(target.shape)


_OPTIONS = (
    "float temperature_t, float temperature_u, Tensor? rows_t, Tensor? rows_u, "
    "float softcap_t, float softcap_u, int valid_t, int valid_u"
)


def _reference(
    tuned: Tensor,  # [N, V]
    untuned: Tensor,  # [N, V']
    target: Tensor,  # [N, K]
    temperature_t: float,
    temperature_u: float,
    rows_t: Tensor | None,  # [N] fp32
    rows_u: Tensor | None,
    softcap_t: float,
    softcap_u: float,
    valid_t: int,
    valid_u: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    diff, m_t, s_t, m_u, s_u = _fake(tuned, untuned, target)
    t_t = _stats.temperature_column(temperature_t, rows_t, tuned)
    t_u = _stats.temperature_column(temperature_u, rows_u, untuned)
    for block in _stats.row_blocks(tuned.shape[0], valid_t + valid_u):
        sides = []
        for logits, t, softcap, valid, m, s in (
            (tuned, t_t, softcap_t, valid_t, m_t, s_t),
            (untuned, t_u, softcap_u, valid_u, m_u, s_u),
        ):
            z = _stats.effective_logits(logits[block, :valid], softcap)
            stats = _stats.row_stats(z, t[block])
            z_target, _ = _stats.target_logits(z, target[block])
            m[block], s[block] = stats.m[:, 0].float(), stats.s[:, 0]
            sides.append((stats, z_target, t[block]))
        vocab = min(valid_t, valid_u)
        diff[block] = _stats.finish_diff(*sides[0], *sides[1], target[block], vocab).float()
    return diff, m_t, s_t, m_u, s_u


def _fake(
    tuned: Tensor, untuned: Tensor, target: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = tuned.shape[0]
    return (
        tuned.new_empty(target.shape, dtype=torch.float32),
        tuned.new_empty(rows, dtype=torch.float32),
        tuned.new_empty(rows, dtype=torch.float64),
        untuned.new_empty(rows, dtype=torch.float32),
        untuned.new_empty(rows, dtype=torch.float64),
    )


def _reference_backward(
    grad: Tensor,  # [N, K]
    tuned: Tensor,
    untuned: Tensor,
    target: Tensor,
    m_t: Tensor,
    s_t: Tensor,
    m_u: Tensor,
    s_u: Tensor,
    temperature_t: float,
    temperature_u: float,
    rows_t: Tensor | None,
    rows_u: Tensor | None,
    softcap_t: float,
    softcap_u: float,
    valid_t: int,
    valid_u: int,
    need_t: bool,
    need_u: bool,
) -> tuple[Tensor, Tensor]:
    vocab = min(valid_t, valid_u)
    results = []
    for logits, sign, m, s, scalar, rows, softcap, valid, needed in (
        (tuned, 1.0, m_t, s_t, temperature_t, rows_t, softcap_t, valid_t, need_t),
        (untuned, -1.0, m_u, s_u, temperature_u, rows_u, softcap_u, valid_u, need_u),
    ):
        n = logits.shape[0] if needed else 0
        out = torch.zeros((n, logits.shape[1]), dtype=logits.dtype, device=logits.device)
        t = _stats.temperature_column(scalar, rows, logits)
        for block in _stats.row_blocks(n, valid):
            out[block, :valid] = _stats.logit_gradient(
                logits[block, :valid], target[block], sign * grad[block], None,
                m[block, None].double(), s[block, None], None, t[block], softcap, vocab,
            ).to(logits.dtype)  # fmt: skip
        results.append(out)
    return results[0], results[1]


def _fake_backward(
    grad: Tensor, tuned: Tensor, untuned: Tensor, *rest: Any
) -> tuple[Tensor, Tensor]:
    need_t, need_u = rest[-2:]
    return (
        tuned.new_empty(tuned.shape[0] if need_t else 0, tuned.shape[1]),
        untuned.new_empty(untuned.shape[0] if need_u else 0, untuned.shape[1]),
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tuned, untuned, target, scalar_t, scalar_u, rows_t, rows_u, *columns = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(tuned, untuned, target, *output[1:], rows_t, rows_u)
    ctx.settings = (scalar_t, scalar_u, columns)


def _backward(ops: Any, ctx: Any, grad: Tensor, *_: Any) -> Any:
    *saved, rows_t, rows_u = ctx.saved_tensors
    scalar_t, scalar_u, columns = ctx.settings
    need_t, need_u = ctx.needs_input_grad[:2]
    grad_t, grad_u = ops.logprob_diff_backward(
        grad.contiguous(), *saved, scalar_t, scalar_u, rows_t, rows_u, *columns, need_t, need_u
    )
    return (grad_t if need_t else None, grad_u if need_u else None, *[None] * 9)


_op.define(
    "logprob_diff_backward",
    "(Tensor grad, Tensor tuned, Tensor untuned, Tensor target, Tensor m_t, Tensor s_t, "
    f"Tensor m_u, Tensor s_u, {_OPTIONS}, bool need_t, bool need_u) -> (Tensor, Tensor)",
    reference=_reference_backward,
    fake=_fake_backward,
    triton="logprob_diff",
)
_op.define(
    "logprob_diff",
    f"(Tensor tuned, Tensor untuned, Tensor target, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference=_reference,
    fake=_fake,
    triton="logprob_diff",
    setup_context=_setup_context,
    backward=_backward,
)
