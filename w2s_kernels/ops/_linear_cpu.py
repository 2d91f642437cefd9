"""The linear ops on the CPU: a loop over row blocks × chunks of columns around compiled primitives.

A chunk of fp32 logits is made in one reused buffer, by torch's matrix product or by our own (see
`_ours`), and folded at once into each row's leaves of 4096 columns, which are those of every other
op. The buffers below are all the memory that a forward takes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from . import _op
from ._linear import HeadArgs, RowLaw, used_rows

_LEAF = 4096
_BUFFER = 1 << 20  # logits in the buffer: 4 MiB, so that a fold finds them in the cache
_WEIGHTS = 1 << 21  # widened weights: 8 MiB
_HIDDEN = 1 << 22  # widened hidden states: 16 MiB
_BLOCK_ROWS = 256
_GRADIENT_BUFFER = 1 << 21  # 8 MiB: more rows a block make dzᵀ·h the better product

NEEDS = _op.primitives(
    {
        "linear_logits_": "(Tensor(a!) logits, Tensor hidden, Tensor weight, Tensor? weight_scale, "
        "Tensor? bias, float logit_scale) -> ()",
        "linear_fold_": "(Tensor(a!) leaf, Tensor(b!) z_target, Tensor logits, Tensor target, "
        "float temperature, Tensor? temperature_rows, float softcap, int vocab_start, "
        "bool entropy) -> ()",
        "linear_rows_": "(Tensor(a!) m, Tensor(b!) s, Tensor(c!)? entropy, Tensor leaf, "
        "float temperature, Tensor? temperature_rows) -> ()",
        "linear_gradient_": "(Tensor(a!) logits, Tensor grad, Tensor? grad_entropy, Tensor target, "
        "Tensor m, Tensor s, Tensor? entropy, float temperature, Tensor? temperature_rows, "
        "float softcap, int vocab_start, int vocab) -> ()",
    }
)
_ops = torch.ops.w2s_cpu


def _slices(stop: int, step: int) -> Iterator[slice]:
    for start in range(0, stop, step):
        yield slice(start, min(stop, start + step))


def _part(rows: Tensor | None, block: slice) -> Tensor | None:
    return None if rows is None else rows[block]


def _native(hidden: Tensor, head: HeadArgs) -> bool:
    """Whether both are bf16 and our product multiplies them as they are (AVX512_BF16).

    Faster at any number of rows than torch's product of widened ones, by 2 to 10 times.
    """
    pairs = hidden.dtype == head.weight.dtype == torch.bfloat16
    return pairs and bool(torch.ops.w2s_library.isa() == "avx512bf16")


def _ours(rows: int, width: int) -> bool:
    """Whether our own product is the faster one, as measured against torch's (MKL).

    Ours reads 16-bit weights as they are and keeps its speed at few rows; the vendor's wins with
    many, and always where there are no vector instructions for ours.
    """
    isa = torch.ops.w2s_library.isa()
    if isa.startswith("avx512"):
        return rows <= (256 if width >= 512 else 32)
    return isa == "avx2" and rows <= 32


class _Product:
    """Makes chunks of raw fp32 logits of one head."""

    def __init__(self, head: HeadArgs, *, ours: bool) -> None:
        width = head.weight.shape[1]
        self.head = head
        self.ours = ours
        # Our product reads 16-bit weights as they are; torch's wants fp32, widened in pieces.
        readable = (torch.float32, torch.bfloat16, torch.float16)
        direct = head.weight.dtype in (readable if self.ours else readable[:1])
        scaled = head.weight_scale is not None and not self.ours
        self.widens = scaled or not direct
        self.piece = max(64, min(_LEAF, _WEIGHTS // width)) if self.widens else head.valid
        size = min(self.piece, head.valid) if self.widens else 0
        self.wide = head.weight.new_empty(size, width, dtype=torch.float32)
        self.bias = None if head.bias is None else head.bias[: head.valid].float().contiguous()
        scale = head.weight_scale
        self.scale = None if scale is None else scale[: head.valid].float().contiguous()

    def weight(self, columns: slice) -> Tensor:
        """Weight rows as the product reads them; at most `piece` of them."""
        weight = self.head.weight[columns]
        if not self.widens:
            return weight
        wide = self.wide[: weight.shape[0]].copy_(weight)
        if self.scale is not None and not self.ours:
            wide.mul_(self.scale[columns, None])
        return wide

    def into(self, logits: Tensor, hidden: Tensor, weight: Tensor, columns: slice) -> None:
        """logits[n, C] of hidden[n, D] and `weight(columns)`."""
        scale = self.head.logit_scale
        if self.ours:
            _ops.linear_logits_(
                logits, hidden, weight,
                None if self.scale is None else self.scale[columns],
                None if self.bias is None else self.bias[columns], scale,
            )  # fmt: skip
        elif self.bias is None:
            torch.mm(hidden, weight.T, out=logits)
            if scale != 1.0:
                logits.mul_(scale)
        else:
            torch.addmm(self.bias[columns], hidden, weight.T, beta=scale, alpha=scale, out=logits)


def forward(
    hidden: Tensor,  # [N, D]
    head: HeadArgs,
    target: Tensor,  # [N, K]
    temperature: float,
    temperature_rows: Tensor | None,  # [N] fp32
    entropy: bool,
    invariant: bool,
) -> RowLaw:
    """Each row's law; z_target is fp32 and 0 where the target is not a valid column.

    Without `entropy`, rows whose targets are all ignored (a prompt, padding) cost no product; their
    law is NaN, which nobody reads.
    """
    used = used_rows(target, None)
    if entropy or bool(used.all()):
        return _forward(hidden, head, target, temperature, temperature_rows, entropy, invariant)
    picked = used.nonzero()[:, 0]
    t_rows = None if temperature_rows is None else temperature_rows[picked]
    law = _forward(hidden[picked], head, target[picked], temperature, t_rows, False, invariant)
    m = law.m.new_full((hidden.shape[0],), float("nan"))
    s, z_target = m.double(), law.z_target.new_zeros(target.shape)
    m[picked], s[picked], z_target[picked] = law.m, law.s, law.z_target
    return RowLaw(m, s, law.entropy, z_target)


def _forward(
    hidden: Tensor,
    head: HeadArgs,
    target: Tensor,
    temperature: float,
    temperature_rows: Tensor | None,
    entropy: bool,
    invariant: bool,
) -> RowLaw:
    rows, width = hidden.shape
    m = hidden.new_empty(rows, dtype=torch.float32)
    s = hidden.new_empty(rows, dtype=torch.float64)
    h = hidden.new_empty(rows if entropy else 0, dtype=torch.float32)
    z_target = hidden.new_zeros(target.shape, dtype=torch.float32)
    native = not invariant and _native(hidden, head)
    product = _Product(head, ours=invariant or native or _ours(rows, width))
    wanted = torch.bfloat16 if native else torch.float32
    leaves = (head.valid + _LEAF - 1) // _LEAF
    block_rows = max(1, min(rows, _BLOCK_ROWS))
    chunk_columns = min(leaves, max(1, _BUFFER // (_LEAF * block_rows))) * _LEAF
    buffer = hidden.new_empty(block_rows * min(chunk_columns, head.valid), dtype=torch.float32)
    for group in _slices(rows, max(_BLOCK_ROWS, _HIDDEN // width)):
        count = group.stop - group.start
        states, ids = hidden[group].to(wanted).contiguous(), target[group]
        t_rows, z_group = _part(temperature_rows, group), z_target[group]
        leaf = hidden.new_empty(count, leaves, 3, dtype=torch.float64)
        for chunk in _slices(head.valid, chunk_columns):
            columns = chunk.stop - chunk.start
            whole = product.piece >= columns
            weight = product.weight(chunk) if whole else None
            for block in _slices(count, block_rows):
                n = block.stop - block.start
                logits = buffer[: n * columns].view(n, columns)
                if weight is not None:
                    product.into(logits, states[block], weight, chunk)
                else:
                    for piece in _slices(columns, product.piece):
                        part = slice(chunk.start + piece.start, chunk.start + piece.stop)
                        product.into(logits[:, piece], states[block], product.weight(part), part)
                _ops.linear_fold_(
                    leaf[block], z_group[block], logits, ids[block], temperature,
                    _part(t_rows, block), head.softcap, chunk.start, entropy,
                )  # fmt: skip
        _ops.linear_rows_(
            m[group], s[group], h[group] if entropy else None, leaf, temperature, t_rows
        )
    return RowLaw(m, s, h, z_target)


def backward(
    grad: Tensor,  # [N, K]
    grad_entropy: Tensor | None,  # [N]
    hidden: Tensor,  # [N, D]
    head: HeadArgs,
    target: Tensor,  # [N, K]
    m: Tensor,  # [N] fp32
    s: Tensor,  # [N] fp64
    entropy: Tensor | None,  # [N]
    temperature: float,
    temperature_rows: Tensor | None,  # [N] fp32
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (hidden, weight, bias) in their dtypes; `[0]` for one that is not needed.

    Rows without a target that counts are left out before the first product, so what they hold
    (NaN, for one) reaches nothing.
    """
    need_hidden, need_weight, need_bias = needs
    used = used_rows(target, grad_entropy)
    picked = None if bool(used.all()) else used.nonzero()[:, 0]
    if picked is not None:
        grad, target, m, s = (x[picked] for x in (grad, target, m, s))
        grad_entropy, entropy, temperature_rows = (
            None if x is None else x[picked] for x in (grad_entropy, entropy, temperature_rows)
        )
    states = (hidden if picked is None else hidden[picked]).to(torch.float32).contiguous()
    rows, width = states.shape
    d_states = states.new_zeros(rows if need_hidden else 0, width)
    d_weight = torch.empty_like(head.weight) if need_weight else head.weight.new_empty(0)
    bias = hidden if head.bias is None else head.bias
    d_bias = torch.empty_like(bias) if need_bias else bias.new_empty(0)
    d_weight[head.valid :], d_bias[head.valid :] = 0, 0

    product = _Product(head, ours=False)
    step = min(head.valid, product.piece, _LEAF)
    block_rows = max(1, min(rows, _GRADIENT_BUFFER // step))
    buffer = states.new_empty(block_rows * step)
    in_place = need_weight and d_weight.dtype == torch.float32
    wide = states.new_empty(step if need_weight and not in_place else 0, width)
    for chunk in _slices(head.valid, step):
        columns = chunk.stop - chunk.start
        weight = product.weight(chunk)
        chunk_weight = d_weight[chunk] if in_place else wide[:columns]
        chunk_bias = states.new_zeros(columns)
        if need_weight:
            chunk_weight.zero_()
        for block in _slices(rows, block_rows):
            n = block.stop - block.start
            dz = buffer[: n * columns].view(n, columns)
            product.into(dz, states[block], weight, chunk)
            _ops.linear_gradient_(
                dz, grad[block], _part(grad_entropy, block), target[block], m[block], s[block],
                _part(entropy, block), temperature, _part(temperature_rows, block),
                head.softcap, chunk.start, head.valid,
            )  # fmt: skip
            if need_hidden:
                d_states[block].addmm_(dz, weight, alpha=head.logit_scale)
            if need_weight:
                chunk_weight.addmm_(dz.T, states[block], alpha=head.logit_scale)
            if need_bias:
                chunk_bias.add_(dz.sum(dim=0), alpha=head.logit_scale)
        if need_weight:
            if product.scale is not None:
                chunk_weight.mul_(product.scale[chunk, None])
            if not in_place:
                d_weight[chunk] = chunk_weight
        if need_bias:
            d_bias[chunk] = chunk_bias
    if not need_hidden:
        return hidden.new_empty(0), d_weight, d_bias
    if picked is None:
        return d_states.to(hidden.dtype), d_weight, d_bias
    d_hidden = hidden.new_zeros(hidden.shape)
    d_hidden[picked] = d_states.to(hidden.dtype)
    return d_hidden, d_weight, d_bias
