"""Few rows: a tile of the vocabulary × a block of rows, logits made and reduced where they are.

The weights stream through once, so the weight read is the floor; the hidden states of at most 64
rows come again and again from the L2 cache. The product is transposed, `[columns, rows]`: the
weights fill the long side of a tensor-core instruction, which a handful of rows cannot.

A program reduces its tile of columns to (m, s, u) of each row; `linear_finish` folds the tiles in
order in float64. A tile's shape comes from a committed table and its sum over D has one order, so
under one entry of that table a row's bits do not depend on its batch: that is `invariant=True`.
"""

import torch
import triton
import triton.language as tl

from .common import INF, exponent_scale
from .launch import kernel
from .linear_aot import AotCase, case, on, tile_at_90
from .linear_device import head_logits, load_weight, tile_stats

FIRST_E4M3_ARCH = 89  # below it, and in the interpreter, e4m3 bytes are decoded by hand
OPERANDS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _product(
    hidden, weight, row, column, hidden_stride, weight_stride, width,
    EVEN: tl.constexpr, ALIGNED: tl.constexpr, OPERAND: tl.constexpr, E4M3: tl.constexpr,
    BLOCK_V: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """W·hᵀ `[columns, rows]` in fp32, the sum over D in one order."""
    d = tl.arange(0, BLOCK_D)
    w = weight + column[:, None] * weight_stride + d[None, :]  # [v, d]
    h = hidden + row[None, :] * hidden_stride + d[:, None]  # [d, n]
    if ALIGNED:
        w = tl.multiple_of(w, [16, 16])
        h = tl.multiple_of(h, [16, 16])
    product = tl.zeros([BLOCK_V, BLOCK_N], dtype=tl.float32)
    for start in range(0, width, BLOCK_D):
        left = width - start
        if ALIGNED:
            left = tl.multiple_of(left, 16)  # a mask of no known alignment would narrow the loads
        inside = d < left
        w_tile = load_weight(w, inside[None, :], not EVEN, OPERAND, E4M3)
        h_tile = tl.load(h) if EVEN else tl.load(h, mask=inside[:, None], other=0.0)
        product = tl.dot(w_tile, h_tile.to(OPERAND), product, input_precision="ieee")
        w += BLOCK_D
        h += BLOCK_D
    return product


@triton.jit
def _side(
    hidden,  # [N, D]
    weight,  # [V, D]
    bias,  # [V] or None
    weight_scale,  # [V] or None
    temperature_rows,  # [N] fp32 or None
    target,  # [N, K]
    parts,  # [3, N, P] fp32: m, s, u of each row's tiles
    z_target,  # [N, K] fp32
    hidden_stride,
    weight_stride,
    rows,
    width,
    targets,
    valid,
    tiles,  # P
    temperature,
    logit_scale,
    softcap,
    program,
    SOFTCAP: tl.constexpr,
    EVEN: tl.constexpr,  # D is a multiple of BLOCK_D
    ALIGNED: tl.constexpr,  # rows of both start at multiples of 16 bytes, D is one of 16
    OPERAND: tl.constexpr,  # dtype of the product's operands
    E4M3: tl.constexpr,  # the weights are bytes of e4m3
    ENTROPY: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    # Row blocks of one tile are neighbours in the grid: all but the first find it in the L2 cache.
    row_blocks = tl.cdiv(rows, BLOCK_N)
    tile = program // row_blocks
    n = (program % row_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    here = n < rows
    row = tl.minimum(n, rows - 1).to(tl.int64)
    v = tile * BLOCK_V + tl.arange(0, BLOCK_V)
    column = tl.minimum(v, valid - 1).to(tl.int64)  # padding is not read
    product = _product(
        hidden, weight, row, column, hidden_stride, weight_stride, width,
        EVEN, ALIGNED, OPERAND, E4M3, BLOCK_V, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    z = head_logits(product, bias, weight_scale, column[:, None], logit_scale, softcap, SOFTCAP)
    z = tl.where((v < valid)[:, None], z, -INF)
    if temperature_rows is not None:
        t = tl.load(temperature_rows + row).to(tl.float64)
    else:
        t = tl.zeros([BLOCK_N], dtype=tl.float64) + temperature
    m, s, u = tile_stats(z, exponent_scale(t)[None, :], ENTROPY)
    plane = tiles.to(tl.int64) * rows
    part = parts + row * tiles + tile
    tl.store(part, m, mask=here)
    tl.store(part + plane, s, mask=here)
    if ENTROPY:
        tl.store(part + 2 * plane, u, mask=here)
    for k in range(targets):
        wanted = tl.load(target + row * targets + k, mask=here, other=-1)
        hit = (wanted >= tile * BLOCK_V) & (wanted < tl.minimum((tile + 1) * BLOCK_V, valid))
        if tl.max(hit.to(tl.int32), axis=0) > 0:
            picked = tl.sum(tl.where(v[:, None] == wanted[None, :], z, 0.0), axis=0)
            tl.store(z_target + row * targets + k, picked, mask=hit)


@kernel
def tile_kernel(
    hidden, weight, bias, weight_scale, temperature_rows, target, parts, z_target,
    hidden_stride: tl.int64, weight_stride: tl.int64, rows: tl.int32, width: tl.int32,
    targets: tl.int32, valid: tl.int32, tiles: tl.int32,
    temperature: tl.float32, logit_scale: tl.float32, softcap: tl.float32,
    SOFTCAP: tl.constexpr, EVEN: tl.constexpr, ALIGNED: tl.constexpr, OPERAND: tl.constexpr,
    E4M3: tl.constexpr, ENTROPY: tl.constexpr,
    BLOCK_V: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One head: a program a tile and row block."""
    _side(
        hidden, weight, bias, weight_scale, temperature_rows, target, parts, z_target,
        hidden_stride, weight_stride, rows, width, targets, valid, tiles,
        temperature, logit_scale, softcap, tl.program_id(0),
        SOFTCAP, EVEN, ALIGNED, OPERAND, E4M3, ENTROPY, BLOCK_V, BLOCK_N, BLOCK_D,
    )  # fmt: skip


@kernel
def product_kernel(
    hidden, weight, out,  # [N, D], [V, D] and [N, C] fp32
    hidden_stride: tl.int64, weight_stride: tl.int64, out_stride: tl.int64,
    rows: tl.int32, width: tl.int32, first: tl.int32, last: tl.int32,
    EVEN: tl.constexpr, ALIGNED: tl.constexpr, OPERAND: tl.constexpr, E4M3: tl.constexpr,
    BLOCK_V: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The products of columns [first, last) themselves: what a backward makes again.

    They are the forward's, bit for bit: a logit that is 10⁻⁶ away from the one in the saved m would
    scale every probability of its row.
    """
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.minimum(n, rows - 1).to(tl.int64)
    v = first + tl.program_id(0) * BLOCK_V + tl.arange(0, BLOCK_V)
    column = tl.minimum(v, last - 1).to(tl.int64)
    product = _product(
        hidden, weight, row, column, hidden_stride, weight_stride, width,
        EVEN, ALIGNED, OPERAND, E4M3, BLOCK_V, BLOCK_N, BLOCK_D,
    )  # fmt: skip
    at = out + row[None, :] * out_stride + (v - first)[:, None]
    tl.store(at, product, mask=(n < rows)[None, :] & (v < last)[:, None])


@kernel
def pair_kernel(
    hidden_t, weight_t, bias_t, weight_scale_t, temperature_rows_t, parts_t, z_target_t,
    hidden_stride_t: tl.int64, weight_stride_t: tl.int64, width_t: tl.int32,
    valid_t: tl.int32, tiles_t: tl.int32,
    temperature_t: tl.float32, logit_scale_t: tl.float32, softcap_t: tl.float32,
    hidden_u, weight_u, bias_u, weight_scale_u, temperature_rows_u, parts_u, z_target_u,
    hidden_stride_u: tl.int64, weight_stride_u: tl.int64, width_u: tl.int32,
    valid_u: tl.int32, tiles_u: tl.int32,
    temperature_u: tl.float32, logit_scale_u: tl.float32, softcap_u: tl.float32,
    target, rows: tl.int32, targets: tl.int32,
    SOFTCAP_T: tl.constexpr, EVEN_T: tl.constexpr, ALIGNED_T: tl.constexpr,
    OPERAND_T: tl.constexpr, E4M3_T: tl.constexpr,
    SOFTCAP_U: tl.constexpr, EVEN_U: tl.constexpr, ALIGNED_U: tl.constexpr,
    OPERAND_U: tl.constexpr, E4M3_U: tl.constexpr,
    BLOCK_V: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Both heads in one launch: the tuned head's programs, then the untuned head's."""
    program = tl.program_id(0)
    first = tiles_t * tl.cdiv(rows, BLOCK_N)
    if program < first:
        _side(
            hidden_t, weight_t, bias_t, weight_scale_t, temperature_rows_t, target, parts_t,
            z_target_t, hidden_stride_t, weight_stride_t, rows, width_t, targets, valid_t,
            tiles_t, temperature_t, logit_scale_t, softcap_t, program,
            SOFTCAP_T, EVEN_T, ALIGNED_T, OPERAND_T, E4M3_T, False, BLOCK_V, BLOCK_N, BLOCK_D,
        )  # fmt: skip
    else:
        _side(
            hidden_u, weight_u, bias_u, weight_scale_u, temperature_rows_u, target, parts_u,
            z_target_u, hidden_stride_u, weight_stride_u, rows, width_u, targets, valid_u,
            tiles_u, temperature_u, logit_scale_u, softcap_u, program - first,
            SOFTCAP_U, EVEN_U, ALIGNED_U, OPERAND_U, E4M3_U, False, BLOCK_V, BLOCK_N, BLOCK_D,
        )  # fmt: skip


def _tile_case(
    name: str, pointers: dict[str, str], rows: int, operand: torch.dtype, **constants: bool
) -> AotCase:
    tile = tile_at_90(rows, operand)
    full = {
        "SOFTCAP": False, "EVEN": True, "ALIGNED": True, "OPERAND": OPERANDS[operand],
        "E4M3": False, "ENTROPY": False, "BLOCK_V": tile.columns, "BLOCK_N": tile.rows,
        "BLOCK_D": tile.depth, **constants,
    }  # fmt: skip
    return case(name, tile_kernel, pointers, full, warps=tile.warps, stages=tile.stages)


_OUTPUTS = {"target": "i64", "parts": "fp32", "z_target": "fp32"}
_BF16 = {**_OUTPUTS, "hidden": "bf16", "weight": "bf16"}


def aot_cases() -> list[AotCase]:
    """Variants that heads are launched as."""
    bf16, fp32 = torch.bfloat16, torch.float32
    wide = {**_OUTPUTS, "hidden": "fp32", "weight": "fp32"}
    biased = {**_BF16, "bias": "bf16"}
    tile = tile_at_90(64, bf16)
    both = {f"{name}_{side}": kind for name, kind in _BF16.items() for side in "tu"}
    constants = {
        f"{name}_{side}": value
        for name, value in (
            ("SOFTCAP", False), ("EVEN", True), ("ALIGNED", True), ("OPERAND", tl.bfloat16),
            ("E4M3", False),
        )
        for side in "TU"
    }  # fmt: skip
    constants |= {"BLOCK_V": tile.columns, "BLOCK_N": tile.rows, "BLOCK_D": tile.depth}
    return [
        _tile_case("bf16, 16 rows", _BF16, 16, bf16),
        _tile_case("bf16, 64 rows, bias, softcap", biased, 64, bf16, SOFTCAP=True, ENTROPY=True),
        _tile_case("fp32, 16 rows", wide, 16, fp32),
        case(
            "pair, bf16, 64 rows", pair_kernel, {**both, "target": "i64"}, constants,
            warps=tile.warps, stages=tile.stages,
        ),
        *quantized_cases(80)[:1],
        *on(quantized_cases(80)[1:], (80,), ", decoded"),
        *on(quantized_cases(90)[1:], (90, 100)),
    ]  # fmt: skip


def quantized_cases(arch: int) -> list[AotCase]:
    """Heads of 8 bits under bf16 hidden states. Triton copies their weights 8 bytes at a time."""
    scaled = {**_BF16, "weight_scale": "fp32"}
    e4m3 = {**scaled, "weight": "fp8e4nv" if arch >= FIRST_E4M3_ARCH else "u8"}
    bf16 = torch.bfloat16
    return [
        _tile_case("int8 head, 64 rows", {**scaled, "weight": "i8"}, 64, bf16),
        _tile_case("e4m3 head, 16 rows", e4m3, 16, bf16, E4M3=arch < FIRST_E4M3_ARCH),
    ]
