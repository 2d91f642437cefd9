"""linear_logprob_diff: a pair's log-prob difference at the targets, straight from hidden states."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import dispatch
from ..head import Head
from . import _check, _linear, _linear_cpu, _linear_reference, _op, _stats
from ._linear import HeadArgs, RowLaw
from ._warm import warm

# linear_logprob defines `linear_logprob_backward`, which each side's gradient is.
from .linear_logprob import example_inputs as _one_side


def tolerance(
    value: Tensor,
    hidden_t: Tensor,
    head_t: Head,
    hidden_u: Tensor,
    head_u: Head,
    *,
    temperature: float = 1.0,
) -> Tensor:
    """The largest allowed |error| at float64 values: both sides' logits, one rounding."""
    zero = torch.zeros_like(value)
    sides = ((hidden_t, head_t), (hidden_u, head_u))
    both = [_linear.tolerance(zero, h, head, temperature=temperature) for h, head in sides]
    return both[0] + both[1] - _linear.ATOL + _linear.RTOL * value.abs()


def example_inputs(
    rows: int, width: int, vocab: int, *, dtype: torch.dtype = torch.float32, seed: int = 0,
    targets: int = 0,
) -> tuple[Tensor, Head, Tensor, Head, Tensor]:  # fmt: skip
    """Random (hidden_t, head_t, hidden_u, head_u, target)."""
    tuned = _one_side(rows, width, vocab, dtype=dtype, seed=2 * seed, targets=targets)
    untuned = _one_side(rows, width, vocab, dtype=dtype, seed=2 * seed + 1, targets=targets)
    return tuned[0], tuned[1], untuned[0], untuned[1], tuned[2]


@warm
def linear_logprob_diff(
    hidden_t: Tensor,
    head_t: Head,
    hidden_u: Tensor,
    head_u: Head,
    target: Tensor,
    *,
    temperature: float | Tensor | tuple[float | Tensor, float | Tensor] = 1.0,
    invariant: bool = False,
) -> Tensor:
    """log p_tuned − log p_untuned at the targets, both heads' products made in chunks.

    Finished in float64 and rounded once, so the difference keeps the digits that subtracting two
    fp32 log-probs loses. Differentiable in both sides' hidden states, weights and biases.

    Args:
        hidden_t, hidden_u: the tuned and the untuned model's hidden states, `[…, D]` and
            `[…, D']`, fp32, bf16 or fp16, last dimension contiguous.
        head_t, head_u: their output heads, padded as they like (`Head.valid_vocab`).
        target: `[…]` or `[…, K]` int32 or int64. −100 gives exactly 0 and zero gradient; an id
            outside either head's valid columns gives NaN.
        temperature: a number > 0 or a tensor `[…]`; a 2-tuple gives (tuned, untuned).
        invariant: as in `linear_logprob`.

    Returns:
        fp32 differences of target's shape. At a target masked only in the untuned +inf, in both
        NaN.

    Raises:
        DtypeError, ShapeError, DeviceError, LayoutError, RangeError: naming the argument.
    """
    leading = _linear.check(hidden_t, head_t, hidden_name="hidden_t", head_name="head_t")
    _linear.check(hidden_u, head_u, hidden_name="hidden_u", head_name="head_u")
    _check.same_rows("hidden_u", hidden_u, leading, "hidden_t")
    _check.targets_of(target, leading, "hidden_t")
    device = _check.same_device(hidden_t=hidden_t, hidden_u=hidden_u, target=target)
    pair: tuple[float | Tensor, float | Tensor] = _check.pair("temperature", temperature)
    t_tuned, t_untuned = pair
    scalar_t, rows_t = _check.temperature_of(t_tuned, leading)
    scalar_u, rows_u = _check.temperature_of(t_untuned, leading)
    _check.target_values(target, min(head_t.vocab, head_u.vocab))

    op = dispatch.resolve("linear_logprob_diff", device)
    value: Tensor
    value, *_ = op(
        hidden_t.reshape(-1, hidden_t.shape[-1]), *_linear.head_args(head_t),
        hidden_u.reshape(-1, hidden_u.shape[-1]), *_linear.head_args(head_u),
        _check.rows_of_targets(target, leading),
        scalar_t, rows_t, scalar_u, rows_u, invariant,
    )  # fmt: skip
    return value.reshape(target.shape)


