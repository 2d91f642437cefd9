"""Device functions of the linear kernels: operands of the product, logits of it, their statistics.

They stand on `common.py`: what is here is only what a head adds to a row of logits.
"""

import triton
import triton.language as tl

from .common import INF, effective


@triton.jit
def load_weight(pointer, inside, MASKED: tl.constexpr, OPERAND: tl.constexpr, E4M3: tl.constexpr):
    """A tile of weights as an operand of the product; int8 and fp8 values fit 16 bits exactly.

    With E4M3 the tile is bytes: their bits, shifted to fp16's places, are the value · 2⁻⁸. (The
    hardware has a conversion from sm_89 on; the interpreter and sm_80 have none.)
    """
    raw = tl.load(pointer, mask=inside, other=0.0) if MASKED else tl.load(pointer)
    if E4M3:
        bits = raw.to(tl.int16)
        half = (((bits & 0x80) << 8) | ((bits & 0x7F) << 7)).to(tl.float16, bitcast=True)
        value = half.to(tl.float32) * 256.0
        raw = tl.where((bits & 0x7F) == 0x7F, float("nan"), value)
    return raw.to(OPERAND)


@triton.jit
def head_logits(product, bias, weight_scale, column, logit_scale, softcap, SOFTCAP: tl.constexpr):
    """Effective fp32 logits of products h·Wᵀ at columns (a tensor of int64 that broadcasts)."""
    z = product
    if weight_scale is not None:
        z = z * tl.load(weight_scale + column).to(tl.float32)
    if bias is not None:
        z = z + tl.load(bias + column).to(tl.float32)
    return effective(z * logit_scale, softcap, SOFTCAP)


@triton.jit
def tile_stats(z, scale, ENTROPY: tl.constexpr):
    """`leaf_stats` of a transposed tile `[columns, R]` (scale `[1, R]`) → three `[R]`."""
    m = tl.max(z, axis=0)
    about = tl.where(m == -INF, 0.0, m)  # −inf − −inf is NaN
    y = (z - about[None, :]) * scale
    e = tl.exp2(y)
    s = tl.sum(e, axis=0)
    u = tl.zeros_like(s)
    if ENTROPY:
        u = tl.sum(e * tl.maximum(y, -200.0), axis=0)  # 0·−inf is NaN
    return m, s, u
