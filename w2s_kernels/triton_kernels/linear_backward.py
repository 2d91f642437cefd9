"""The linear ops' backward on Triton: products made again, their gradient, two more products.

Chunks of columns × groups of rows, so that no `[N, V]` exists: the vendor's product of a chunk,
`gradient_kernel` over it, and products with the weights and with the hidden states. A bf16
product needs a bf16 gradient, but one with 8 bits of mantissa misses the promised 1e-5 by far: the
kernel stores it as a sum of two bf16 numbers and each product is made twice, which the tensor cores
do much faster than fp32 once. fp16 has no room for gradients that small: its products are fp32.

Sums over chunks (hidden states) and over groups (weights) are fp32, in one order; a gradient is
rounded to its dtype once.
"""

import torch
from torch import Tensor

from ..ops._linear import HeadArgs, used_rows
from .launch import launch
from .linear_chunk import (
    GRADIENT_COLUMNS,
    GRADIENT_ROWS,
    GRADIENT_WARPS,
    gradient_kernel,
)
from .linear_forward import convert, gemm_dtype, path_of, tile_products
from .linear_plan import backward_plan, cdiv, slices
from .linear_product import add_product, exact_fp32, product_into
from .linear_side import Side


class _Gradient:
    """dz of a chunk: in place of its products, or as two bf16 halves beside them."""

    def __init__(self, rows: int, columns: int, split: bool, like: Tensor) -> None:
        self.product = like.new_empty(rows, columns, dtype=torch.float32)
        halves = like.new_empty((2, rows, columns) if split else 0, dtype=torch.bfloat16)
        self.halves = tuple(halves) if split else ()

    def terms(self, rows: int, columns: int) -> list[Tensor]:
        """Matrices `[n, c]` whose sum is dz."""
        return [term[:rows, :columns] for term in self.halves or (self.product,)]


def backward(
    grad: Tensor,  # [N, K]
    grad_entropy: Tensor | None,  # [N]
    hidden: Tensor,  # [N, D]
    weight: Tensor,  # [V, D]
    bias: Tensor | None,  # [V]
    weight_scale: Tensor | None,  # [V]
    softcap: float,
    logit_scale: float,
    valid_vocab: int,
    target: Tensor,  # [N, K]
    m: Tensor,  # [N] fp32
    s: Tensor,  # [N] fp64
    entropy: Tensor | None,  # [N] fp32
    temperature: float,
    temperature_rows: Tensor | None,  # [N] fp32
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (hidden, weight, bias) in their dtypes; `[0]` for one that is not needed."""
    head = HeadArgs(weight, bias, weight_scale, softcap, logit_scale, valid_vocab)
    side = Side(hidden, head, temperature, temperature_rows)
    need_hidden, need_weight, need_bias = needs
    rows, width = hidden.shape
    used = used_rows(target, grad_entropy)[:, None]  # [N, 1]
    d_states = hidden.new_zeros(rows if need_hidden else 0, width, dtype=torch.float32)
    d_weight = torch.empty_like(weight) if need_weight else weight.new_empty(0)
    like = hidden if bias is None else bias
    d_bias = torch.empty_like(like) if need_bias else like.new_empty(0)
    d_weight[valid_vocab:], d_bias[valid_vocab:] = 0, 0
    if rows == 0:
        d_weight.zero_()
        d_bias.zero_()
        return d_states.to(hidden.dtype), d_weight, d_bias

    split = side.operand == torch.bfloat16
    dtype = gemm_dtype(side) if split else torch.float32
    plan = backward_plan(
        rows, width, valid_vocab, split=split,
        weight_bytes=0 if weight.dtype == dtype else dtype.itemsize,
        hidden_bytes=dtype.itemsize, block_rows=GRADIENT_ROWS, block_columns=GRADIENT_COLUMNS,
    )  # fmt: skip
    dz = _Gradient(plan.rows, plan.columns, split, hidden)
    few = path_of(side, False) == "tile" and rows <= plan.rows
    blocks = cdiv(plan.rows, GRADIENT_ROWS)
    sums = dz.product.new_empty(blocks, plan.columns) if need_bias else None
    total = d_states.new_empty(plan.columns if need_weight else 0, width)
    with exact_fp32():
        for chunk in slices(valid_vocab, plan.columns):
            columns = chunk.stop - chunk.start
            chunk_weight = convert(weight[chunk], dtype)
            total.zero_()
            bias_total = d_states.new_zeros(columns)
            for group in slices(rows, plan.rows):
                n = group.stop - group.start
                states = _used_states(hidden[group], used[group], dtype)
                if few:
                    tile_products(side, dz.product, chunk)
                else:
                    product_into(dz.product[:n, :columns], states, chunk_weight.T)
                _launch_gradient(
                    dz, sums, side.rows(group), grad[group],
                    None if grad_entropy is None else grad_entropy[group], target[group],
                    m[group], s[group], None if entropy is None else entropy[group],
                    columns, chunk.start,
                )  # fmt: skip
                for term in dz.terms(n, columns):
                    if need_hidden:
                        add_product(d_states[group], term, chunk_weight)
                    if need_weight:
                        add_product(total[:columns], term.T, states)
                if sums is not None:
                    bias_total += sums[: cdiv(n, GRADIENT_ROWS), :columns].sum(dim=0)
            if need_weight:
                d_weight[chunk] = total[:columns]
            if need_bias:
                d_bias[chunk] = bias_total
    if not need_hidden:
        return hidden.new_empty(0), d_weight, d_bias
    # Zero already, unless the weights hold NaN.
    return d_states.masked_fill_(~used, 0.0).to(hidden.dtype), d_weight, d_bias


def _used_states(hidden: Tensor, used: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy of hidden states in another dtype, zero where no target counts: 0·NaN is NaN."""
    if hidden.dtype == dtype:
        return hidden.masked_fill(~used, 0.0)
    return hidden.to(dtype).masked_fill_(~used, 0.0)


def _launch_gradient(
    dz: _Gradient,
    sums: Tensor | None,
    side: Side,
    grad: Tensor,
    grad_entropy: Tensor | None,
    target: Tensor,
    m: Tensor,
    s: Tensor,
    entropy: Tensor | None,
    columns: int,
    first: int,
) -> None:
    head, (rows, targets) = side.head, target.shape
    high, low = dz.halves or (None, None)
    optional = (head.bias, head.weight_scale, side.temperature_rows, grad_entropy, sums)
    constants = (head.softcap > 0, GRADIENT_ROWS, GRADIENT_COLUMNS)
    launch(
        gradient_kernel,
        (cdiv(rows, GRADIENT_ROWS), cdiv(columns, GRADIENT_COLUMNS), 1),
        target.device,
        (
            dz.product, high, low, sums, head.bias, head.weight_scale, side.temperature_rows,
            target, grad, grad_entropy, m, s, entropy,
            dz.product.shape[1], rows, columns, targets, head.valid, first,
            side.temperature, head.logit_scale, head.softcap, *constants,
        ),
        (*(None if t is None else t.dtype for t in (high, *optional)), target.dtype,
         grad.dtype, constants),
        warps=GRADIENT_WARPS,
    )  # fmt: skip
