"""A row's parts → its law and values: the linear ops' second, small kernel.

The parts of a row (tiles or leaves, left to right) are folded about the row's maximum in float64.
Lane i takes parts i, i + LANES, … in order and the lanes fold as a tree, so a part of −inf columns
behind the row changes no bit, and neither does anything but the row's own parts.
"""

import triton
import triton.language as tl

from . import INTERPRETED
from .common import INF, LN2, entropy_of, log_ratio, log_sum, mark, row_temperature, tree_sum
from .launch import kernel
from .linear_aot import AotCase, case

LANES = tl.constexpr(32 if INTERPRETED else 256)  # interpreting costs by the fold


@triton.jit
def _row_law(parts, row, rows, count, temperature, ENTROPY: tl.constexpr):
    """(m fp32, s fp64, u fp64) of a row; NaN where a part or the temperature (fp64) is bad."""
    lane = tl.arange(0, LANES)
    base = parts + row * count
    plane = count.to(tl.int64) * rows
    top = tl.full([LANES], float("-inf"), dtype=tl.float32)
    for start in range(0, count, LANES):
        m = tl.load(base + start + lane, mask=lane < count - start, other=-INF)
        top = tl.maximum(top, m)
    m_row = tl.max(top, axis=0)
    s_lanes = tl.zeros([LANES], dtype=tl.float64)
    u_lanes = tl.zeros([LANES], dtype=tl.float64)
    for start in range(0, count, LANES):
        here = lane < count - start
        m = tl.load(base + start + lane, mask=here, other=-INF)
        s = tl.load(base + plane + start + lane, mask=here, other=0.0).to(tl.float64)
        d = (m.to(tl.float64) - m_row.to(tl.float64)) / temperature
        scale = tl.where(m > -INF, tl.exp(d), 0.0)
        scale = tl.where(s != s, 1.0, scale)  # a bad part's s is NaN and stays it
        s_lanes += tl.where(scale == 0.0, 0.0, scale * s)
        if ENTROPY:
            u = tl.load(base + 2 * plane + start + lane, mask=here, other=0.0).to(tl.float64)
            u_lanes += tl.where(scale == 0.0, 0.0, scale * (u * LN2 + d * s))
    total = tree_sum(s_lanes)
    usable = (temperature > 0.0) & (temperature < INF) & (total == total)
    return (
        tl.where(usable, m_row, float("nan")),
        tl.where(usable, total, float("nan")),
        tree_sum(u_lanes),
    )


@kernel
def finish_kernel(
    parts,  # [3, N, P] fp32
    z_target,  # [N, K] fp32
    target,  # [N, K]
    temperature_rows,  # [N] fp32 or None
    value,  # [N, K] fp32
    m_out,  # [N] fp32
    s_out,  # [N] fp64
    entropy,  # [N] fp32 or None
    rows: tl.int32,
    targets: tl.int32,
    count: tl.int32,  # P
    valid: tl.int32,
    temperature: tl.float32,
    TARGETS: tl.constexpr,  # targets taken at a time
):
    """linear_logprob: a program a row."""
    row = tl.program_id(0).to(tl.int64)
    t = row_temperature(temperature, temperature_rows, row)
    m, s, u = _row_law(parts, row, rows, count, t, entropy is not None)
    tl.store(m_out + row, m)
    tl.store(s_out + row, s)
    if entropy is not None:
        tl.store(entropy + row, entropy_of(s, u).to(tl.float32))
    for start in range(0, targets, TARGETS):
        k = start + tl.arange(0, TARGETS)
        at = row * targets + k
        wanted = tl.load(target + at, mask=k < targets, other=-1)
        z = tl.load(z_target + at, mask=k < targets, other=0.0)
        # x and log s round apart: a certain target may come out at +1e-17.
        found = log_ratio(z, m, t) - log_sum(m, s)
        found = tl.where(found > 0.0, 0.0, found)
        tl.store(value + at, mark(found, wanted, valid), mask=k < targets)


@kernel
def finish_pair_kernel(
    parts_t, z_target_t, temperature_rows_t, m_t_out, s_t_out,
    parts_u, z_target_u, temperature_rows_u, m_u_out, s_u_out,
    target, value, rows: tl.int32, targets: tl.int32, count_t: tl.int32, count_u: tl.int32,
    valid: tl.int32, temperature_t: tl.float32, temperature_u: tl.float32,
    TARGETS: tl.constexpr,
):  # fmt: skip
    """linear_logprob_diff: a program a row; valid columns are those of both heads."""
    row = tl.program_id(0).to(tl.int64)
    t_t = row_temperature(temperature_t, temperature_rows_t, row)
    t_u = row_temperature(temperature_u, temperature_rows_u, row)
    m_t, s_t, _ = _row_law(parts_t, row, rows, count_t, t_t, False)
    m_u, s_u, _ = _row_law(parts_u, row, rows, count_u, t_u, False)
    tl.store(m_t_out + row, m_t)
    tl.store(s_t_out + row, s_t)
    tl.store(m_u_out + row, m_u)
    tl.store(s_u_out + row, s_u)
    logs = log_sum(m_t, s_t) - log_sum(m_u, s_u)
    for start in range(0, targets, TARGETS):
        k = start + tl.arange(0, TARGETS)
        at = row * targets + k
        wanted = tl.load(target + at, mask=k < targets, other=-1)
        z_t = tl.load(z_target_t + at, mask=k < targets, other=0.0)
        z_u = tl.load(z_target_u + at, mask=k < targets, other=0.0)
        found = log_ratio(z_t, m_t, t_t) - log_ratio(z_u, m_u, t_u) - logs
        tl.store(value + at, mark(found, wanted, valid), mask=k < targets)


def aot_cases() -> list[AotCase]:
    """Both kernels with one target a row; they read a few kilobytes."""
    rows = {"target": "i64", "value": "fp32"}
    one = {"parts": "fp32", "z_target": "fp32", "m_out": "fp32", "s_out": "fp64"}
    pair = {
        "parts_t": "fp32", "z_target_t": "fp32", "m_t_out": "fp32", "s_t_out": "fp64",
        "parts_u": "fp32", "z_target_u": "fp32", "m_u_out": "fp32", "s_u_out": "fp64",
    }  # fmt: skip
    constants = {"TARGETS": 1}
    with_entropy = {**rows, **one, "entropy": "fp32"}
    return [
        case("scalar finish", finish_kernel, with_entropy, constants, warps=4),
        case("scalar finish of a pair", finish_pair_kernel, {**rows, **pair}, constants, warps=4),
    ]
