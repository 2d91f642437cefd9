"""Many rows, one kernel: tensor-core products whose epilogue is the leaf's statistics.

Persistent programs (one a multiprocessor) take work items (row block, leaf) in turn; a row block's
items of one leaf are neighbours, so that the leaf's weights are read from the L2 cache by all but
the first. Operands come through tensor descriptors. A leaf is folded tile by tile, in order, about
a running maximum. No logit leaves the chip.

The committed table does not choose it yet: nothing measured says that it beats the vendor's
product with its fold (`linear_settings.use_path("fused")` forces it).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import INF, LEAF, exponent_scale
from .launch import aligned, kernel, launch
from .linear_aot import AotCase, case, on
from .linear_device import head_logits
from .linear_plan import cdiv
from .linear_settings import for_arch
from .linear_side import Side


@kernel
def fused_kernel(
    hidden,  # [N, D]
    weight,  # [V, D]
    bias,  # [V] or None
    weight_scale,  # [V] or None
    temperature_rows,  # [N] fp32 or None
    target,  # [N, K]
    parts,  # [3, N, P] fp32
    z_target,  # [N, K] fp32
    hidden_stride: tl.int64,
    weight_stride: tl.int64,
    rows: tl.int32,
    width: tl.int32,
    targets: tl.int32,
    valid: tl.int32,
    leaves: tl.int32,  # P
    temperature: tl.float32,
    logit_scale: tl.float32,
    softcap: tl.float32,
    SOFTCAP: tl.constexpr,
    ENTROPY: tl.constexpr,
    UPCAST: tl.constexpr,  # the interpreter multiplies 16-bit operands wrongly
    BLOCK_V: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Statistics of every row and leaf."""
    # Rows are whole multiples of 16 bytes (see `fused_refusal`): what the hardware asks for.
    h_rows = tl.make_tensor_descriptor(
        hidden, [rows, width], [hidden_stride, 1], [BLOCK_N, BLOCK_D]
    )
    w_rows = tl.make_tensor_descriptor(
        weight, [valid, width], [weight_stride, 1], [BLOCK_V, BLOCK_D]
    )
    row_blocks = tl.cdiv(rows, BLOCK_N)
    plane = leaves.to(tl.int64) * rows
    for item in range(tl.program_id(0), row_blocks * leaves, tl.num_programs(0)):
        leaf = item // row_blocks
        first_row = (item % row_blocks) * BLOCK_N
        n = first_row + tl.arange(0, BLOCK_N)
        row = tl.minimum(n, rows - 1).to(tl.int64)
        if temperature_rows is not None:
            t = tl.load(temperature_rows + row).to(tl.float64)
        else:
            t = tl.zeros([BLOCK_N], dtype=tl.float64) + temperature
        scale = exponent_scale(t)
        m = tl.full([BLOCK_N], float("-inf"), dtype=tl.float32)
        s = tl.zeros([BLOCK_N], dtype=tl.float32)
        u = tl.zeros([BLOCK_N], dtype=tl.float32)
        last = tl.minimum((leaf + 1) * LEAF, valid)
        for first in range(leaf * LEAF, last, BLOCK_V):
            product = tl.zeros([BLOCK_N, BLOCK_V], dtype=tl.float32)
            for d in range(0, width, BLOCK_D):
                h = h_rows.load([first_row, d])
                w = w_rows.load([first, d])
                if UPCAST:
                    h = h.to(tl.float32)
                    w = w.to(tl.float32)
                product = tl.dot(h, w.T, product, input_precision="ieee")
            v = first + tl.arange(0, BLOCK_V)
            column = tl.minimum(v, valid - 1).to(tl.int64)
            z = head_logits(
                product, bias, weight_scale, column[None, :], logit_scale, softcap, SOFTCAP
            )
            z = tl.where((v < valid)[None, :], z, -INF)
            top = tl.maximum(m, tl.max(z, axis=1))
            about = tl.where(top == -INF, 0.0, top)  # −inf − −inf is NaN
            y = (z - about[:, None]) * scale[:, None]
            e = tl.exp2(y)
            shift = tl.where(m == -INF, 0.0, (m - about) * scale)
            shrink = tl.where(m == -INF, 0.0, tl.exp2(shift))
            if ENTROPY:
                u_tile = tl.sum(e * tl.maximum(y, -200.0), axis=1)  # 0·−inf is NaN
                u = shrink * (u + tl.maximum(shift, -200.0) * s) + u_tile
            s = shrink * s + tl.sum(e, axis=1)
            m = top
            for k in range(targets):
                wanted = tl.load(target + row * targets + k, mask=n < rows, other=-1)
                hit = (wanted >= first) & (wanted < tl.minimum(first + BLOCK_V, valid))
                if tl.max(hit.to(tl.int32), axis=0) > 0:
                    picked = tl.sum(tl.where(wanted[:, None] == v[None, :], z, 0.0), axis=1)
                    tl.store(z_target + row * targets + k, picked, mask=hit)
        part = parts + row * leaves + leaf
        tl.store(part, m, mask=n < rows)
        tl.store(part + plane, s, mask=n < rows)
        if ENTROPY:
            tl.store(part + 2 * plane, u, mask=n < rows)


