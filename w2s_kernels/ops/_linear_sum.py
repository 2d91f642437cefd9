"""Σ wₙ·log-probₙ with weights that are known beforehand, and its gradient, in one pass on the CPU.

linear_logprob's backward has to make the logits again, since the gradient of each row's log-prob is
known only then. Where a loss is a weighted sum of log-probs (the mean of supervised training is
one), the forward knows it already: the logits of a block of rows are kept, become their own
gradient in place, and three products do the work of four. The price is a buffer of a block's
logits, `[256, V]`, and that the gradient of the head is read and written once a block.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import dispatch
from ..head import Head
from . import _check, _linear, _linear_cpu
from ._linear import HeadArgs, RowLaw
from .linear_logprob import _finish, linear_logprob

_LEAF = 4096
_ROWS = 256
_BUFFER = 1 << 25  # logits in the buffer: 128 MiB; fewer rows a block where V is larger
_ops = torch.ops.w2s_cpu


def linear_logprob_sum(hidden: Tensor, head: Head, target: Tensor, weight: Tensor) -> Tensor:
    """Σ weight·linear_logprob(hidden, head, target): a scalar, differentiable in hidden and head.

    `hidden` `[N, D]`, `target` `[N]` with linear_logprob's rules, `weight` `[N]` fp32 without a
    gradient. One pass for fp32 tensors on the CPU kernels, else exactly the expression above.
    """
    tensors = [hidden, head.weight, *([] if head.bias is None else [head.bias])]
    plain = head.weight_scale is None and all(t.dtype == torch.float32 for t in tensors)
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    if plain and wanted and hidden.device.type == "cpu":
        leading = _linear.check(hidden, head, hidden_name="hidden", head_name="head")
        _check.targets_of(target, leading, "hidden")
        _check.target_values(target, head.vocab)
        if dispatch.resolve("linear_logprob", hidden.device).namespace == "w2s_cpu":
            args = _linear.head_args(head)
            found: Tensor = _OnePass.apply(hidden, args.weight, args.bias, args, target, weight)  # type: ignore[no-untyped-call]
            return found
    return (linear_logprob(hidden, head, target) * weight).sum()


class _OnePass(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: HeadArgs,
        target: Tensor,
        row_weight: Tensor,
    ) -> Tensor:
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2])
        value, *gradients = value_and_gradients(hidden, head, target, row_weight, needs)
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        # A loss that is this sum and nothing else needs no further pass over [V, D].
        same = float(grad) == 1.0
        found = [g if g is None or same else g * grad for g in ctx.saved_tensors]
        return (*found, None, None, None)


def value_and_gradients(
    hidden: Tensor,  # [N, D]
    head: HeadArgs,
    target: Tensor,  # [N]
    row_weight: Tensor,  # [N]
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The sum, and its gradients in (hidden, weight, bias), None for one that is not needed.

    Rows whose target is ignored are left out before the first product, as in the op.
    """
    picked = _linear.used_rows(target[:, None], None).nonzero()[:, 0]
    everything = len(picked) == len(target)
    states = (hidden if everything else hidden[picked]).contiguous()
    grad = (row_weight if everything else row_weight[picked]).float()[:, None].contiguous()
    ids = (target if everything else target[picked])[:, None].contiguous()
    rows, width = states.shape
    d_states = torch.empty_like(states) if needs[0] else None
    d_weight = torch.zeros_like(head.weight) if needs[1] else None
    d_bias = torch.zeros_like(head.bias) if needs[2] and head.bias is not None else None
    value = states.new_zeros((), dtype=torch.float64)

    block_rows = max(1, min(rows, _ROWS, _BUFFER // head.valid))
    product = _linear_cpu._Product(head, ours=_linear_cpu._ours(block_rows, width))
    # Chunk after chunk, each [n, C], so that a product fills and a fold reads contiguous memory.
    buffer = states.new_empty(block_rows * head.valid)
    chunks = list(_linear_cpu._slices(head.valid, _LEAF))
    for block in _linear_cpu._slices(rows, block_rows):
        n = block.stop - block.start
        m, s = states.new_empty(n), states.new_empty(n, dtype=torch.float64)
        z_target, leaf = states.new_zeros(n, 1), s.new_empty(n, len(chunks), 3)
        for chunk in chunks:
            logits = _chunk_of(buffer, n, chunk)
            product.into(logits, states[block], product.weight(chunk), chunk)
            _ops.linear_fold_(
                leaf, z_target, logits, ids[block], 1.0, None, head.softcap, chunk.start, False
            )
        _ops.linear_rows_(m, s, None, leaf, 1.0, None)
        law = RowLaw(m, s, m.new_empty(0), z_target)
        logprob = _finish(law, s.new_ones(n, 1), ids[block], head.valid)[0]  # [n, 1]
        value += (logprob.double() * grad[block]).sum()
        for chunk in chunks:
            dz = _chunk_of(buffer, n, chunk)
            _ops.linear_gradient_(
                dz, grad[block], None, ids[block], m, s, None, 1.0, None, head.softcap,
                chunk.start, head.valid,
            )  # fmt: skip
            if d_states is not None:
                beta = 0.0 if chunk.start == 0 else 1.0
                d_states[block].addmm_(dz, product.weight(chunk), beta=beta, alpha=head.logit_scale)
            if d_weight is not None:
                d_weight[chunk].addmm_(dz.T, states[block], alpha=head.logit_scale)
            if d_bias is not None:
                d_bias[chunk].add_(dz.sum(dim=0), alpha=head.logit_scale)
    if d_states is not None and not everything:
        d_states = torch.zeros_like(hidden).index_copy_(0, picked, d_states)
    return value.float(), d_states, d_weight, d_bias


def _chunk_of(buffer: Tensor, rows: int, chunk: slice) -> Tensor:
    """The part [n, C] of a block's buffer that holds a chunk's columns."""
    columns = chunk.stop - chunk.start
    return buffer[rows * chunk.start : rows * chunk.stop].view(rows, columns)
