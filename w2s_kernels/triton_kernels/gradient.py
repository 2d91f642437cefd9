"""The gradient of a row's log-probs (and entropy) with respect to its logits, from saved (m, s).

Numerics rule 11: ∂/∂z_j = g·(1[j = target] − p_j)/T, through the softcap. With e = exp((z − m)/T)
that is e·(a + b·(z − m)/T), a and b once a row in fp64, and what the targets' own columns get on
top. Nothing is summed over columns, so a row may be cut anywhere.
"""

import torch
import triton
import triton.language as tl

from .common import IGNORE_INDEX, INF, LEAF, LN2, effective, exponent_scale, row_temperature
from .launch import aligned, kernel, launch
from .offer import WIDTH, AotEntry, offer
from .rows import leaf_count, leaves_per_program
from .settings import for_arch, settings


@triton.jit
def _at(z, m, scale, a, b, delta, softcap, SOFTCAP: tl.constexpr, ENTROPY: tl.constexpr):
    """fp32 gradient at effective logits z, with `delta` added before the softcap's own slope."""
    y = (z - m) * scale
    factor = a
    if ENTROPY:
        factor = a + b * tl.maximum(y, -200.0)  # 0·−inf is NaN
    g = tl.exp2(y) * factor + delta
    if SOFTCAP:
        slope = tl.maximum(z / softcap, -1.0)
        g = g * (1.0 - slope * slope)
    return g


@triton.jit
def _row_law(
    target, grad, grad_entropy, entropy, s, temperature, vocab, per_row,
    TARGETS: tl.constexpr, ENTROPY: tl.constexpr,
):  # fmt: skip
    """(a, b, used, invalid) of a row whose targets, gradients and statistics begin here."""
    total = 0.0 * temperature
    used = 0
    invalid = 0
    for first in range(0, per_row, TARGETS):
        k = first + tl.arange(0, TARGETS)
        ids = tl.load(target + k, mask=k < per_row, other=IGNORE_INDEX).to(tl.int64)
        counts = ids != IGNORE_INDEX
        g = tl.load(grad + k, mask=k < per_row, other=0.0)
        total += tl.sum(tl.where(counts, g, 0.0).to(tl.float64), axis=0)
        used = tl.maximum(used, tl.max(counts.to(tl.int32), axis=0))
        outside = counts & ((ids < 0) | (ids >= vocab))
        invalid = tl.maximum(invalid, tl.max(outside.to(tl.int32), axis=0))
    b = 0.0 * temperature
    if ENTROPY:
        g_entropy = tl.load(grad_entropy).to(tl.float64)
        used = tl.maximum(used, (g_entropy != 0.0).to(tl.int32))
        total += g_entropy * (tl.load(entropy).to(tl.float64) - tl.log(s))
        b = -g_entropy * LN2 / (s * temperature)
    return -total / (s * temperature), b, used, invalid


