"""Many rows: a chunk of products that the vendor's matrix product left in a small fp32 buffer.

`fold_kernel` reduces it to a part a row and leaf of 4096 columns while it is still in the L2
cache; `gradient_kernel` turns it into the gradient of the raw logits (numerics rule 11).
"""

import triton.language as tl

from . import INTERPRETED
from .common import IGNORE_INDEX, INF, LEAF, exponent_scale, row_temperature
from .launch import kernel
from .linear_aot import AotCase, case
from .linear_device import head_logits

# Tiles and warps enter the order of a sum: constants, whatever N and V are.
FOLD_WARPS = 8
GRADIENT_ROWS, GRADIENT_WARPS = 16, 4
GRADIENT_COLUMNS = 1024 if INTERPRETED else 128  # interpreting costs by the program


@kernel
def fold_kernel(
    product,  # [N, C] fp32
    bias,  # [V] or None
    weight_scale,  # [V] or None
    temperature_rows,  # [N] fp32 or None
    target,  # [N, K]
    parts,  # [3, N, P] fp32
    z_target,  # [N, K] fp32
    product_stride: tl.int64,
    rows: tl.int32,
    targets: tl.int32,
    valid: tl.int32,
    leaves: tl.int32,  # P
    first_leaf: tl.int32,  # the chunk's
    temperature: tl.float32,
    logit_scale: tl.float32,
    softcap: tl.float32,
    SOFTCAP: tl.constexpr,
    ENTROPY: tl.constexpr,
    TARGETS: tl.constexpr,  # targets taken at a time
):
    """A program a row and leaf of the chunk."""
    row = tl.program_id(0).to(tl.int64)
    leaf = first_leaf + tl.program_id(1)
    base = product + row * product_stride - first_leaf.to(tl.int64) * LEAF  # of column 0
    v = leaf * LEAF + tl.arange(0, LEAF)
    column = tl.minimum(v, valid - 1).to(tl.int64)
    # The buffer is whole leaves wide: what lies past the last column is read and not used.
    raw = tl.load(tl.multiple_of(base + leaf * LEAF, 16) + tl.arange(0, LEAF))
    z = head_logits(raw, bias, weight_scale, column, logit_scale, softcap, SOFTCAP)
    z = tl.where(v < valid, z, -INF)
    scale = exponent_scale(row_temperature(temperature, temperature_rows, row))
    m = tl.max(z, axis=0)
    y = (z - tl.where(m == -INF, 0.0, m)) * scale  # −inf − −inf is NaN
    e = tl.exp2(y)
    part = parts + row * leaves + leaf
    plane = leaves.to(tl.int64) * rows
    tl.store(part, m)
    tl.store(part + plane, tl.sum(e, axis=0))
    if ENTROPY:
        u = tl.sum(e * tl.maximum(y, -200.0), axis=0)  # 0·−inf is NaN
        tl.store(part + 2 * plane, u)
    last = tl.minimum((leaf + 1) * LEAF, valid)
    for start in range(0, targets, TARGETS):
        k = start + tl.arange(0, TARGETS)
        at = row * targets + k
        wanted = tl.load(target + at, mask=k < targets, other=-1)
        hit = (wanted >= leaf * LEAF) & (wanted < last)
        wanted = tl.where(hit, wanted, leaf * LEAF).to(tl.int64)
        picked = tl.load(base + wanted, mask=hit, other=0.0)
        picked = head_logits(picked, bias, weight_scale, wanted, logit_scale, softcap, SOFTCAP)
        tl.store(z_target + at, picked, mask=hit)


