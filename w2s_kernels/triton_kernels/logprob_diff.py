"""logprob_diff: both models' rows in one launch, finished as a pair in fp64 and rounded once.

Both sides go through the same code, and the pair's last line is antisymmetric: swapping the models
changes the sign and no other bit.
"""

import functools

import torch
import triton.language as tl
from torch import Tensor

from .common import (
    LEAF,
    combine,
    exponent_scale,
    log_ratio,
    log_sum,
    mark,
    row_temperature,
    target_logits,
)
from .gradient import gradient
from .launch import kernel, launch
from .offer import AotEntry, example_constants, offer
from .rows import (
    Constants,
    Plan,
    fold_row,
    load_partials,
    plan,
    store_partials,
)


@kernel
def _partials(
    tuned, untuned, partials, rows_t, rows_u,
    stride_t: tl.int64, stride_u: tl.int64, valid_t: tl.int32, valid_u: tl.int32,
    per_program: tl.int32, temperature_t: tl.float32, temperature_u: tl.float32,
    softcap_t: tl.float32, softcap_u: tl.float32,
    THREADS: tl.constexpr, STAGES: tl.constexpr,
    SOFTCAP_T: tl.constexpr, ALIGNED_T: tl.constexpr, WIDE_T: tl.constexpr,
    VECTOR_T: tl.constexpr, LEAVES_T: tl.constexpr,
    SOFTCAP_U: tl.constexpr, ALIGNED_U: tl.constexpr, WIDE_U: tl.constexpr,
    VECTOR_U: tl.constexpr, LEAVES_U: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    leaves_t = tl.cdiv(valid_t, LEAF)
    leaves_u = tl.cdiv(valid_u, LEAF)
    both = leaves_t + leaves_u
    chunk = tl.program_id(1)
    chunks_t = tl.cdiv(leaves_t, per_program)
    if chunk < chunks_t:
        t = row_temperature(temperature_t, rows_t, row)
        first = chunk * per_program
        last = tl.minimum(first + per_program, leaves_t)
        m, s, u = fold_row(
            tuned + row * stride_t, valid_t, first, last, exponent_scale(t), softcap_t,
            SOFTCAP_T, False, ALIGNED_T, WIDE_T, VECTOR_T, THREADS, LEAVES_T, STAGES,
        )  # fmt: skip
        store_partials(partials, row, 0, m, s, u, first, last, both, LEAVES_T)
    else:
        t = row_temperature(temperature_u, rows_u, row)
        first = (chunk - chunks_t) * per_program
        last = tl.minimum(first + per_program, leaves_u)
        m, s, u = fold_row(
            untuned + row * stride_u, valid_u, first, last, exponent_scale(t), softcap_u,
            SOFTCAP_U, False, ALIGNED_U, WIDE_U, VECTOR_U, THREADS, LEAVES_U, STAGES,
        )  # fmt: skip
        store_partials(partials, row, leaves_t, m, s, u, first, last, both, LEAVES_U)


@kernel
def _forward(
    tuned, untuned, target, value, m_t_out, s_t_out, m_u_out, s_u_out, partials, rows_t, rows_u,
    stride_t: tl.int64, stride_u: tl.int64, valid_t: tl.int32, valid_u: tl.int32,
    per_row: tl.int32, temperature_t: tl.float32, temperature_u: tl.float32,
    softcap_t: tl.float32, softcap_u: tl.float32,
    TARGETS: tl.constexpr, SPLIT: tl.constexpr, THREADS: tl.constexpr, STAGES: tl.constexpr,
    SOFTCAP_T: tl.constexpr, ALIGNED_T: tl.constexpr, WIDE_T: tl.constexpr,
    VECTOR_T: tl.constexpr, LEAVES_T: tl.constexpr,
    SOFTCAP_U: tl.constexpr, ALIGNED_U: tl.constexpr, WIDE_U: tl.constexpr,
    VECTOR_U: tl.constexpr, LEAVES_U: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    per_row = 1 if TARGETS == 1 else per_row  # known, so that there is no loop over targets
    base_t = tuned + row * stride_t
    base_u = untuned + row * stride_u
    t_t = row_temperature(temperature_t, rows_t, row)
    t_u = row_temperature(temperature_u, rows_u, row)
    leaves_t = tl.cdiv(valid_t, LEAF)
    leaves_u = tl.cdiv(valid_u, LEAF)
    if SPLIT:
        both = leaves_t + leaves_u
        m, s, u = load_partials(partials, row, 0, leaves_t, both, LEAVES_T)
        m_t, s_t, _ = combine(m, s, u, t_t)
        m, s, u = load_partials(partials, row, leaves_t, leaves_u, both, LEAVES_U)
        m_u, s_u, _ = combine(m, s, u, t_u)
    else:
        m, s, u = fold_row(
            base_t, valid_t, 0, leaves_t, exponent_scale(t_t), softcap_t,
            SOFTCAP_T, False, ALIGNED_T, WIDE_T, VECTOR_T, THREADS, LEAVES_T, STAGES,
        )  # fmt: skip
        m_t, s_t, _ = combine(m, s, u, t_t)
        m, s, u = fold_row(
            base_u, valid_u, 0, leaves_u, exponent_scale(t_u), softcap_u,
            SOFTCAP_U, False, ALIGNED_U, WIDE_U, VECTOR_U, THREADS, LEAVES_U, STAGES,
        )  # fmt: skip
        m_u, s_u, _ = combine(m, s, u, t_u)
    tl.store(m_t_out + row, m_t)
    tl.store(s_t_out + row, s_t)
    tl.store(m_u_out + row, m_u)
    tl.store(s_u_out + row, s_u)
    log_s = log_sum(m_t, s_t) - log_sum(m_u, s_u)
    vocab = tl.minimum(valid_t, valid_u)
    for first in range(0, per_row, TARGETS):
        k = first + tl.arange(0, TARGETS)
        here = k < per_row
        ids = tl.load(target + row * per_row + k, mask=here, other=0).to(tl.int64)
        z_t = target_logits(base_t, ids, valid_t, softcap_t, SOFTCAP_T)
        z_u = target_logits(base_u, ids, valid_u, softcap_u, SOFTCAP_U)
        found = (log_ratio(z_t, m_t, t_t) - log_ratio(z_u, m_u, t_u)) - log_s
        tl.store(value + row * per_row + k, mark(found, ids, vocab), mask=here)


def logprob_diff(
    tuned: Tensor,  # [N, V]
    untuned: Tensor,  # [N, V']
    target: Tensor,  # [N, K]
    temperature_t: float,
    temperature_u: float,
    rows_t: Tensor | None,  # [N] fp32
    rows_u: Tensor | None,
    softcap_t: float,
    softcap_u: float,
    valid_t: int,
    valid_u: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`ops.logprob_diff` on the Triton backend: (differences, m_t, s_t, m_u, s_u)."""
    device, (rows, per_row) = tuned.device, target.shape
    value = torch.empty(target.shape, dtype=torch.float32, device=device)
    m_t, m_u = (torch.empty(rows, dtype=torch.float32, device=device) for _ in range(2))
    s_t, s_u = (torch.empty(rows, dtype=torch.float64, device=device) for _ in range(2))
    how_t = plan(tuned, valid_t, softcap_t, False)
    how_u = plan(untuned, valid_u, softcap_u, False)
    code, warps = _of_both(how_t, how_u)
    types = (tuned.dtype, untuned.dtype, target.dtype, rows_t is None, rows_u is None)
    scalars = (temperature_t, temperature_u, softcap_t, softcap_u)
    strides = (tuned.stride(0), untuned.stride(0), valid_t, valid_u)

    leaves_t, leaves_u = how_t.leaves, how_u.leaves
    per_program = min(how_t.per_program, how_u.per_program)
    partials = None
    if per_program < max(leaves_t, leaves_u):
        partials = torch.empty(rows, 3, leaves_t + leaves_u, dtype=torch.float32, device=device)
        launch(
            _partials,
            (rows, -(-leaves_t // per_program) - (-leaves_u // per_program), 1),
            device,
            (tuned, untuned, partials, rows_t, rows_u, *strides, per_program, *scalars, *code),
            (*types, code),
            warps=warps,
        )
    targets = 1 if per_row == 1 else 16
    launch(
        _forward,
        (rows, 1, 1),
        device,
        (tuned, untuned, target, value, m_t, s_t, m_u, s_u, partials, rows_t, rows_u, *strides,
         per_row, *scalars, targets, partials is not None, *code),
        (*types, targets, partials is None, code),
        warps=warps if partials is None else 1,  # few leaves to combine, no more
    )  # fmt: skip
    return value, m_t, s_t, m_u, s_u


@functools.lru_cache(maxsize=4096)
def _of_both(tuned: Plan, untuned: Plan) -> tuple[tuple[int, ...], int]:
    """Constants and warps of the pair: one number of warps for two dtypes, whichever is which.

    So swapping the models changes no bits.
    """
    warps = max(tuned.warps, untuned.warps)
    stages = min(tuned.code.stages, untuned.code.stages)
    return (32 * warps, stages, *_of_side(tuned.code), *_of_side(untuned.code)), warps


def _of_side(found: Constants) -> tuple[bool, bool, bool, int, int]:
    return found.softcap, found.aligned, found.wide_tail, found.vector, found.leaves


def logprob_diff_backward(
    grad: Tensor,  # [N, K]
    tuned: Tensor,
    untuned: Tensor,
    target: Tensor,
    m_t: Tensor,
    s_t: Tensor,
    m_u: Tensor,
    s_u: Tensor,
    temperature_t: float,
    temperature_u: float,
    rows_t: Tensor | None,
    rows_u: Tensor | None,
    softcap_t: float,
    softcap_u: float,
    valid_t: int,
    valid_u: int,
    need_t: bool,
    need_u: bool,
) -> tuple[Tensor, Tensor]:
    """The gradient of `logprob_diff` in both models' logits; `[0, V]` where none is needed."""
    vocab = min(valid_t, valid_u)
    grad_t = gradient(
        grad, None, tuned if need_t else tuned[:0], target, m_t, s_t, None, temperature_t, rows_t,
        softcap_t, valid_t, vocab=vocab,
    )  # fmt: skip
    grad_u = gradient(
        grad, None, untuned if need_u else untuned[:0], target, m_u, s_u, None, temperature_u,
        rows_u, softcap_u, valid_u, vocab=vocab, sign=-1.0,
    )  # fmt: skip
    return grad_t, grad_u


def aot_cases() -> list[AotEntry]:
    """The kernels of rows of 128256 columns, for `w2s_kernels.aot`."""
    found = []
    for name, dtype_t, dtype_u, options in (
        ("bf16", "bf16", "bf16", {}),
        ("fp16", "fp16", "fp16", {}),
        ("fp32", "fp32", "fp32", {}),
        ("bf16 and fp32", "bf16", "fp32", {}),
        ("bf16, softcap", "bf16", "bf16", {"softcap": True}),
        ("bf16, rows not aligned: scalar loads", "bf16", "bf16", {"aligned": False}),
    ):
        (code_t, warps), (code_u, _) = (
            example_constants(dtype, **options) for dtype in (dtype_t, dtype_u)
        )
        sides = zip(("T", "U"), (_of_side(code_t), _of_side(code_u)), strict=True)
        names = ("SOFTCAP", "ALIGNED", "WIDE", "VECTOR", "LEAVES")
        constants = {"THREADS": code_t.threads, "STAGES": code_t.stages} | {
            f"{constant}_{side}": value
            for side, values in sides
            for constant, value in zip(names, values, strict=True)
        }
        pointers = {
            "tuned": f"*{dtype_t}", "untuned": f"*{dtype_u}", "target": "*i64", "value": "*fp32",
            "m_t_out": "*fp32", "s_t_out": "*fp64", "m_u_out": "*fp32", "s_u_out": "*fp64",
            "partials": None, "rows_t": None, "rows_u": None,
        }  # fmt: skip
        whole = {"TARGETS": 1, "SPLIT": False, **constants}
        found.append(offer(f"forward {name}", _forward, pointers, whole, warps))
        if name == "bf16":
            pointers["partials"] = "*fp32"
            combined = {**whole, "SPLIT": True}
            found.append(offer("few rows bf16", _partials, pointers, constants, warps))
            found.append(offer("few rows combined, scalar", _forward, pointers, combined, 1))
    return found
