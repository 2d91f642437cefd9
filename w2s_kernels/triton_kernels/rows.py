"""A row of logits in memory → its leaves → its statistics; shared by the ops on logits.

With few rows a program takes a part of a row's leaves and writes their partials, `[N, 3, L]` fp32,
to a small workspace; a second launch combines them. The leaves and their combination are those of
the program that takes a whole row, so splitting changes no bits.
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ..ops._warm import forget
from .common import INF, LEAF, combine, effective, exponent_scale, leaf_stats, row_temperature
from .launch import kernel, launch
from .settings import settings


@triton.jit
def fold_row(
    base, valid, first, last, scale, softcap,
    SOFTCAP: tl.constexpr, ENTROPY: tl.constexpr, ALIGNED: tl.constexpr, WIDE_TAIL: tl.constexpr,
    VECTOR: tl.constexpr, THREADS: tl.constexpr, LEAVES: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Statistics (m, s, u), three `[LEAVES]`, of leaves [first, last) of the row at `base`.

    Other entries are (−inf, 0, 0), which `combine` passes over. Only the last leaf may be ragged:
    the others load without a mask, as a mask narrows loads (not so where WIDE_TAIL says that
    `valid` is a multiple of VECTOR).
    """
    column = tl.arange(0, LEAF)
    at = tl.arange(0, LEAVES)
    m = tl.full([LEAVES], -INF, tl.float32)
    s = tl.zeros([LEAVES], tl.float32)
    u = tl.zeros([LEAVES], tl.float32)
    whole = tl.minimum(last, valid // LEAF)
    for i in tl.range(first, whole, num_stages=STAGES):
        leaf = base + i * LEAF
        if ALIGNED:  # said of this sum: what is said of an argument is lost when this is inlined
            leaf = tl.multiple_of(leaf, 16)
        z = tl.load(leaf + column, eviction_policy="evict_first").to(tl.float32)
        z = effective(z, softcap, SOFTCAP)
        leaf_m, leaf_s, leaf_u = leaf_stats(z, scale, ENTROPY, VECTOR, THREADS)
        m = tl.where(at == i, leaf_m, m)
        s = tl.where(at == i, leaf_s, s)
        u = tl.where(at == i, leaf_u, u)
    if whole < last:
        left = valid - whole * LEAF
        leaf = base + whole * LEAF
        if WIDE_TAIL:
            left = tl.multiple_of(left, VECTOR)
        if ALIGNED:
            leaf = tl.multiple_of(leaf, 16)
        z = tl.load(
            leaf + column, mask=column < left, other=-INF,
            eviction_policy="evict_first",
        ).to(tl.float32)  # fmt: skip
        z = effective(z, softcap, SOFTCAP)
        leaf_m, leaf_s, leaf_u = leaf_stats(z, scale, ENTROPY, VECTOR, THREADS)
        m = tl.where(at == whole, leaf_m, m)
        s = tl.where(at == whole, leaf_s, s)
        u = tl.where(at == whole, leaf_u, u)
    return m, s, u


@triton.jit
def store_partials(partials, row, begin, m, s, u, first, last, stride, LEAVES: tl.constexpr):
    """Leaves [first, last) of a row into the workspace `[N, 3, stride]`, leaf 0 at `begin`."""
    at = tl.arange(0, LEAVES)
    mine = (at >= first) & (at < last)
    base = partials + row * 3 * stride + begin
    tl.store(base + at, m, mask=mine)
    tl.store(base + stride + at, s, mask=mine)
    tl.store(base + 2 * stride + at, u, mask=mine)


@triton.jit
def load_partials(partials, row, first, count, stride, LEAVES: tl.constexpr):
    """Leaves [first, first + count) of a row of the workspace, as `fold_row` gives them."""
    at = tl.arange(0, LEAVES)
    base = partials + row * 3 * stride + first
    m = tl.load(base + at, mask=at < count, other=-INF)
    s = tl.load(base + stride + at, mask=at < count, other=0.0)
    u = tl.load(base + 2 * stride + at, mask=at < count, other=0.0)
    return m, s, u


@triton.jit
def row_stats(
    base, partials, row, valid, temperature, scale, softcap,
    SPLIT: tl.constexpr, SOFTCAP: tl.constexpr, ENTROPY: tl.constexpr, ALIGNED: tl.constexpr,
    WIDE_TAIL: tl.constexpr, VECTOR: tl.constexpr, THREADS: tl.constexpr, LEAVES: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """(m fp32, s fp64, u fp64) of a row: read here or, when SPLIT, from what was written of it."""
    leaves = tl.cdiv(valid, LEAF)
    if SPLIT:
        m, s, u = load_partials(partials, row, 0, leaves, leaves, LEAVES)
    else:
        m, s, u = fold_row(
            base, valid, 0, leaves, scale, softcap,
            SOFTCAP, ENTROPY, ALIGNED, WIDE_TAIL, VECTOR, THREADS, LEAVES, STAGES,
        )  # fmt: skip
    return combine(m, s, u, temperature)


@kernel
def partials_of_rows(
    logits, partials, temperature_rows,
    stride: tl.int64, valid: tl.int32, per_program: tl.int32,
    temperature: tl.float32, softcap: tl.float32,
    SOFTCAP: tl.constexpr, ENTROPY: tl.constexpr, ALIGNED: tl.constexpr, WIDE_TAIL: tl.constexpr,
    VECTOR: tl.constexpr, THREADS: tl.constexpr, LEAVES: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    leaves = tl.cdiv(valid, LEAF)
    first = tl.program_id(1) * per_program
    last = tl.minimum(first + per_program, leaves)
    t = row_temperature(temperature, temperature_rows, row)
    m, s, u = fold_row(
        logits + row * stride, valid, first, last, exponent_scale(t), softcap,
        SOFTCAP, ENTROPY, ALIGNED, WIDE_TAIL, VECTOR, THREADS, LEAVES, STAGES,
    )  # fmt: skip
    store_partials(partials, row, 0, m, s, u, first, last, leaves, LEAVES)


class Constants(NamedTuple):
    """What the code that reads one matrix of logits is compiled for, in the kernels' order."""

    softcap: bool
    entropy: bool
    aligned: bool
    wide_tail: bool
    vector: int
    threads: int
    leaves: int
    stages: int

    def named(self) -> dict[str, int]:
        """By the names of the kernels' arguments."""
        return {name.upper(): value for name, value in self._asdict().items()}


class Plan(NamedTuple):
    """How the rows of one matrix of logits are read."""

    code: Constants
    warps: int
    leaves: int
    per_program: int  # leaves; `leaves` where a program takes a whole row


def plan(logits: torch.Tensor, valid: int, softcap: float, entropy: bool) -> Plan:
    """The plan for logits `[N, V]` of which `valid` columns are read; remembered by what it is of.

    A call that was made before finds it in a microsecond.
    """
    return planned(
        logits.device, logits.dtype, logits.shape[0], logits.stride(0), logits.data_ptr() & 15,
        valid, softcap > 0, entropy,
    )  # fmt: skip


@functools.lru_cache(maxsize=4096)
def planned(
    device: torch.device,
    dtype: torch.dtype,
    rows: int,
    stride: int,
    misaligned: int,
    valid: int,
    softcap: bool,
    entropy: bool,
) -> Plan:
    """`plan` from plain values; `misaligned` is the first element's address modulo 16."""
    chosen = settings(device, dtype)
    vector = 16 // dtype.itemsize
    wide = misaligned == 0 and (rows == 1 or stride % vector == 0)
    leaves = leaf_count(valid)
    code = Constants(
        softcap=softcap,
        entropy=entropy,
        aligned=wide,
        wide_tail=wide and valid % vector == 0,
        vector=vector,
        threads=32 * chosen.warps,
        leaves=triton.next_power_of_2(max(1, leaves)),
        stages=chosen.stages,
    )
    return Plan(code, chosen.warps, leaves, leaves_per_program(rows, leaves, chosen.programs))


def forget_settings() -> None:
    """Lets plans and recordings of earlier calls be made anew; for a table that has changed."""
    settings.cache_clear()
    planned.cache_clear()
    forget()


def leaf_count(valid: int) -> int:
    """Leaves of a row of so many columns."""
    return -(-valid // int(LEAF.value))


def leaves_per_program(rows: int, leaves: int, programs: int) -> int:
    """How many leaves a program takes, so that at least `programs` run where there are as many."""
    if rows >= programs:
        return max(1, leaves)
    return max(1, rows * leaves // programs)


def split(
    logits: torch.Tensor,
    valid: int,
    temperature: float,
    temperature_rows: torch.Tensor | None,
    softcap: float,
    how: Plan,
) -> torch.Tensor | None:
    """The partials `[N, 3, L]` of few rows, each read by several programs; None for many rows."""
    leaves, per_program = how.leaves, how.per_program
    if per_program >= leaves:
        return None
    rows = logits.shape[0]
    partials = torch.empty((rows, 3, leaves), dtype=torch.float32, device=logits.device)
    launch(
        partials_of_rows,
        (rows, -(-leaves // per_program), 1),
        logits.device,
        (logits, partials, temperature_rows, logits.stride(0), valid, per_program, temperature,
         softcap, *how.code),
        (logits.dtype, temperature_rows is None, how.code),
        warps=how.warps,
    )  # fmt: skip
    return partials