@kernel
def gradient_kernel(
    product,  # [N, C] fp32: h·Wᵀ in; with no `low` the gradient out
    high,  # [N, C] bf16 or None: the gradient is high + low
    low,
    bias_parts,  # [row blocks, C] fp32 or None: sums over each block's rows
    bias,  # [V] or None
    weight_scale,  # [V] or None
    temperature_rows,  # [N] fp32 or None
    target,  # [N, K]
    grad,  # [N, K]
    grad_entropy,  # [N] or None
    m,  # [N] fp32
    s,  # [N] fp64
    entropy,  # [N] fp32 or None
    product_stride: tl.int64,  # of bias_parts and the halves too; a multiple of 16
    rows: tl.int32,
    columns: tl.int32,
    targets: tl.int32,
    valid: tl.int32,
    first: tl.int32,  # the chunk's first column
    temperature: tl.float32,
    logit_scale: tl.float32,
    softcap: tl.float32,
    SOFTCAP: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """∂/∂(h·Wᵀ) of Σ grad·logprob + grad_entropy·entropy, a program a tile.

    A row that no target uses gets exactly zero, whatever it holds; one with an invalid target NaN.
    """
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    row = tl.minimum(n, rows - 1).to(tl.int64)
    column = tl.minimum(first + c, valid - 1).to(tl.int64)
    # The buffers are whole tiles: what lies past the last row and column is read and never used.
    place = n.to(tl.int64)[:, None] * product_stride + c[None, :]
    at = tl.multiple_of(product + place, [16, 16])
    if temperature_rows is not None:
        t = tl.load(temperature_rows + row)
    else:
        t = tl.zeros([BLOCK_N], dtype=tl.float32) + temperature
    m_row = tl.load(m + row)
    s_row = tl.load(s + row)
    z = head_logits(tl.load(at), bias, weight_scale, column[None, :], logit_scale, softcap, SOFTCAP)
    y = (z - m_row[:, None]) * exponent_scale(t.to(tl.float64))[:, None]
    p = tl.exp2(y) * (1.0 / s_row).to(tl.float32)[:, None]

    total = tl.zeros([BLOCK_N], dtype=tl.float32)
    used = tl.zeros([BLOCK_N], dtype=tl.int32)
    invalid = tl.zeros([BLOCK_N], dtype=tl.int32)
    dz = tl.zeros([BLOCK_N, BLOCK_C], dtype=tl.float32)
    for k in range(targets):
        wanted = tl.load(target + row * targets + k)
        counts = wanted != IGNORE_INDEX
        g = tl.where(counts, tl.load(grad + row * targets + k).to(tl.float32), 0.0)
        total += g
        used |= counts.to(tl.int32)
        invalid |= (counts & ((wanted < 0) | (wanted >= valid))).to(tl.int32)
        dz += tl.where(wanted[:, None] == column[None, :], g[:, None], 0.0)
    dz -= p * total[:, None]
    if grad_entropy is not None:
        g = tl.load(grad_entropy + row).to(tl.float32)
        h = tl.load(entropy + row)
        log_p = y * 0.6931471805599453 - tl.log(s_row).to(tl.float32)[:, None]
        dz -= tl.where(p == 0.0, 0.0, g[:, None] * p * (log_p + h[:, None]))
        used |= (g != 0.0).to(tl.int32)
    dz = dz / t[:, None]
    if SOFTCAP:
        slope = tl.maximum(z / softcap, -1.0)
        dz = dz * (1.0 - slope * slope)
    bad = (invalid > 0) | (m_row == -INF) | (m_row != m_row)
    dz = tl.where(bad[:, None], float("nan"), dz * logit_scale)
    dz = tl.where(((used > 0) & (n < rows))[:, None], dz, 0.0)
    if bias_parts is not None:
        sums = tl.sum(dz, axis=0)
        tl.store(bias_parts + tl.program_id(0) * product_stride + c, sums, mask=c < columns)
    if weight_scale is not None:
        dz = dz * tl.load(weight_scale + column).to(tl.float32)[None, :]
    if high is None:
        tl.store(at, dz)
    else:
        rounded = dz.to(high.dtype.element_ty)
        tl.store(tl.multiple_of(high + place, [16, 16]), rounded)
        rest = (dz - rounded.to(tl.float32)).to(high.dtype.element_ty)
        tl.store(tl.multiple_of(low + place, [16, 16]), rest)


def aot_cases() -> list[AotCase]:
    """The fold, and the backward of a bf16 and of an fp32 head with everything on.

    Their names say "scalar" since loads of a number a row (target, m, s, …) are most of the code's
    loads, though not of its bytes; `tests/aot/test_linear_cases.py` looks at the tile's own loads.
    """
    fold = {"product": "fp32", "target": "i64", "parts": "fp32", "z_target": "fp32"}
    gradient = {"product": "fp32", "target": "i64", "grad": "fp32", "m": "fp32", "s": "fp64"}
    halves = {**gradient, "high": "bf16", "low": "bf16"}
    everything = {
        **gradient, "bias_parts": "fp32", "bias": "fp32", "temperature_rows": "fp32",
        "grad_entropy": "fp32", "entropy": "fp32",
    }  # fmt: skip
    constants = {"SOFTCAP": False, "ENTROPY": False, "TARGETS": 1}
    tile = {"BLOCK_N": GRADIENT_ROWS, "BLOCK_C": GRADIENT_COLUMNS}
    return [
        case("fold, scalar targets", fold_kernel, fold, constants, warps=FOLD_WARPS),
        case(
            "backward, bf16, scalar rows", gradient_kernel, halves, {"SOFTCAP": False, **tile},
            warps=GRADIENT_WARPS,
        ),
        case(
            "backward, fp32, everything, scalar rows", gradient_kernel, everything,
            {"SOFTCAP": True, **tile}, warps=GRADIENT_WARPS,
        ),
    ]  # fmt: skip
