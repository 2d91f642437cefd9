"""Small kernels for the tests of the ahead-of-time checks: one that keeps every promise, and for
each promise one that breaks it. The shape of a module of `triton_kernels`."""

from typing import Any

import triton
import triton.language as tl


@triton.jit
def row_sums(x, out, columns, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """out[row] = Σ x[row]; rows of a multiple of `block` columns."""
    row = tl.program_id(0).to(tl.int64)
    total = tl.zeros((block,), tl.float32)
    for start in range(0, columns, block):
        at = row * columns + start + tl.arange(0, block)
        total += tl.load(x + at).to(tl.float32)
    tl.store(out + row, tl.sum(total, 0))


@triton.jit
def sorted_tile(x, out, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """A tile that does not fit the few registers it is given."""
    at = tl.arange(0, block)
    tile = tl.load(x + at)
    other = tl.load(x + block + at)
    tl.store(out + at, tl.cumsum(tile, 0) * tl.cumsum(other, 0) + tile + other)


@triton.jit
def product(a, b, out, width: tl.constexpr, precision: tl.constexpr):  # type: ignore[no-untyped-def]
    """out [64, 64] = a [64, width] · b [64, width]ᵀ"""
    rows, across = tl.arange(0, 64), tl.arange(0, width)
    left = tl.load(a + rows[:, None] * width + across[None, :])
    right = tl.load(b + rows[:, None] * width + across[None, :])
    tile = tl.dot(left, right.T, input_precision=precision)
    tl.store(out + rows[:, None] * 64 + rows[None, :], tile)


def aot_cases() -> list[tuple[str, Any, dict[str, str], dict[str, Any], dict[str, Any]]]:
    """Named after what their machine code shows."""
    sums = {"x": "*bf16", "out": "*fp32", "columns": "i32:16"}
    tile = {"x": "*fp32", "out": "*fp32"}
    pair = {"a": "*bf16", "b": "*bf16", "out": "*fp32"}
    wide = {name: kind.replace("bf16", "fp32") for name, kind in pair.items()}
    four_warps = {"num_warps": 4}
    few_registers = {"num_warps": 2, "maxnreg": 40}
    return [
        ("right", row_sums, sums, {"block": 2048}, four_warps),
        ("narrow loads", row_sums, {**sums, "x": "*bf16:1"}, {"block": 2048}, four_warps),
        ("narrow loads of a scalar kernel", row_sums, {**sums, "x": "*bf16:1"}, {"block": 2048},
         four_warps),
        ("spills", sorted_tile, tile, {"block": 2048}, few_registers),
        ("spills in a backward", sorted_tile, tile, {"block": 2048}, few_registers),
        ("right product", product, pair, {"width": 64, "precision": "ieee"}, four_warps),
        ("tf32", product, wide, {"width": 64, "precision": "tf32"}, four_warps),
    ]  # fmt: skip