def fused_refusal(side: Side) -> str | None:
    """Why the fused kernel does not take this side; None when it does."""
    settings, weight = side.settings(), side.head.weight
    if settings.fused is None:
        return f"no tile for sm_{settings.arch} and {side.operand}"
    if weight.dtype != side.hidden.dtype:
        return f"hidden states are {side.hidden.dtype}, the weight {weight.dtype}"
    if not aligned(side.hidden, weight):
        return "a row does not start at a multiple of 16 bytes"
    return None


def fused_parts(side: Side, target: Tensor, parts: Tensor, z_target: Tensor, entropy: bool) -> None:
    """Fills parts `[3, N, leaves]` and z_target of a side that `fused_refusal` does not refuse."""
    head, (rows, width) = side.head, side.hidden.shape
    tile = side.settings().fused
    if tile is None:
        raise ValueError(fused_refusal(side))
    # A single row has any stride; a descriptor asks for a multiple of 16 bytes all the same.
    hidden_stride = (side.hidden if rows > 1 else head.weight).stride(0)
    leaves, cuda = parts.shape[2], side.hidden.is_cuda
    items = leaves * cdiv(rows, tile.rows)
    programs = items
    if cuda:
        properties = torch.cuda.get_device_properties(side.hidden.device)
        programs = min(items, properties.multi_processor_count)
        triton.set_allocator(_descriptor_space)
    constants = (head.softcap > 0, entropy, not cuda, tile.columns, tile.rows, tile.depth)
    key = (
        side.hidden.dtype, None if head.bias is None else head.bias.dtype,
        None if head.weight_scale is None else head.weight_scale.dtype,
        side.temperature_rows is None, target.dtype, constants,
    )  # fmt: skip
    launch(
        fused_kernel,
        (programs, 1, 1),
        side.hidden.device,
        (
            side.hidden, head.weight, head.bias, head.weight_scale, side.temperature_rows,
            target, parts, z_target, hidden_stride, head.weight.stride(0), rows, width,
            target.shape[1], head.valid, leaves, side.temperature, head.logit_scale,
            head.softcap, *constants,
        ),
        key,
        warps=tile.warps,
        stages=tile.stages,
    )  # fmt: skip


def _descriptor_space(size: int, alignment: int, stream: int | None) -> Tensor:
    """Memory for the descriptors that a launch builds on the device."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


def descriptor_cases() -> list[AotCase]:
    """The bf16 kernel as `use_path("fused")` launches it, from sm_90 on: it needs descriptors."""
    tile = for_arch(90, 16).fused
    if tile is None:
        return []
    pointers = {
        "hidden": "bf16", "weight": "bf16", "target": "i64", "parts": "fp32", "z_target": "fp32",
    }  # fmt: skip
    constants = {
        "SOFTCAP": False, "ENTROPY": False, "UPCAST": False, "BLOCK_V": tile.columns,
        "BLOCK_N": tile.rows, "BLOCK_D": tile.depth,
    }  # fmt: skip
    name = f"bf16, {tile.rows} rows"
    launched = {"warps": tile.warps, "stages": tile.stages}
    return [case(name, fused_kernel, pointers, constants, **launched)]


def aot_cases() -> list[AotCase]:
    """The same, for the ahead-of-time checks."""
    return on(descriptor_cases(), (90, 100))
