"""logprob: log softmax at the targets, and the entropy in the same pass."""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from .. import dispatch
from . import _check, _op, _stats
from ._warm import warm

# |error| ≤ ATOL + RTOL·|value| against float64 of the same rounded inputs (+ the softcap's term).
ATOL, RTOL = 2e-6, 2e-7


def tolerance(value: Tensor, *, softcap: float = 0.0, temperature: float = 1.0) -> Tensor:
    """The largest allowed |error| at each float64 value."""
    return ATOL + RTOL * value.abs() + 4 * 2.0**-23 * softcap / temperature


def example_inputs(
    rows: int, vocab: int, *, dtype: torch.dtype = torch.float32, seed: int = 0, targets: int = 0
) -> tuple[Tensor, Tensor]:
    """Random (logits `[rows, vocab]`, target `[rows]` or `[rows, targets]`)."""
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, vocab, generator=generator) * 4).to(dtype)
    shape = (rows, targets) if targets else (rows,)
    return logits, torch.randint(vocab, shape, generator=generator)


@overload
def logprob(
    logits: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    softcap: float = 0.0,
    valid_vocab: int | None = None,
    entropy: Literal[False] = False,
) -> Tensor: ...
@overload
def logprob(
    logits: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    softcap: float = 0.0,
    valid_vocab: int | None = None,
    entropy: Literal[True],
) -> tuple[Tensor, Tensor]: ...
@warm
def logprob(
    logits: Tensor,
    target: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    softcap: float = 0.0,
    valid_vocab: int | None = None,
    entropy: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """log softmax(z/T)[target] of each row, without storing a `[N, V]` result. Differentiable.

    Args:
        logits: `[…, V]` fp32, bf16 or fp16, last dimension contiguous, any other stride.
        target: `[…]` or `[…, K]` int32 or int64 (K targets share one read). −100 gives exactly 0
            and zero gradient; any other id outside [0, valid_vocab) gives NaN.
        temperature: a number > 0, or a tensor `[…]` of them (an entry ≤ 0 makes its row NaN).
        softcap: c > 0 applies c·tanh(z/c) first (Gemma 2); 0 for none.
        valid_vocab: columns from here on are padding; None for all.
        entropy: also return each row's entropy in nats, `[…]` fp32.

    Returns:
        fp32 log-probs of target's shape, or (log-probs, entropy).

    Raises:
        DtypeError, ShapeError, DeviceError, LayoutError, RangeError: naming the argument.
    """
    _check.logits("logits", logits)
    leading = logits.shape[:-1]
    _check.targets_of(target, leading, "logits")
    device = _check.same_device(logits=logits, target=target)
    softcap = _check.non_negative("softcap", softcap)
    valid = _check.valid_columns("valid_vocab", valid_vocab, logits.shape[-1])
    scalar, rows = _check.temperature_of(temperature, leading)
    _check.target_values(target, valid)
    _check.no_nan("logits", logits)

    op = dispatch.resolve("logprob", device)
    value, _, _, h = op(
        logits.reshape(-1, logits.shape[-1]),
        _check.rows_of_targets(target, leading),
        scalar, rows, softcap, valid, entropy,
    )  # fmt: skip
    value = value.reshape(target.shape)
    return (value, h.reshape(leading)) if entropy else value


_SCHEMA = (
    "(Tensor logits, Tensor target, float temperature, Tensor? temperature_rows, float softcap, "
    "int valid_vocab, bool entropy) -> (Tensor, Tensor, Tensor, Tensor)"
)
_BACKWARD_SCHEMA = (
    "(Tensor grad, Tensor? grad_entropy, Tensor logits, Tensor target, Tensor m, Tensor s, "
    "Tensor? entropy, float temperature, Tensor? temperature_rows, float softcap, int valid_vocab)"
    " -> Tensor"
)


def _reference(
    logits: Tensor,  # [N, V]
    target: Tensor,  # [N, K]
    temperature: float,
    temperature_rows: Tensor | None,  # [N] fp32
    softcap: float,
    valid_vocab: int,
    entropy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    value, m, s, h = _empty_results(logits, target, entropy)
    t = _stats.temperature_column(temperature, temperature_rows, logits)
    for block in _stats.row_blocks(*logits.shape):
        z = _stats.effective_logits(logits[block, :valid_vocab], softcap)
        stats = _stats.row_stats(z, t[block])
        z_target, _ = _stats.target_logits(z, target[block])
        value[block] = _stats.finish(stats, z_target, t[block], target[block], valid_vocab).float()
        m[block], s[block] = stats.m[:, 0].float(), stats.s[:, 0]
        if entropy:
            h[block] = _stats.entropy_of(stats)[:, 0].float()
    return value, m, s, h


def _empty_results(
    logits: Tensor, target: Tensor, entropy: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = logits.shape[0]
    return (
        logits.new_empty(target.shape, dtype=torch.float32),
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty(rows, dtype=torch.float64),
        logits.new_empty(rows if entropy else 0, dtype=torch.float32),
    )


def _fake(
    logits: Tensor,
    target: Tensor,
    temperature: float,
    temperature_rows: Tensor | None,
    softcap: float,
    valid_vocab: int,
    entropy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty_results(logits, target, entropy)


def _reference_backward(
    grad: Tensor,
    grad_entropy: Tensor | None,
    logits: Tensor,
    target: Tensor,
    m: Tensor,
    s: Tensor,
    entropy: Tensor | None,
    temperature: float,
    temperature_rows: Tensor | None,
    softcap: float,
    valid_vocab: int,
) -> Tensor:
    out = torch.zeros(logits.shape, dtype=logits.dtype, device=logits.device)
    t = _stats.temperature_column(temperature, temperature_rows, logits)
    for block in _stats.row_blocks(*logits.shape):
        out[block, :valid_vocab] = _stats.logit_gradient(
            logits[block, :valid_vocab], target[block], grad[block],
            None if grad_entropy is None else grad_entropy[block, None],
            m[block, None].double(), s[block, None],
            None if entropy is None else entropy[block, None],
            t[block], softcap, valid_vocab,
        ).to(logits.dtype)  # fmt: skip
    return out


def _fake_backward(grad: Tensor, grad_entropy: Tensor | None, logits: Tensor, *_: Any) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    logits, target, temperature, rows, softcap, valid, entropy = inputs
    _, m, s, h = output
    ctx.mark_non_differentiable(m, s)
    ctx.save_for_backward(logits, target, rows, m, s, h)
    ctx.settings = (temperature, softcap, valid, entropy)


def _backward(ops: Any, ctx: Any, grad: Tensor, _m: Any, _s: Any, grad_h: Tensor) -> Any:
    logits, target, rows, m, s, h = ctx.saved_tensors
    temperature, softcap, valid, entropy = ctx.settings
    gradient = ops.logprob_backward(
        grad.contiguous(), grad_h.contiguous() if entropy else None, logits, target, m, s,
        h if entropy else None, temperature, rows, softcap, valid,
    )  # fmt: skip
    return gradient, None, None, None, None, None, None


_op.define(
    "logprob_backward",
    _BACKWARD_SCHEMA,
    reference=_reference_backward,
    fake=_fake_backward,
    triton="logprob",
)
_op.define(
    "logprob",
    _SCHEMA,
    reference=_reference,
    fake=_fake,
    triton="logprob",
    setup_context=_setup_context,
    backward=_backward,
)
