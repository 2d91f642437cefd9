"""The linear ops in plain torch, float64, any device, without a host read.

The head's product is made in chunks of columns × blocks of rows, so `[N, V]` never exists. Each
chunk's statistics are folded into the rows' running ones about the larger maximum.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from . import _stats
from ._linear import HeadArgs, RowLaw, used_rows

# Elements of a float64 working tensor (8 MiB): a weight chunk, a block of logits, of products.
_ELEMENTS = 1 << 20


def _chunks(head: HeadArgs) -> Iterator[slice]:
    """Chunks of columns; their size depends on D alone, never on the batch."""
    step = max(64, min(4096, _ELEMENTS // head.weight.shape[1]))
    for start in range(0, head.valid, step):
        yield slice(start, min(head.valid, start + step))


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _ELEMENTS // max(1, columns) // 2)
    for start in range(0, rows, step):
        yield slice(start, min(rows, start + step))


def _weight(head: HeadArgs, chunk: slice) -> Tensor:
    weight = head.weight[chunk].double()  # [C, D]
    if head.weight_scale is not None:
        weight = weight * head.weight_scale[chunk, None].double()
    return weight


def _product(hidden: Tensor, weight: Tensor, invariant: bool) -> Tensor:
    """h·Wᵀ `[n, C]` in float64.

    With `invariant` the sum over D is a halving tree of elementwise additions: products of fp32
    values are exact in float64, so neither their grouping nor a fused multiply-add moves a bit.
    """
    if not invariant:
        return hidden @ weight.T
    rows, columns = hidden.shape[0], weight.shape[0]
    out = hidden.new_empty(rows, columns)
    step = max(1, _ELEMENTS // weight.numel())
    for start in range(0, rows, step):
        pairs = hidden[start : start + step, None, :] * weight  # [n, C, D]
        flat = _stats.tree_sum(pairs.reshape(-1, weight.shape[1]))
        out[start : start + step] = flat.reshape(-1, columns)
    return out


def _logits(
    hidden: Tensor, weight: Tensor, head: HeadArgs, chunk: slice, invariant: bool
) -> Tensor:
    """Raw logits `[n, C]` (before the softcap) of a block of rows, float64."""
    z = _product(hidden.double(), weight, invariant)
    if head.bias is not None:
        z = z + head.bias[chunk].double()
    return z if head.logit_scale == 1.0 else z * head.logit_scale


def _fold(
    m: Tensor, s: Tensor, u: Tensor, part: _stats.RowStats, t: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Running (m, s, u) and a chunk's, folded about the larger maximum; all `[n, 1]`."""
    top = torch.maximum(m, part.m)  # NaN wins
    # −inf − −inf happens only where the part holds nothing: its share is 0 by name.
    d_run = (m - top).masked_fill(m.isneginf(), 0.0) / t
    d_part = (part.m - top).masked_fill(part.m.isneginf(), 0.0) / t
    e_run = torch.exp(d_run).masked_fill(m.isneginf(), 0.0)
    e_part = torch.exp(d_part).masked_fill(part.m.isneginf(), 0.0)
    s_new = e_run * s + e_part * part.s
    u_run = torch.where(e_run == 0, 0.0, e_run * (u + d_run * s))
    u_part = torch.where(e_part == 0, 0.0, e_part * (part.u + d_part * part.s))
    return top, s_new, u_run + u_part


def forward(
    hidden: Tensor,  # [N, D]
    head: HeadArgs,
    target: Tensor,  # [N, K]
    temperature: Tensor,  # [N, 1] float64
    entropy: bool,
    invariant: bool,
) -> RowLaw:
    """Each row's law; z_target is float64 and 0 where the target is not a valid column."""
    rows = hidden.shape[0]
    m = temperature.new_full((rows, 1), float("-inf"))
    s, u = torch.zeros_like(m), torch.zeros_like(m)
    z_target = temperature.new_zeros(target.shape)
    for chunk in _chunks(head):
        weight = _weight(head, chunk)
        for block in _blocks(rows, chunk.stop - chunk.start):
            z = _logits(hidden[block], weight, head, chunk, invariant)
            z = _stats.effective_logits(z, head.softcap)
            t = temperature[block]
            part = _stats.row_stats(z, t)
            m[block], s[block], u[block] = _fold(m[block], s[block], u[block], part, t)
            here, inside = _stats.target_logits(z, target[block], chunk.start)
            z_target[block] = torch.where(inside, here, z_target[block])
    law = _stats.RowStats(m, s, u)
    h = _stats.entropy_of(law)[:, 0].float() if entropy else m.new_empty(0, dtype=torch.float32)
    return RowLaw(m[:, 0].float(), s[:, 0], h, z_target)


def backward(
    grad: Tensor,  # [N, K]
    grad_entropy: Tensor | None,  # [N]
    hidden: Tensor,  # [N, D]
    head: HeadArgs,
    target: Tensor,  # [N, K]
    m: Tensor,  # [N] fp32
    s: Tensor,  # [N] fp64
    entropy: Tensor | None,  # [N]
    temperature: Tensor,  # [N, 1] float64
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (hidden, weight, bias) in their dtypes; `[0]` for one that is not needed."""
    need_hidden, need_weight, need_bias = needs
    rows, width = hidden.shape
    used = used_rows(target, grad_entropy).unsqueeze(1)  # [N, 1]
    d_hidden = temperature.new_zeros(rows if need_hidden else 0, width)
    d_weight = torch.zeros_like(head.weight) if need_weight else head.weight.new_empty(0)
    bias = hidden if head.bias is None else head.bias
    d_bias = torch.zeros_like(bias) if need_bias else bias.new_empty(0)
    for chunk in _chunks(head):
        weight = _weight(head, chunk)  # [C, D]
        chunk_weight, chunk_bias = torch.zeros_like(weight), weight.new_zeros(weight.shape[0])
        for block in _blocks(rows, chunk.stop - chunk.start):
            # A zero row times a NaN hidden state would be NaN: unused rows are taken as zero.
            h = hidden[block].double().masked_fill(~used[block], 0.0)
            dz = _stats.logit_gradient(
                _logits(h, weight, head, chunk, False), target[block], grad[block],
                None if grad_entropy is None else grad_entropy[block, None],
                m[block, None].double(), s[block, None],
                None if entropy is None else entropy[block, None],
                temperature[block], head.softcap, head.valid, chunk.start,
            )  # fmt: skip
            dz = dz * head.logit_scale
            if need_hidden:
                d_hidden[block] += dz @ weight
            if need_weight:
                chunk_weight += dz.T @ h
            if need_bias:
                chunk_bias += dz.sum(dim=0)
        if need_weight:
            if head.weight_scale is not None:
                chunk_weight *= head.weight_scale[chunk, None].double()
            d_weight[chunk] = chunk_weight.to(d_weight.dtype)
        if need_bias:
            d_bias[chunk] = chunk_bias.to(d_bias.dtype)
    if not need_hidden:
        return hidden.new_empty(0), d_weight, d_bias
    return d_hidden.masked_fill(~used, 0.0).to(hidden.dtype), d_weight, d_bias