_SCHEMA = (
    f"(Tensor hidden_t, {_linear.head_schema('_t')}, "
    f"Tensor hidden_u, {_linear.head_schema('_u')}, Tensor target, "
    "float temperature_t, Tensor? temperature_rows_t, "
    "float temperature_u, Tensor? temperature_rows_u, bool invariant)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def difference(
    tuned: RowLaw, untuned: RowLaw, t_tuned: Tensor, t_untuned: Tensor, target: Tensor,
    vocab_t: int, vocab_u: int,
) -> Tensor:  # fmt: skip
    """((z − m)/T)_tuned − ((z − m)/T)_untuned − (log s_tuned − log s_untuned), rounded once."""
    shifted = _linear.shifted_targets(tuned, t_tuned) - _linear.shifted_targets(untuned, t_untuned)
    value = shifted - (torch.log(tuned.s) - torch.log(untuned.s)).unsqueeze(1)
    return _linear.mark_targets(value, target, vocab_t, vocab_u).float()


def _implementation(side: Callable[..., RowLaw]) -> Callable[..., Any]:
    """The op on a backend, given its way to one side's law."""

    def implementation(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        target, scalar_t, rows_t, scalar_u, rows_u, invariant = args[14:]
        hidden_t, head_t = args[0], HeadArgs(*args[1:7])
        hidden_u, head_u = args[7], HeadArgs(*args[8:14])
        tuned = side(hidden_t, head_t, target, scalar_t, rows_t, invariant)
        untuned = side(hidden_u, head_u, target, scalar_u, rows_u, invariant)
        t_t = _stats.temperature_column(scalar_t, rows_t, hidden_t)
        t_u = _stats.temperature_column(scalar_u, rows_u, hidden_u)
        value = difference(tuned, untuned, t_t, t_u, target, head_t.valid, head_u.valid)
        return value, tuned.m, tuned.s, untuned.m, untuned.s

    return implementation


def _reference_side(
    hidden: Tensor, head: HeadArgs, target: Tensor, temperature: float, rows: Tensor | None,
    invariant: bool,
) -> RowLaw:  # fmt: skip
    t = _stats.temperature_column(temperature, rows, hidden)
    return _linear_reference.forward(hidden, head, target, t, False, invariant)


def _cpu_side(
    hidden: Tensor, head: HeadArgs, target: Tensor, temperature: float, rows: Tensor | None,
    invariant: bool,
) -> RowLaw:  # fmt: skip
    return _linear_cpu.forward(hidden, head, target, temperature, rows, False, invariant)


def _fake(hidden_t: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    target, rows = args[13], hidden_t.shape[0]
    value = hidden_t.new_empty(target.shape, dtype=torch.float32)
    m = [hidden_t.new_empty(rows, dtype=torch.float32) for _ in range(2)]
    s = [hidden_t.new_empty(rows, dtype=torch.float64) for _ in range(2)]
    return value, m[0], s[0], m[1], s[1]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    target, scalar_t, rows_t, scalar_u, rows_u, _ = inputs[14:]
    _, m_t, s_t, m_u, s_u = output
    ctx.mark_non_differentiable(m_t, s_t, m_u, s_u)
    ctx.save_for_backward(
        *inputs[:4], rows_t, m_t, s_t, *inputs[7:11], rows_u, m_u, s_u, target
    )  # each side: hidden, weight, bias, weight_scale, temperature rows, m, s
    ctx.settings = ((*inputs[4:7], scalar_t), (*inputs[11:14], scalar_u))


def _backward(ops: Any, ctx: Any, grad: Tensor, *_: Any) -> Any:
    target = ctx.saved_tensors[-1]
    # A target that only one head knows is invalid for the pair: both sides' gradients are NaN.
    vocab = min(settings[2] for settings in ctx.settings)
    out: list[Tensor | None] = []
    for side, sign in ((0, 1.0), (1, -1.0)):
        hidden, weight, bias, weight_scale, rows, m, s = ctx.saved_tensors[7 * side : 7 * side + 7]
        softcap, logit_scale, valid, temperature = ctx.settings[side]
        needs = [bool(need) for need in ctx.needs_input_grad[7 * side : 7 * side + 3]]
        gradients: list[Tensor | None] = [None, None, None]
        if any(needs):
            known = target if vocab == valid else torch.where(target < vocab, target, -1)
            found = ops.linear_logprob_backward(
                (sign * grad).contiguous(), None, hidden, weight, bias, weight_scale, softcap,
                logit_scale, valid, known, m, s, None, temperature, rows, needs,
            )  # fmt: skip
            gradients = [g if need else None for g, need in zip(found, needs, strict=True)]
        out += [*gradients, None, None, None, None]
    return (*out, *[None] * 6)


_op.define(
    "linear_logprob_diff",
    _SCHEMA,
    reference=_implementation(_reference_side),
    fake=_fake,
    cpu=_implementation(_cpu_side),
    needs=_linear_cpu.NEEDS,
    triton="linear_logprob_diff",
    setup_context=_setup_context,
    backward=_backward,
)
