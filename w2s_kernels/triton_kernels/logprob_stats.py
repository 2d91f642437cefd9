"""logprob_stats: (m, s, z_target) of a shard; merge_stats and finish_stats, on what shards give."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .common import (
    INF,
    combine_about,
    exponent_scale,
    log_ratio,
    log_sum,
    mark,
    row_temperature,
    target_logits,
)
from .launch import kernel, launch
from .offer import AotEntry, example_constants, offer
from .rows import plan, row_stats, split


@kernel
def _forward(
    logits, target, m_out, s_out, z_out, partials, temperature_rows,
    stride: tl.int64, valid: tl.int32, per_row: tl.int32, vocab_start: tl.int64,
    temperature: tl.float32, softcap: tl.float32,
    TARGETS: tl.constexpr, SPLIT: tl.constexpr,
    SOFTCAP: tl.constexpr, ENTROPY: tl.constexpr, ALIGNED: tl.constexpr, WIDE_TAIL: tl.constexpr,
    VECTOR: tl.constexpr, THREADS: tl.constexpr, LEAVES: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    per_row = 1 if TARGETS == 1 else per_row  # known, so that there is no loop over targets
    base = logits + row * stride
    t = row_temperature(temperature, temperature_rows, row)
    m, s, _ = row_stats(
        base, partials, row, valid, t, exponent_scale(t), softcap, SPLIT,
        SOFTCAP, ENTROPY, ALIGNED, WIDE_TAIL, VECTOR, THREADS, LEAVES, STAGES,
    )  # fmt: skip
    tl.store(m_out + row, m)
    tl.store(s_out + row, s)
    for first in range(0, per_row, TARGETS):
        k = first + tl.arange(0, TARGETS)
        here = k < per_row
        ids = tl.load(target + row * per_row + k, mask=here, other=0).to(tl.int64)
        z_target = target_logits(base, ids - vocab_start, valid, softcap, SOFTCAP)
        tl.store(z_out + row * per_row + k, z_target, mask=here)


def logprob_stats(
    logits: Tensor,  # [N, V_shard]
    target: Tensor,  # [N, K]
    temperature: float,
    temperature_rows: Tensor | None,  # [N] fp32
    softcap: float,
    valid_vocab: int,
    vocab_start: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """`ops.logprob_stats` on the Triton backend: (m, s, z_target)."""
    rows, per_row = target.shape
    m = torch.empty(rows, dtype=torch.float32, device=logits.device)
    s = torch.empty(rows, dtype=torch.float64, device=logits.device)
    z_target = torch.empty(target.shape, dtype=torch.float32, device=logits.device)
    how = plan(logits, valid_vocab, softcap, False)
    partials = split(logits, valid_vocab, temperature, temperature_rows, softcap, how)
    targets = 1 if per_row == 1 else 16
    launch(
        _forward,
        (rows, 1, 1),
        logits.device,
        (logits, target, m, s, z_target, partials, temperature_rows, logits.stride(0), valid_vocab,
         per_row, vocab_start, temperature, softcap, targets, partials is not None, *how.code),
        (logits.dtype, target.dtype, temperature_rows is None, targets, partials is None, how.code),
        warps=how.warps if partials is None else 1,  # few leaves to combine, no more
    )  # fmt: skip
    return m, s, z_target


@kernel
def _merge(
    m_in, s_in, temperature_rows, m_out, s_out,
    parts: tl.int32, rows: tl.int64, temperature: tl.float32,
    PARTS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    t = row_temperature(temperature, temperature_rows, row)
    part = tl.arange(0, PARTS)
    m = tl.load(m_in + part * rows + row, mask=part < parts, other=-INF)
    s = tl.load(s_in + part * rows + row, mask=part < parts, other=0.0)
    # A part with a bad temperature or a bad logit has NaN in both.
    bad = tl.max((m != m).to(tl.int32), axis=0)
    top, total, _ = combine_about(m, s, s * 0.0, bad, t)
    tl.store(m_out + row, top)
    tl.store(s_out + row, total)


def merge_stats(
    m: Tensor,  # [P, N]
    s: Tensor,  # [P, N]
    temperature: float,
    temperature_rows: Tensor | None,  # [N]
) -> tuple[Tensor, Tensor]:
    """`ops.merge_stats`: parts are folded as the leaves of a row are."""
    parts, rows = m.shape
    top = torch.empty(rows, dtype=torch.float32, device=m.device)
    total = torch.empty(rows, dtype=torch.float64, device=m.device)
    padded = triton.next_power_of_2(parts)
    launch(
        _merge,
        (rows, 1, 1),
        m.device,
        (m.contiguous(), s.contiguous(), temperature_rows, top, total, parts, rows, temperature,
         padded),
        (temperature_rows is None, padded),
        warps=1,
    )  # fmt: skip
    return top, total


@kernel
def _finish(
    m_in, s_in, z_target, target, temperature_rows, value,
    per_row: tl.int32, vocab: tl.int32, temperature: tl.float32,
    TARGETS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    per_row = 1 if TARGETS == 1 else per_row  # known, so that there is no loop over targets
    t = row_temperature(temperature, temperature_rows, row)
    m = tl.load(m_in + row)
    log_s = log_sum(m, tl.load(s_in + row))
    for first in range(0, per_row, TARGETS):
        k = first + tl.arange(0, TARGETS)
        here = k < per_row
        ids = tl.load(target + row * per_row + k, mask=here, other=0).to(tl.int64)
        z = tl.load(z_target + row * per_row + k, mask=here, other=0.0)
        found = mark(log_ratio(z, m, t) - log_s, ids, vocab)
        tl.store(value + row * per_row + k, found, mask=here)


def finish_stats(
    m: Tensor,  # [N]
    s: Tensor,  # [N]
    z_target: Tensor,  # [N, K]
    target: Tensor,  # [N, K]
    temperature: float,
    temperature_rows: Tensor | None,  # [N]
    vocab: int,
) -> Tensor:
    """`ops.finish_stats`: the last lines of `logprob`, from statistics."""
    rows, per_row = target.shape
    value = torch.empty_like(z_target, memory_format=torch.contiguous_format)
    targets = 1 if per_row == 1 else 16
    launch(
        _finish,
        (rows, 1, 1),
        m.device,
        (m.contiguous(), s.contiguous(), z_target.contiguous(), target.contiguous(),
         temperature_rows, value, per_row, vocab, temperature, targets),
        (target.dtype, temperature_rows is None, targets),
        warps=1,
    )  # fmt: skip
    return value


def aot_cases() -> list[AotEntry]:
    """The kernels of shards of 128256 columns, for `w2s_kernels.aot`."""
    found = []
    for dtype in ("bf16", "fp32"):
        code, warps = example_constants(dtype)
        pointers = {
            "logits": f"*{dtype}", "target": "*i64", "m_out": "*fp32", "s_out": "*fp64",
            "z_out": "*fp32", "partials": None, "temperature_rows": None,
        }  # fmt: skip
        constants = {"TARGETS": 1, "SPLIT": False, **code.named()}
        found.append(offer(f"forward {dtype}", _forward, pointers, constants, warps))
    rows = {
        "m_in": "*fp32", "s_in": "*fp64", "m_out": "*fp32", "s_out": "*fp64", "target": "*i64",
        "z_target": "*fp32", "value": "*fp32", "temperature_rows": None,
    }  # fmt: skip
    merge = {name: kind for name, kind in rows.items() if name in _merge.arg_names}
    finish = {name: kind for name, kind in rows.items() if name in _finish.arg_names}
    found.append(offer("merge 8 parts, scalar", _merge, merge, {"PARTS": 8}, 1))
    found.append(offer("finish, scalar", _finish, finish, {"TARGETS": 1}, 1))
    return found
