"""linear_logprob: log softmax at the targets straight from hidden states; `[N, V]` never exists."""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from .. import dispatch
from ..head import Head
from . import _check, _linear, _linear_cpu, _linear_reference, _op, _stats
from ._linear import HeadArgs, RowLaw
from ._warm import warm

tolerance = _linear.tolerance


def example_inputs(
    rows: int, width: int, vocab: int, *, dtype: torch.dtype = torch.float32, seed: int = 0,
    targets: int = 0,
) -> tuple[Tensor, Head, Tensor]:  # fmt: skip
    """Random (hidden `[rows, width]`, head, target `[rows]` or `[rows, targets]`)."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator).to(dtype)
    weight = (torch.randn(vocab, width, generator=generator) * 3 / width**0.5).to(dtype)
    shape = (rows, targets) if targets else (rows,)
    return hidden, Head(weight), torch.randint(vocab, shape, generator=generator)


@overload
def linear_logprob(
    hidden: Tensor,
    head: Head,
    target: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    entropy: Literal[False] = False,
    invariant: bool = False,
) -> Tensor: ...
@overload
def linear_logprob(
    hidden: Tensor,
    head: Head,
    target: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    entropy: Literal[True],
    invariant: bool = False,
) -> tuple[Tensor, Tensor]: ...
@warm
def linear_logprob(
    hidden: Tensor,
    head: Head,
    target: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    entropy: bool = False,
    invariant: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """log softmax(z/T)[target] for z = head(hidden), the head's product made in chunks.

    Differentiable in `hidden`, `head.weight` and `head.bias`; the backward makes the logits again,
    chunk by chunk, so neither direction stores `[N, V]`.

    Args:
        hidden: `[…, D]` fp32, bf16 or fp16, last dimension contiguous, any other stride. Its dtype
            and the weight's may differ: logits are fp32 products of the values as they are.
        head: the model's output head; columns from `head.valid_vocab` on are not read.
        target: `[…]` or `[…, K]` int32 or int64 (K targets share one product). −100 gives exactly
            0 and zero gradient; any other id outside [0, head.vocab) gives NaN.
        temperature: a number > 0, or a tensor `[…]` of them (an entry ≤ 0 makes its row NaN).
        entropy: also return each row's entropy in nats, `[…]` fp32.
        invariant: make a row's value the same bits whatever else is in the batch, on any number
            of threads (slower where the vendor's matrix product is good; gradients are not
            covered).

    Returns:
        fp32 log-probs of target's shape, or (log-probs, entropy).

    Raises:
        DtypeError, ShapeError, DeviceError, LayoutError, RangeError: naming the argument.
    """
    leading = _linear.check(hidden, head, hidden_name="hidden", head_name="head")
    _check.targets_of(target, leading, "hidden")
    device = _check.same_device(hidden=hidden, target=target)
    scalar, rows = _check.temperature_of(temperature, leading)
    _check.target_values(target, head.vocab)

    op = dispatch.resolve("linear_logprob", device)
    value, _, _, h = op(
        hidden.reshape(-1, hidden.shape[-1]),
        *_linear.head_args(head),
        _check.rows_of_targets(target, leading),
        scalar, rows, entropy, invariant,
    )  # fmt: skip
    value = value.reshape(target.shape)
    return (value, h.reshape(leading)) if entropy else value


_SCHEMA = (
    f"(Tensor hidden, {_linear.head_schema()}, Tensor target, float temperature, "
    "Tensor? temperature_rows, bool entropy, bool invariant) -> (Tensor, Tensor, Tensor, Tensor)"
)
# `needs` says which of (hidden, weight, bias) want a gradient; the others come back as `[0]`.
_BACKWARD_SCHEMA = (
    "(Tensor grad, Tensor? grad_entropy, Tensor hidden, "
    f"{_linear.head_schema()}, Tensor target, Tensor m, Tensor s, Tensor? entropy, "
    "float temperature, Tensor? temperature_rows, bool[] needs) -> (Tensor, Tensor, Tensor)"
)


def _reference(
    hidden: Tensor,  # [N, D]
    weight: Tensor,  # [V, D]
    bias: Tensor | None,
    weight_scale: Tensor | None,
    softcap: float,
    logit_scale: float,
    valid_vocab: int,
    target: Tensor,  # [N, K]
    temperature: float,
    temperature_rows: Tensor | None,  # [N] fp32
    entropy: bool,
    invariant: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    head = HeadArgs(weight, bias, weight_scale, softcap, logit_scale, valid_vocab)
    t = _stats.temperature_column(temperature, temperature_rows, hidden)
    law = _linear_reference.forward(hidden, head, target, t, entropy, invariant)
    return _finish(law, t, target, valid_vocab)


def _cpu(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_scale: Tensor | None,
    softcap: float,
    logit_scale: float,
    valid_vocab: int,
    target: Tensor,
    temperature: float,
    temperature_rows: Tensor | None,
    entropy: bool,
    invariant: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    head = HeadArgs(weight, bias, weight_scale, softcap, logit_scale, valid_vocab)
    law = _linear_cpu.forward(
        hidden, head, target, temperature, temperature_rows, entropy, invariant
    )
    t = _stats.temperature_column(temperature, temperature_rows, hidden)
    return _finish(law, t, target, valid_vocab)


def _finish(
    law: RowLaw, temperature: Tensor, target: Tensor, vocab: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    value = _linear.shifted_targets(law, temperature) - torch.log(law.s).unsqueeze(1)
    # x and log s round apart: a certain target may come out at +1e-17, and no log-prob is above 0.
    value = value.clamp(max=0.0)
    return _linear.mark_targets(value, target, vocab).float(), law.m, law.s, law.entropy


def _fake(hidden: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    target, entropy = args[6], args[9]
    rows = hidden.shape[0]
    return (
        hidden.new_empty(target.shape, dtype=torch.float32),
        hidden.new_empty(rows, dtype=torch.float32),
        hidden.new_empty(rows, dtype=torch.float64),
        hidden.new_empty(rows if entropy else 0, dtype=torch.float32),
    )


def _reference_backward(
    grad: Tensor,
    grad_entropy: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_scale: Tensor | None,
    softcap: float,
    logit_scale: float,
    valid_vocab: int,
    target: Tensor,
    m: Tensor,
    s: Tensor,
    entropy: Tensor | None,
    temperature: float,
    temperature_rows: Tensor | None,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    head = HeadArgs(weight, bias, weight_scale, softcap, logit_scale, valid_vocab)
    t = _stats.temperature_column(temperature, temperature_rows, hidden)
    return _linear_reference.backward(
        grad, grad_entropy, hidden, head, target, m, s, entropy, t, (needs[0], needs[1], needs[2])
    )


def _cpu_backward(
    grad: Tensor,
    grad_entropy: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_scale: Tensor | None,
    softcap: float,
    logit_scale: float,
    valid_vocab: int,
    target: Tensor,
    m: Tensor,
    s: Tensor,
    entropy: Tensor | None,
    temperature: float,
    temperature_rows: Tensor | None,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    head = HeadArgs(weight, bias, weight_scale, softcap, logit_scale, valid_vocab)
    return _linear_cpu.backward(
        grad, grad_entropy, hidden, head, target, m, s, entropy, temperature, temperature_rows,
        (needs[0], needs[1], needs[2]),
    )  # fmt: skip


def _fake_backward(grad: Tensor, grad_entropy: Any, hidden: Tensor, *args: Any) -> Any:
    weight, bias, needs = args[0], args[1], args[-1]
    bias = hidden if bias is None else bias
    return tuple(
        torch.empty(like.shape if need else (0,), dtype=like.dtype, device=like.device)
        for like, need in zip((hidden, weight, bias), needs, strict=True)
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, bias, weight_scale, *settings = inputs
    softcap, logit_scale, valid, target, temperature, rows, entropy, _ = settings
    _, m, s, h = output
    ctx.mark_non_differentiable(m, s)
    ctx.save_for_backward(hidden, weight, bias, weight_scale, target, rows, m, s, h)
    ctx.settings = (softcap, logit_scale, valid, temperature, entropy)


def _backward(ops: Any, ctx: Any, grad: Tensor, _m: Any, _s: Any, grad_h: Tensor) -> Any:
    hidden, weight, bias, weight_scale, target, rows, m, s, h = ctx.saved_tensors
    softcap, logit_scale, valid, temperature, entropy = ctx.settings
    needs = [bool(need) for need in ctx.needs_input_grad[:3]]
    gradients = ops.linear_logprob_backward(
        grad.contiguous(), grad_h.contiguous() if entropy else None, hidden, weight, bias,
        weight_scale, softcap, logit_scale, valid, target, m, s, h if entropy else None,
        temperature, rows, needs,
    )  # fmt: skip
    wanted = [g if need else None for g, need in zip(gradients, needs, strict=True)]
    return (*wanted, *[None] * 9)


_op.define(
    "linear_logprob_backward",
    _BACKWARD_SCHEMA,
    reference=_reference_backward,
    fake=_fake_backward,
    cpu=_cpu_backward,
    needs=_linear_cpu.NEEDS,
    triton="linear_logprob",
)
_op.define(
    "linear_logprob",
    _SCHEMA,
    reference=_reference,
    fake=_fake,
    cpu=_cpu,
    needs=_linear_cpu.NEEDS,
    triton="linear_logprob",
    setup_context=_setup_context,
    backward=_backward,
)
