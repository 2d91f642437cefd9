"""logprob: one read of a row gives its statistics, its K targets' log-probs and its entropy."""

import torch
import triton.language as tl
from torch import Tensor

from .common import (
    entropy_of,
    exponent_scale,
    log_ratio,
    log_sum,
    mark,
    row_temperature,
    target_logits,
)
from .gradient import gradient, gradient_cases
from .launch import kernel, launch
from .offer import AotEntry, example_constants, offer
from .rows import partials_of_rows, plan, row_stats, split


@kernel
def _forward(
    logits, target, value, m_out, s_out, entropy, partials, temperature_rows,
    stride: tl.int64, valid: tl.int32, per_row: tl.int32,
    temperature: tl.float32, softcap: tl.float32,
    TARGETS: tl.constexpr, SPLIT: tl.constexpr,
    SOFTCAP: tl.constexpr, ENTROPY: tl.constexpr, ALIGNED: tl.constexpr, WIDE_TAIL: tl.constexpr,
    VECTOR: tl.constexpr, THREADS: tl.constexpr, LEAVES: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    per_row = 1 if TARGETS == 1 else per_row  # known, so that there is no loop over targets
    base = logits + row * stride
    t = row_temperature(temperature, temperature_rows, row)
    m, s, u = row_stats(
        base, partials, row, valid, t, exponent_scale(t), softcap, SPLIT,
        SOFTCAP, ENTROPY, ALIGNED, WIDE_TAIL, VECTOR, THREADS, LEAVES, STAGES,
    )  # fmt: skip
    tl.store(m_out + row, m)
    tl.store(s_out + row, s)
    if ENTROPY:
        tl.store(entropy + row, entropy_of(s, u).to(tl.float32))
    log_s = log_sum(m, s)
    for first in range(0, per_row, TARGETS):
        k = first + tl.arange(0, TARGETS)
        here = k < per_row
        ids = tl.load(target + row * per_row + k, mask=here, other=0).to(tl.int64)
        z_target = target_logits(base, ids, valid, softcap, SOFTCAP)
        found = mark(log_ratio(z_target, m, t) - log_s, ids, valid)
        tl.store(value + row * per_row + k, found, mask=here)


def logprob(
    logits: Tensor,  # [N, V]
    target: Tensor,  # [N, K]
    temperature: float,
    temperature_rows: Tensor | None,  # [N] fp32
    softcap: float,
    valid_vocab: int,
    entropy: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`ops.logprob` on the Triton backend: (log-probs, m, s, entropy)."""
    rows, per_row = target.shape
    value = torch.empty(target.shape, dtype=torch.float32, device=logits.device)
    m = torch.empty(rows, dtype=torch.float32, device=logits.device)
    s = torch.empty(rows, dtype=torch.float64, device=logits.device)
    h = torch.empty(rows if entropy else 0, dtype=torch.float32, device=logits.device)
    how = plan(logits, valid_vocab, softcap, entropy)
    partials = split(logits, valid_vocab, temperature, temperature_rows, softcap, how)
    targets = 1 if per_row == 1 else 16
    launch(
        _forward,
        (rows, 1, 1),
        logits.device,
        (logits, target, value, m, s, h, partials, temperature_rows, logits.stride(0), valid_vocab,
         per_row, temperature, softcap, targets, partials is not None, *how.code),
        (logits.dtype, target.dtype, temperature_rows is None, targets, partials is None, how.code),
        warps=how.warps if partials is None else 1,  # few leaves to combine, no more
    )  # fmt: skip
    return value, m, s, h


def logprob_backward(
    grad: Tensor,  # [N, K]
    grad_entropy: Tensor | None,  # [N]
    logits: Tensor,  # [N, V]
    target: Tensor,  # [N, K]
    m: Tensor,  # [N]
    s: Tensor,  # [N]
    entropy: Tensor | None,  # [N]
    temperature: float,
    temperature_rows: Tensor | None,  # [N]
    softcap: float,
    valid_vocab: int,
) -> Tensor:
    """The gradient of `logprob` with respect to its logits, contiguous."""
    return gradient(
        grad, grad_entropy, logits, target, m, s, entropy, temperature, temperature_rows, softcap,
        valid_vocab, vocab=valid_vocab,
    )  # fmt: skip


def aot_cases() -> list[AotEntry]:
    """The kernels of rows of 128256 columns, for `w2s_kernels.aot`."""
    found = []
    for name, dtype, options in (
        ("bf16", "bf16", {}),
        ("fp16", "fp16", {}),
        ("fp32", "fp32", {}),
        ("bf16, softcap and entropy", "bf16", {"softcap": True, "entropy": True}),
        ("fp32, softcap and entropy", "fp32", {"softcap": True, "entropy": True}),
        ("bf16, rows not aligned: scalar loads", "bf16", {"aligned": False}),
        ("fp32, rows not aligned: scalar loads", "fp32", {"aligned": False}),
    ):
        code, warps = example_constants(dtype, **options)
        pointers = {
            "logits": f"*{dtype}", "target": "*i64", "value": "*fp32", "m_out": "*fp32",
            "s_out": "*fp64", "entropy": "*fp32", "partials": None, "temperature_rows": None,
        }  # fmt: skip
        constants = {"TARGETS": 1, "SPLIT": False, **code.named()}
        found.append(offer(f"forward {name}", _forward, pointers, constants, warps))
        if code.aligned:
            pointers["partials"] = "*fp32"
            found.append(offer(f"few rows {name}", partials_of_rows, pointers, code.named(), warps))
    code, _ = example_constants("bf16", entropy=True)
    constants = {"TARGETS": 16, "SPLIT": True, **code.named()}
    pointers |= {"partials": "*fp32", "temperature_rows": "*fp32"}
    found.append(offer("few rows combined, scalar", _forward, pointers, constants, 1))
    return [*found, *gradient_cases()]
