"""A head's parts, by one of three paths, group of rows by group of rows."""

import torch
import triton.language as tl
from torch import Tensor

from . import linear_plan
from .launch import aligned, launch
from .linear_chunk import FOLD_WARPS, fold_kernel
from .linear_fused import fused_parts, fused_refusal
from .linear_plan import LEAF, Plan
from .linear_product import exact_fp32, product_into
from .linear_settings import Tile
from .linear_side import Parts, Side, empty_parts
from .linear_tile import FIRST_E4M3_ARCH, OPERANDS, pair_kernel, product_kernel, tile_kernel


def path_of(side: Side, invariant: bool) -> str:
    """The path that makes this side's products."""
    if invariant:
        return "tile"
    path = side.settings().path(side.hidden.shape[0])
    return "chunked" if path == "fused" and fused_refusal(side) else path


def tile_of(side: Side, invariant: bool) -> Tile:
    """The tile of the fused path."""
    settings = side.settings()
    return settings.invariant if invariant else settings.tile(side.hidden.shape[0])


def plan_of(side: Side, path: str, invariant: bool, heads: int = 1) -> Plan:
    """How the rows are grouped on a path."""
    rows, width = side.hidden.shape
    if path == "tile":
        columns = tile_of(side, invariant).columns
        return linear_plan.tile_plan(rows, side.head.valid, columns, heads=heads)
    if path == "fused":
        return linear_plan.tile_plan(rows, side.head.valid, LEAF, heads=heads)
    weight, operand = side.head.weight.dtype, gemm_dtype(side)
    return linear_plan.forward_plan(
        rows, width, side.head.valid,
        weight_bytes=0 if weight == operand else operand.itemsize,
        hidden_bytes=0 if side.hidden.dtype == operand else operand.itemsize,
        heads=heads,
    )  # fmt: skip


def gemm_dtype(side: Side) -> torch.dtype:
    """dtype of the operands of the vendor's product (fp32 on the interpreter's CPU tensors)."""
    return side.operand if side.hidden.is_cuda else torch.float32


def parts_of(side: Side, target: Tensor, path: str, entropy: bool, tile: Tile) -> Parts:
    """The parts of one group of rows on one path."""
    if path == "tile":
        return tile_parts(side, target, entropy, tile)
    if path == "fused":
        made = empty_parts(side, target, LEAF)
        fused_parts(side, target, made.parts, made.z_target, entropy)
        return made
    return chunked_parts(side, target, entropy)


def _operands(side: Side, tile: Tile) -> tuple[Tensor, tuple[bool, bool, tl.dtype, bool]]:
    """The weight as the tile reads it, and the constants (EVEN, ALIGNED, OPERAND, E4M3)."""
    weight, width = side.head.weight, side.hidden.shape[1]
    decoded = weight.dtype == torch.float8_e4m3fn and side.settings().arch < FIRST_E4M3_ARCH
    if decoded:
        weight = weight.view(torch.uint8)
    strides = _row_stride(side.hidden) | weight.stride(0) | width
    wide = strides % 16 == 0 and aligned(side.hidden, weight)
    # The interpreter multiplies 16-bit operands wrongly: it gets them as fp32.
    operand = side.operand if side.hidden.is_cuda else torch.float32
    return weight, (width % tile.depth == 0, wide, OPERANDS[operand], decoded)


def _row_stride(hidden: Tensor) -> int:
    """The stride of rows; 0 for a single row, whose stride may be any number."""
    return hidden.stride(0) if hidden.shape[0] > 1 else 0


def tile_parts(side: Side, target: Tensor, entropy: bool, tile: Tile) -> Parts:
    """Parts of `tile.columns` columns from the fused tile."""
    head, (rows, width) = side.head, side.hidden.shape
    made = empty_parts(side, target, tile.columns)
    weight, constants = _operands(side, tile)
    even, wide, operand, decoded = constants
    tiles = made.parts.shape[2]
    settings = (head.softcap > 0, even, wide, operand, decoded, entropy)
    shape = (tile.columns, tile.rows, tile.depth)
    launch(
        tile_kernel,
        (tiles * linear_plan.cdiv(rows, tile.rows), 1, 1),
        side.hidden.device,
        (
            side.hidden, weight, head.bias, head.weight_scale, side.temperature_rows, target,
            made.parts, made.z_target, _row_stride(side.hidden), weight.stride(0), rows, width,
            target.shape[1], head.valid, tiles, side.temperature, head.logit_scale, head.softcap,
            *settings, *shape,
        ),
        (*_dtypes(side), target.dtype, settings, shape),
        warps=tile.warps,
        stages=tile.stages,
    )  # fmt: skip
    return made