@kernel
def _gradient(
    logits, out, target, grad, grad_entropy, m_in, s_in, entropy, temperature_rows,
    stride: tl.int64, columns: tl.int32, valid: tl.int32, vocab: tl.int32, per_row: tl.int32,
    per_program: tl.int32, temperature: tl.float32, softcap: tl.float32, sign: tl.float32,
    TARGETS: tl.constexpr, SOFTCAP: tl.constexpr, ENTROPY: tl.constexpr, WIDE: tl.constexpr,
    VECTOR: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    per_row = 1 if TARGETS == 1 else per_row  # known, so that there is no loop over targets
    t = row_temperature(temperature, temperature_rows, row)
    m = tl.load(m_in + row)
    target += row * per_row
    grad += row * per_row
    if ENTROPY:
        grad_entropy += row
        entropy += row
    a, b, used, invalid = _row_law(
        target, grad, grad_entropy, entropy, tl.load(s_in + row), t, vocab, per_row,
        TARGETS, ENTROPY,
    )  # fmt: skip
    scale = exponent_scale(t)
    a = (a * sign).to(tl.float32)
    b = (b * sign).to(tl.float32)
    base = logits + row * stride
    out += row * columns
    first = tl.program_id(1) * per_program
    last = tl.minimum(first + per_program, tl.cdiv(columns, LEAF))
    at = tl.arange(0, LEAF)
    # Ignored rows are exactly zero, whatever they hold; a NaN row and an invalid target are NaN.
    alive = (used > 0) & (invalid == 0) & (m > -INF)
    if alive:
        only = tl.load(target).to(tl.int64) if TARGETS == 1 else 0
        g_only = (tl.load(grad).to(tl.float64) * sign / t).to(tl.float32) if TARGETS == 1 else 0.0
        for i in tl.range(first, last, num_stages=STAGES):
            here = base + i * LEAF
            there = out + i * LEAF
            left = valid - i * LEAF
            room = columns - i * LEAF
            if WIDE:
                here = tl.multiple_of(here, 16)
                there = tl.multiple_of(there, 16)
                left = tl.multiple_of(left, VECTOR)
                room = tl.multiple_of(room, VECTOR)
            z = tl.load(here + at, mask=at < left, other=-INF, eviction_policy="evict_first")
            z = effective(z.to(tl.float32), softcap, SOFTCAP)
            delta = 0.0
            if TARGETS == 1:  # −100 and a target in another model's columns are no column here
                delta = tl.where(at == only - i * LEAF, g_only, 0.0)
            g = _at(z, m, scale, a, b, delta, softcap, SOFTCAP, ENTROPY)
            tl.store(there + at, tl.where(at < left, g, 0.0), mask=at < room)
        if TARGETS > 1:
            tl.debug_barrier()  # the targets' own columns are stored again, by other threads
            _store_targets(
                base, out, target, grad, m, t, scale, a, b, sign, first * LEAF,
                tl.minimum(last * LEAF, valid), per_row, softcap, TARGETS, SOFTCAP, ENTROPY,
            )  # fmt: skip
    else:
        fill = tl.where(used > 0, float("nan"), 0.0)
        for i in range(first, last):
            there = out + i * LEAF
            left = valid - i * LEAF
            room = columns - i * LEAF
            if WIDE:
                there = tl.multiple_of(there, 16)
                left = tl.multiple_of(left, VECTOR)
                room = tl.multiple_of(room, VECTOR)
            tl.store(there + at, tl.where(at < left, fill, 0.0), mask=at < room)


@triton.jit
def _store_targets(
    base, out, target, grad, m, temperature, scale, a, b, sign, begin, end, per_row, softcap,
    TARGETS: tl.constexpr, SOFTCAP: tl.constexpr, ENTROPY: tl.constexpr,
):  # fmt: skip
    """Stores the targets' own columns in [begin, end); one named twice gets both gradients."""
    for first in range(0, per_row, TARGETS):
        k = first + tl.arange(0, TARGETS)
        ids = tl.load(target + k, mask=k < per_row, other=IGNORE_INDEX).to(tl.int64)
        mine = (ids >= begin) & (ids < end)
        if tl.max(mine.to(tl.int32), axis=0) > 0:
            delta = tl.zeros([TARGETS], tl.float64)
            for other in range(0, per_row, TARGETS):
                j = other + tl.arange(0, TARGETS)
                js = tl.load(target + j, mask=j < per_row, other=IGNORE_INDEX).to(tl.int64)
                g = tl.load(grad + j, mask=j < per_row, other=0.0).to(tl.float64)
                delta += tl.sum(tl.where(ids[:, None] == js[None, :], g[None, :], 0.0), axis=1)
            z = tl.load(base + ids, mask=mine, other=-INF).to(tl.float32)
            z = effective(z, softcap, SOFTCAP)
            delta = (delta * sign / temperature).to(tl.float32)
            found = _at(z, m, scale, a, b, delta, softcap, SOFTCAP, ENTROPY)
            tl.store(out + ids, found, mask=mine)


def gradient(
    grad: torch.Tensor,  # [N, K]
    grad_entropy: torch.Tensor | None,  # [N]
    logits: torch.Tensor,  # [N, V]
    target: torch.Tensor,  # [N, K]
    m: torch.Tensor,  # [N] fp32
    s: torch.Tensor,  # [N] fp64
    entropy: torch.Tensor | None,  # [N]
    temperature: float,
    temperature_rows: torch.Tensor | None,  # [N] fp32
    softcap: float,
    valid: int,
    *,
    vocab: int,
    sign: float = 1.0,
) -> torch.Tensor:
    """sign·∂(Σ grad·logprob + grad_entropy·entropy)/∂logits, contiguous, in the logits' dtype.

    A target outside [0, vocab) other than −100 makes its row NaN; columns from `valid` on are 0.
    """
    rows, columns = logits.shape
    out = torch.empty((rows, columns), dtype=logits.dtype, device=logits.device)
    chosen = settings(logits.device, logits.dtype)
    vector = 16 // logits.itemsize
    wide = aligned(logits, out) and valid % vector == 0 and columns % vector == 0
    leaves = leaf_count(columns)
    per_program = leaves_per_program(rows, leaves, chosen.programs)
    targets = 1 if target.shape[1] == 1 else 16
    has_entropy = grad_entropy is not None
    code = (targets, softcap > 0, has_entropy, wide, vector, chosen.backward_stages)
    launch(
        _gradient,
        (rows, -(-leaves // per_program), 1),
        logits.device,
        (logits, out, target, grad, grad_entropy, m, s, entropy if has_entropy else None,
         temperature_rows, logits.stride(0), columns, valid, vocab, target.shape[1], per_program,
         temperature, softcap, sign, *code),
        (logits.dtype, target.dtype, temperature_rows is None, code),
        warps=chosen.warps,
    )  # fmt: skip
    return out


def gradient_cases() -> list[AotEntry]:
    """The kernel of rows of 128256 columns, for `w2s_kernels.aot`."""
    found = []
    for name, dtype, targets, extra in (
        ("bf16", "bf16", 1, False),
        ("fp16", "fp16", 1, False),
        ("fp32", "fp32", 1, False),
        ("bf16, K targets", "bf16", 16, False),
        ("bf16, softcap and entropy", "bf16", 1, True),
        ("fp32, softcap and entropy, K targets", "fp32", 16, True),
    ):
        chosen = for_arch(90, WIDTH[dtype], 132)
        pointers = {
            "logits": f"*{dtype}", "out": f"*{dtype}", "target": "*i64", "grad": "*fp32",
            "m_in": "*fp32", "s_in": "*fp64", "temperature_rows": None,
            "grad_entropy": "*fp32" if extra else None, "entropy": "*fp32" if extra else None,
        }  # fmt: skip
        constants = {
            "TARGETS": targets, "SOFTCAP": extra, "ENTROPY": extra, "WIDE": True,
            "VECTOR": 16 // WIDTH[dtype].itemsize, "STAGES": chosen.backward_stages,
        }  # fmt: skip
        found.append(offer(f"backward {name}", _gradient, pointers, constants, chosen.warps))
    return found
