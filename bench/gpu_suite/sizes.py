"""What is measured: every row of the targets for GPUs whose op is here, and its neighbours."""

from dataclasses import dataclass, replace

import torch

from w2s_kernels.bench.case import Size

_BF16, _FP32 = torch.bfloat16, torch.float32
_LOGITS = "ours,triton,reference,eager,compile,liger,quack,trl"
_HEADS = (
    "ours,triton,invariant,eager,compile,F.linear_cross_entropy,cut-cross-entropy,liger fused,"
    "products native"
)
_SAMPLERS = "ours,cuda,reference,processors,flashinfer,sum of the inputs"


@dataclass(frozen=True)
class Measured:
    """One op at one size. target: what it is held to, empty where the targets do not say; judged in
    `verdicts.py`."""

    op: str
    size: Size
    providers: str
    target: str = ""


def _gpu(rows: int, vocab: int, dtype: torch.dtype, dim: int = 0, k: int = 50) -> Size:
    return Size(rows, vocab, dim, k, dtype, "cuda")


LOGITS = (
    Measured("logprob_diff", _gpu(4096, 128256, _BF16), _LOGITS, "92 % of reading"),
    Measured("logprob_diff", _gpu(512, 128256, _BF16), _LOGITS, "92 % of reading"),
    Measured("logprob_diff", _gpu(2048, 128256, _FP32), _LOGITS, "92 % of reading"),
    Measured("logprob_diff", _gpu(16, 128256, _BF16), _LOGITS),
    Measured("logprob_diff", _gpu(64, 49152, _BF16), _LOGITS),
    Measured("logprob", _gpu(4096, 128256, _BF16), _LOGITS, "92 % of reading"),
    Measured("logprob_stats", _gpu(4096, 128256, _BF16), "ours,triton,reference,eager,compile"),
)
FEW_ROWS = (
    Measured("linear_logprob_diff", _gpu(16, 128256, _BF16, 4096), _HEADS, "85 % of reading"),
    Measured("linear_logprob_diff", _gpu(64, 128256, _BF16, 4096), _HEADS, "85 % of reading"),
    Measured("linear_logprob_diff", _gpu(1, 128256, _BF16, 4096), _HEADS),
    Measured("linear_logprob", _gpu(16, 128256, _BF16, 4096), _HEADS),
    Measured("linear_logprob_diff", _gpu(16, 49152, _BF16, 576), _HEADS),
)
MANY_ROWS = (
    Measured("linear_logprob_diff", _gpu(512, 128256, _BF16, 4096), _HEADS, "1.20 products"),
    Measured("linear_logprob_diff", _gpu(4096, 128256, _BF16, 4096), _HEADS, "1.20 products"),
    Measured("linear_logprob", _gpu(4096, 128256, _BF16, 4096), _HEADS),
)
STEP = (
    Measured("guided_sample", _gpu(64, 131072, _FP32, k=0), _SAMPLERS, "30 µs"),
    Measured("guided_sample", _gpu(64, 131072, _FP32, k=50), _SAMPLERS, "50 µs"),
    Measured("guided_topk", _gpu(64, 131072, _FP32, k=50), "ours,cuda,reference,eager,compile"),
    Measured("guided_logits", _gpu(64, 131072, _FP32), "ours,cuda,reference,eager,compile"),
    Measured("select_beams", _gpu(64, 0, _FP32), "ours,cuda,reference,topk alone"),
    Measured("gather_beams_", _gpu(16, 0, _BF16, k=5), "ours,cuda,reference,index_select of all"),
    Measured("segment_score_", _gpu(1024, 0, _FP32), "ours,cuda,reference,eager"),
)


def tiny(given: Measured, device: str) -> Measured:
    """The same on a size that any machine does in a moment, without compiling: to try the suite."""
    size = given.size
    return replace(
        given,
        providers=",".join(name for name in given.providers.split(",") if name != "compile"),
        size=replace(
            size,
            rows=min(size.rows, 4),
            vocab=min(size.vocab, 700),
            dim=min(size.dim, 24),
            k=min(size.k, 5),
            device=device,
        ),
    )