def tile_products(side: Side, out: Tensor, columns: slice) -> None:
    """Products `[N, C]` of some columns, with the bits that `tile_parts` makes its parts of."""
    tile, (rows, width) = tile_of(side, False), side.hidden.shape
    weight, constants = _operands(side, tile)
    shape = (tile.columns, tile.rows, tile.depth)
    count = columns.stop - columns.start
    launch(
        product_kernel,
        (linear_plan.cdiv(count, tile.columns), linear_plan.cdiv(rows, tile.rows), 1),
        out.device,
        (
            side.hidden, weight, out, _row_stride(side.hidden), weight.stride(0), out.stride(0),
            rows, width, columns.start, columns.stop, *constants, *shape,
        ),
        (side.hidden.dtype, weight.dtype, constants, shape),
        warps=tile.warps,
        stages=tile.stages,
    )  # fmt: skip


def pair_tile_parts(tuned: Side, untuned: Side, target: Tensor, tile: Tile) -> tuple[Parts, Parts]:
    """Both heads' parts from one launch of the fused tile."""
    sides = (tuned, untuned)
    rows = tuned.hidden.shape[0]
    made = [empty_parts(side, target, tile.columns) for side in sides]
    programs, arguments, constants = 0, [], []
    for side, parts in zip(sides, made, strict=True):
        head = side.head
        weight, settings = _operands(side, tile)
        tiles = parts.parts.shape[2]
        programs += tiles * linear_plan.cdiv(rows, tile.rows)
        arguments += [
            side.hidden, weight, head.bias, head.weight_scale, side.temperature_rows,
            parts.parts, parts.z_target, _row_stride(side.hidden), weight.stride(0),
            side.hidden.shape[1], head.valid, tiles,
            side.temperature, head.logit_scale, head.softcap,
        ]  # fmt: skip
        constants += [head.softcap > 0, *settings]
    shape = (tile.columns, tile.rows, tile.depth)
    launch(
        pair_kernel,
        (programs, 1, 1),
        tuned.hidden.device,
        (*arguments, target, rows, target.shape[1], *constants, *shape),
        (*_dtypes(tuned), *_dtypes(untuned), target.dtype, tuple(constants), shape),
        warps=tile.warps,
        stages=tile.stages,
    )
    return made[0], made[1]


def _dtypes(side: Side) -> tuple[torch.dtype | bool | None, ...]:
    head = side.head
    return (
        side.hidden.dtype,
        head.weight.dtype,
        None if head.bias is None else head.bias.dtype,
        None if head.weight_scale is None else head.weight_scale.dtype,
        side.temperature_rows is None,
    )


def convert(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in another dtype; itself where it has it."""
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def chunked_parts(side: Side, target: Tensor, entropy: bool) -> Parts:
    """Parts of a leaf each: the vendor's product of a chunk, folded while it is in the cache."""
    head, dtype = side.head, gemm_dtype(side)
    rows, targets = target.shape
    plan = plan_of(side, "chunked", False)
    made = empty_parts(side, target, LEAF)
    states = convert(side.hidden, dtype)
    buffer = states.new_empty(rows, plan.columns, dtype=torch.float32)
    constants = (head.softcap > 0, entropy, linear_plan.target_block(targets))
    key = (*_dtypes(side)[2:], target.dtype, constants)
    with exact_fp32():
        for chunk in linear_plan.slices(head.valid, plan.columns):
            columns = chunk.stop - chunk.start
            for piece in linear_plan.slices(columns, plan.piece):
                weight = head.weight[chunk.start + piece.start : chunk.start + piece.stop]
                product_into(buffer[:, piece], states, convert(weight, dtype).T)
            launch(
                fold_kernel,
                (rows, linear_plan.cdiv(columns, LEAF), 1),
                side.hidden.device,
                (
                    buffer, head.bias, head.weight_scale, side.temperature_rows, target,
                    made.parts, made.z_target, plan.columns, rows, targets, head.valid,
                    made.parts.shape[2], chunk.start // LEAF,
                    side.temperature, head.logit_scale, head.softcap, *constants,
                ),
                key,
                warps=FOLD_WARPS,
            )  # fmt: skip
    return made
